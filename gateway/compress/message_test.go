package compress

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"math"
	"runtime"
	"testing"
)

func TestMessage(t *testing.T) {
	for name, text := range texts() {
		t.Run(name, func(t *testing.T) {
			payload := AppendMessage([]byte("before"), text)[len("before"):]
			got, err := Inflate([]byte("before"), payload, len(text))
			if err != nil || string(got) != "before"+string(text) {
				t.Fatalf("got %d bytes and %v, want the same %d", len(got), err, len(text))
			}
			got, err = Inflate([]byte("before"), payload, len(text)-1)
			if !errors.Is(err, ErrTooLarge) || string(got) != "before" {
				t.Errorf("one byte over the limit: got %d bytes and %v, want ErrTooLarge", len(got), err)
			}
		})
	}
}

func TestEmptyMessage(t *testing.T) {
	if got, err := Inflate(nil, AppendMessage(nil, nil), 0); err != nil || len(got) != 0 {
		t.Errorf("got %q and %v, want nothing", got, err)
	}
}

// What others send, and what nobody may (RFC 7692, 7.2.3).
func TestInflate(t *testing.T) {
	for _, tt := range []struct{ name, payload, want, err string }{
		{name: "one block", payload: "\xf2\x48\xcd\xc9\xc9\x07\x00", want: "Hello"},
		{name: "no compression", payload: "\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", want: "Hello"},
		{name: "BFINAL", payload: "\xf3\x48\xcd\xc9\xc9\x07\x00\x00", want: "Hello"},
		{name: "BFINAL, its byte forgotten", payload: "\xf3\x48\xcd\xc9\xc9\x07\x00", want: "Hello"},
		{name: "on after BFINAL", payload: "\xf3\x48\xcd\xc9\xc9\x07\x00\xf2\x48\xcd\xc9\xc9\x07\x00", want: "HelloHello"},
		{name: "two blocks", payload: "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", want: "Hello"},
		{name: "empty", payload: "\x00", want: ""},
		{name: "empty as zlib writes it", payload: "\x02\x00", want: ""},
		{name: "no bytes at all", payload: "", err: "corrupt"},
		{name: "a context that there is none of", payload: "\xf2\x00\x11\x00\x00", err: "corrupt"},
		{name: "an impossible block", payload: "\x07", err: "corrupt"},
		{name: "cut off", payload: "\x00\x0f\x00\xf0\xff\x48", err: "unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Inflate(nil, []byte(tt.payload), 100)
			if tt.err != "" {
				if err == nil || !bytes.Contains([]byte(err.Error()), []byte(tt.err)) || errors.Is(err, ErrTooLarge) {
					t.Fatalf("got %q and %v, want an error with %q", got, err, tt.err)
				}
				return
			}
			if err != nil || string(got) != tt.want {
				t.Errorf("got %q and %v, want %q", got, err, tt.want)
			}
		})
	}
}

// A payload that inflates a thousandfold costs no more than the limit.
func TestInflateBomb(t *testing.T) {
	bomb := AppendMessage(nil, make([]byte, 64<<20))
	const limit = 100_000
	taken := func() uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if got, err := Inflate(nil, bomb, limit); !errors.Is(err, ErrTooLarge) || got != nil {
			t.Errorf("got %d bytes and %v, want ErrTooLarge", len(got), err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	taken() // the decoder itself
	// The last room, and those before it that were outgrown.
	if got := taken(); got > 3*limit {
		t.Errorf("took %d bytes of memory, want at most %d", got, 3*limit)
	}
	room := make([]byte, 10, 1<<20)
	if _, err := Inflate(room, bomb, limit); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	for i, c := range room[:cap(room)][10+limit:] {
		if c != 0 {
			t.Fatalf("wrote %d bytes past the limit", i+1)
		}
	}
}

func TestInflateLimits(t *testing.T) {
	payload := AppendMessage(nil, []byte("hello"))
	if got, err := Inflate(nil, payload, math.MaxInt); err != nil || string(got) != "hello" {
		t.Errorf("no limit: got %q and %v", got, err)
	}
	if _, err := Inflate(nil, payload, 0); !errors.Is(err, ErrTooLarge) {
		t.Errorf("limit 0: got %v, want ErrTooLarge", err)
	}
}

func FuzzInflate(f *testing.F) {
	f.Add([]byte("\xf2\x48\xcd\xc9\xc9\x07\x00"), 100)
	f.Add([]byte("\xf3\x48\xcd\xc9\xc9\x07\x00\x00"), 5)
	f.Add([]byte("\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"), 4)
	f.Add([]byte("\x00"), 0)
	f.Add([]byte(""), 1)
	f.Add([]byte("\x03\x00\x03\x00\x03\x00"), 1)
	f.Add(AppendMessage(nil, messages(3)), 1000)
	f.Add(AppendMessage(nil, make([]byte, 100_000)), 10_000)
	f.Fuzz(func(t *testing.T, payload []byte, limit int) {
		limit = max(0, min(limit, 1<<20))
		got, err := Inflate([]byte("before"), payload, limit)
		if !bytes.HasPrefix(got, []byte("before")) || len(got) > limit+len("before") || cap(got) > limit+len("before")+16 {
			t.Fatalf("limit %d: got %d bytes in %d", limit, len(got), cap(got))
		}
		got = got[len("before"):]
		if err != nil {
			if len(got) != 0 {
				t.Fatalf("got %q together with %v", got, err)
			}
			return
		}
		// The standard library agrees on the first stream. One that ends early
		// for it, by BFINAL, is the beginning.
		want, err := io.ReadAll(flate.NewReader(bytes.NewReader(append(payload[:len(payload):len(payload)], inflateTail...))))
		if err != nil || !bytes.HasPrefix(got, want) {
			t.Fatalf("got %q, the standard library %q and %v", got, want, err)
		}
		// What was inflated comes back the same way.
		again, err := Inflate(nil, AppendMessage(nil, got), limit)
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("again: got %q and %v, want %q", again, err, got)
		}
	})
}
