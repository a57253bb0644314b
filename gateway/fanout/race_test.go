//go:build race

package fanout

func init() { raceEnabled = true }
