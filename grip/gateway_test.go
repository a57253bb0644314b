package grip

import (
	"net/http"
	"testing"
)

func TestFromLink(t *testing.T) {
	if FromLink(t.Context()) {
		t.Error("got true for a context that nobody marked")
	}
	if !FromLink(WithLink(t.Context())) {
		t.Error("got false for a context of our own")
	}
	// What comes over the wire must not be able to claim it.
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/?linkKey=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Grip-Link", "true")
	if FromLink(r.Context()) {
		t.Error("got true for a request from outside")
	}
}
