package ws

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestHeader has the examples of RFC 6455, 5.7, and the borders between the
// forms of a length.
func TestHeader(t *testing.T) {
	for _, tt := range []struct {
		name       string
		op         Op
		compressed bool
		n          int
		want       string
	}{
		{"text", OpText, false, 5, "8105"},
		{"empty ping", OpPing, false, 0, "8900"},
		{"pong", OpPong, false, 5, "8a05"},
		{"compressed text", OpText, true, 7, "c107"},
		{"longest in one byte", OpBinary, false, 125, "827d"},
		{"shortest in two bytes", OpBinary, false, 126, "827e007e"},
		{"256 bytes", OpBinary, false, 256, "827e0100"},
		{"longest in two bytes", OpBinary, false, 65535, "827effff"},
		{"64 KiB", OpBinary, false, 65536, "827f0000000000010000"},
		{"compressed and huge", OpBinary, true, 1 << 32, "c27f0000000100000000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := AppendHeader([]byte("x"), tt.op, tt.compressed, tt.n)
			if want := "x" + unhex(t, tt.want); string(got) != want {
				t.Errorf("appended %x, want %x", got, want)
			}
			if got, want := HeaderLen(tt.n), len(tt.want)/2; got != want {
				t.Errorf("length %d, want %d", got, want)
			}
			dst := bytes.Repeat([]byte{0xee}, 16)
			n := PutHeader(dst, tt.op, tt.compressed, tt.n)
			if got, want := hex.EncodeToString(dst[:n]), tt.want; got != want {
				t.Errorf("put %s, want %s", got, want)
			}
			if rest := dst[n:]; !bytes.Equal(rest, bytes.Repeat([]byte{0xee}, len(rest))) {
				t.Errorf("wrote behind the header: %x", dst)
			}
		})
	}
}

func TestAppendFrame(t *testing.T) {
	got := AppendFrame(AppendFrame(nil, OpText, []byte("Hello")), OpPing, nil)
	if want := unhex(t, "810548656c6c6f8900"); string(got) != want {
		t.Errorf("got %x, want %x", got, want)
	}
}

// What a client sends is what a Reader for a server's side reads, and the other
// way round.
func TestAppendMasked(t *testing.T) {
	for _, n := range []int{0, 1, 7, 8, 125, 126, 1000} {
		payload := strings.Repeat("x", n)
		frame := string(AppendMasked(nil, OpText, []byte(payload), 0x01020304))
		if got, want := heard(t, plain, frame), fmt.Sprintf("%d %q\n", OpText, payload); got != want {
			t.Errorf("%d bytes: got %s, want %s", n, got, want)
		}
		if n > 7 && strings.Contains(frame, "xxxx") {
			t.Errorf("%d bytes: not masked", n)
		}
	}
}

func TestAppendClose(t *testing.T) {
	const code1000 = "\x03\xe8"
	for _, tt := range []struct {
		name   string
		code   int
		reason string
		want   string // the payload
	}{
		{"code alone", 1000, "", code1000},
		{"code and reason", 1000, "bye", code1000 + "bye"},
		{"no code", 0, "lost", ""},
		{"no status", CodeNoStatus, "lost", ""},
		{"abnormal must not be sent", 1006, "lost", ""},
		{"TLS failure must not be sent", 1015, "", ""},
		{"application's", 4999, "", "\x13\x87"},
		{"reason just fits", 1000, strings.Repeat("x", 123), code1000 + strings.Repeat("x", 123)},
		{"reason cut", 1000, strings.Repeat("x", 124), code1000 + strings.Repeat("x", 123)},
		{"cut before a character of two bytes", 1000, strings.Repeat("x", 122) + "é", code1000 + strings.Repeat("x", 122)},
		{"cut before a character of four bytes", 1000, strings.Repeat("x", 120) + "🦀!", code1000 + strings.Repeat("x", 120)},
		{"not UTF-8", 1000, "a\xffb", code1000 + "a\ufffdb"},
		{"no character at all", 1000, strings.Repeat("\x80", 200), code1000 + "\ufffd"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := string(AppendClose(nil, tt.code, tt.reason))
			want := string(AppendFrame(nil, OpClose, []byte(tt.want)))
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// FuzzAppendClose looks for a close frame that a client would refuse.
func FuzzAppendClose(f *testing.F) {
	f.Add(1000, "bye")
	f.Add(1006, "")
	f.Add(3000, strings.Repeat("ü", 100))
	f.Add(4999, strings.Repeat("\x80", 200))
	f.Fuzz(func(t *testing.T, code int, reason string) {
		frame := AppendClose(nil, code, reason)
		payload := frame[2:]
		if len(payload) > MaxControl || int(frame[1]) != len(payload) || len(payload) == 1 {
			t.Fatalf("frame %q", frame)
		}
		got, text := ParseClose(payload)
		if want := code; ValidCode(code) && got != want || !ValidCode(code) && got != CodeNoStatus {
			t.Errorf("code %d, want %d", got, want)
		}
		if !utf8.Valid(text) {
			t.Errorf("reason %q is not UTF-8", text)
		}
	})
}

func TestValidCode(t *testing.T) {
	want := func(code int) bool {
		switch code {
		case 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014:
			return true
		}
		return code/1000 == 3 || code/1000 == 4
	}
	for code := -1; code < 1<<16; code++ {
		if got := ValidCode(code); got != want(code) {
			t.Errorf("code %d: got %t, want %t", code, got, want(code))
		}
	}
}

func TestUnmask(t *testing.T) {
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	p := make([]byte, 200)
	for i := range p {
		p[i] = byte(i * 7)
	}
	for from := range 9 {
		for n := 0; from+n <= 100; n++ {
			for cut := range n + 1 {
				got := bytes.Clone(p)
				k := unmask(got[from:from+cut], 0x3d21fa37)
				unmask(got[from+cut:from+n], k)
				for i := range p {
					want := p[i]
					if i >= from && i < from+n {
						want ^= key[(i-from)%4]
					}
					if got[i] != want {
						t.Fatalf("%d bytes from %d, cut at %d: byte %d is %x, want %x", n, from, cut, i, got[i], want)
					}
				}
			}
		}
	}
}

func unhex(t testing.TB, s string) string {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func BenchmarkAppendFrame(b *testing.B) {
	for _, size := range []int{64, 128, 4096} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			payload := make([]byte, size)
			dst := make([]byte, 0, size+maxHeader)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				dst = AppendFrame(dst[:0], OpText, payload)
			}
		})
	}
}

func BenchmarkUnmask(b *testing.B) {
	for _, size := range []int{8, 64, 1024, 65536} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			p := make([]byte, size)
			b.SetBytes(int64(size))
			for b.Loop() {
				unmask(p, 0x3d21fa37)
			}
		})
	}
}
