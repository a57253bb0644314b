//go:build race

package projection

func init() { raceEnabled = true }
