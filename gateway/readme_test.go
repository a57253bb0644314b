package gateway

import (
	"os"
	"strings"
	"testing"
)

// Whoever reads a metric finds its label in the README.
func TestCloseReasonsDocumented(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range closeReasons {
		if !strings.Contains(string(text), "`"+string(reason)+"`") {
			t.Errorf("README.md has no row for the close reason %q", reason)
		}
	}
	for _, reason := range allRefusals {
		if !strings.Contains(string(text), "`"+string(reason)+"`") {
			t.Errorf("README.md has no row for the refusal %q", reason)
		}
	}
}
