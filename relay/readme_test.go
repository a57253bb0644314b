package relay

import (
	"os"
	"strings"
	"testing"

	"spillway/relay/registry"
)

// What a client can ask for, and what it can be told, stands in the README.
func TestWordsDocumented(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	words := []string{codeKafkaUnavailable, codeTopicDeleted, codeTooSlow, codeDraining, codeTooManyConnections, codeTooManyViews, codeInternal}
	for _, reason := range gapReasons {
		words = append(words, string(reason))
	}
	for _, reason := range registry.Reasons {
		words = append(words, string(reason))
	}
	for event := range reservedEvents {
		if event != "open" && event != "error" { // the browser's own
			words = append(words, event)
		}
	}
	for _, w := range words {
		if !strings.Contains(string(text), "`"+w+"`") {
			t.Errorf("README.md has no row for %q", w)
		}
	}
	for name := range params {
		if name == "access_token" || name == "lastEventId" { // taken away unread, and a second spelling
			continue
		}
		if !strings.Contains(string(text), strings.Replace(name, "<name>", "type", 1)+"=") {
			t.Errorf("README.md does not name the parameter %s", name)
		}
	}
}
