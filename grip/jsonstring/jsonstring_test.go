package jsonstring

import (
	"bytes"
	"encoding/json"
	"testing"
)

func FuzzAppend(f *testing.F) {
	for _, s := range []string{"", "plain", `"\`, "\x00\x1f\x7f", "\r\n\t\b\f", "ü\u2028\u2029\U0001F600", "\xff\xc3", "a\xe2\x80", "<&>"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, s []byte) {
		got := Append(nil, s)
		var back string
		if err := json.Unmarshal(got, &back); err != nil {
			t.Fatalf("%q → %s: %v", s, got, err)
		}
		var want string // encoding/json's opinion of the same bytes
		if err := json.Unmarshal(encoded(t, string(s)), &want); err != nil {
			t.Fatal(err)
		}
		if back != want {
			t.Errorf("%q → %s reads as %q, want %q", s, got, back, want)
		}
		if bytes.ContainsAny(got, "\r\n\u2028\u2029") {
			t.Errorf("%q → %q is not one line", s, got)
		}
		if !bytes.Equal(got, Append(nil, string(s))) {
			t.Errorf("%q: bytes and string differ", s)
		}
	})
}

func encoded(t *testing.T, s string) []byte {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAppendAllocatesNothing(t *testing.T) {
	dst, s := make([]byte, 0, 256), []byte("plain, \"quoted\", \u00fc\n")
	if n := testing.AllocsPerRun(100, func() { dst = Append(dst[:0], s) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
