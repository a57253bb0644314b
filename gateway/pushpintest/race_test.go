//go:build race

package pushpintest

func init() { raceEnabled = true }
