package relay

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

var jsonTexts = []string{
	"", " ", "{}", "[]", "null", "true", "false", "nul", "truE", "0", "-0", "01", "-", "1.", "1.5", "1e", "1e+5", "1E-05", ".5", "+1", "1 2", "0x1",
	`""`, `"`, `"a`, `"\u00e9\n\/"`, `"\u00g0"`, `"\u00`, `"\x"`, `"\`, "\"\t\"", "\"\x7f\"", "\"\xff\xc3\"", `"ü€😀"`, "\ufeff{}",
	`{"a":1}`, `{"a":1,}`, `{"a"}`, `{"a":}`, `{a:1}`, `{1:1}`, `{,}`, `{"a" : [ 1 , {"b":[]} ] , "c":{}}`, `{"a":1]`, `[1}`, `[1,]`, `[,1]`, `[[[]]]`, `[[[]]`, `]`, `}`,
	" \r\n\t[ 1,\t2 ]\r\n", "hello", "nope", "{} {}", "\u00a01", "\x00{}", "{}x", `{"a":1 "b":2}`, `[1 2]`, "[1,\v2]", `{"key":"0123456789abcdef0123456789abcdef"}`, "\"01234567\x01\"", `"0123456\"89"`,
}

func TestIsJSON(t *testing.T) {
	texts := append([]string{}, jsonTexts...)
	for _, depth := range []int{63, 64, 65, maxJSONDepth, 10_002} {
		texts = append(texts, strings.Repeat("[", depth)+strings.Repeat("]", depth), strings.Repeat(`{"a":`, depth)+"1"+strings.Repeat("}", depth),
			strings.Repeat(`[{"a":`, depth/2)+"1"+strings.Repeat("}]", depth/2))
	}
	for _, text := range texts {
		if got, want := isJSON([]byte(text)), json.Valid([]byte(text)); got != want {
			t.Errorf("%.60q is JSON: %v, want %v", text, got, want)
		}
	}
}

// The deepest value is one that clients can read wherever it is sent.
func TestDeepestJSON(t *testing.T) {
	for depth, want := range map[int]bool{maxJSONDepth: true, maxJSONDepth + 1: false} {
		value := strings.Repeat("[", depth) + strings.Repeat("]", depth)
		if got := isJSON([]byte(value)); got != want {
			t.Errorf("depth %d: got %v, want %v", depth, got, want)
		}
		r := &kgo.Record{Topic: "t", Value: []byte(value)}
		p := page{w: &writer{rendering: rendering{form: formNDJSON}, maxBytes: 1 << 20}, link: link{LongPoll: true}}
		p.add(func(dst []byte) []byte { return p.w.appendRecord(dst, overHTTP, r, nil) })
		w := httptest.NewRecorder()
		writeEvents(w, &p)
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("depth %d: the answer to a long poll is not JSON", depth)
		}
	}
}

func FuzzIsJSON(f *testing.F) {
	for _, text := range jsonTexts {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if got, want := isJSON(text), json.Valid(text); got != want {
			t.Errorf("%q is JSON: %v, want %v", text, got, want)
		}
	})
}

func BenchmarkIsJSON(b *testing.B) {
	object := `{"id":1204,"customer":"c-77","amount":12.5,"paid":true,"lines":[{"sku":"A-1","n":2},{"sku":"B-9","n":1}],"note":null}`
	for name, text := range map[string]string{"object": object, "string": `{"text":"` + strings.Repeat("x", 1000) + `"}`} {
		for _, f := range []struct {
			name  string
			valid func([]byte) bool
		}{{"isJSON", isJSON}, {"json.Valid", json.Valid}} {
			b.Run(fmt.Sprintf("text=%s/by=%s", name, f.name), func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					if !f.valid([]byte(text)) {
						b.Fatal("not JSON")
					}
				}
			})
		}
	}
}
