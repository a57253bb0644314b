package ws

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
	"unsafe"

	"spillway/gateway/compress"
)

// The limit of the tests, in bytes.
const testLimit = 1000

var (
	plain    = &Rules{Limit: testLimit}
	deflated = &Rules{Limit: testLimit, Inflate: compress.Inflate}
)

// deflate compresses a message (RFC 7692, 7.2.1).
func deflate(p string) string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.DefaultCompression)
	w.Write([]byte(p))
	w.Flush()
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

// masked is a client's frame. first is its first byte.
func masked(first byte, payload string) string {
	b := AppendHeader(nil, 0, false, len(payload))
	b[0] = first
	b[1] |= bitMask
	b = append(b, 0x37, 0xfa, 0x21, 0x3d)
	start := len(b)
	b = append(b, payload...)
	unmask(b[start:], 0x3d21fa37)
	return string(b)
}

// announced is the beginning of a client's frame, up to and with its length in
// size bytes: 2 or 8.
func announced(first byte, size int, length uint64) string {
	if size == 2 {
		return string(binary.BigEndian.AppendUint16([]byte{first, bitMask | length16}, uint16(length)))
	}
	return string(binary.BigEndian.AppendUint64([]byte{first, bitMask | length64}, length))
}

// heard is what a Reader makes of pieces: a line for each message, and one for
// an error.
func heard(t testing.TB, rules *Rules, pieces ...string) string {
	t.Helper()
	var out strings.Builder
	r := NewReader(rules)
	for _, piece := range pieces {
		err := r.Feed([]byte(piece), func(m Message) error {
			fmt.Fprintf(&out, "%d %q\n", m.Op, m.Payload)
			return nil
		})
		// Twice for the growth of a slice; the rest for a small one.
		if got, most := r.Held(), int(unsafe.Sizeof(partial{}))+keptMessage+2*rules.Limit+256; got > most {
			t.Errorf("holds %d bytes, want at most %d", got, most)
		}
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Text == "" {
				t.Fatalf("error %v, want an *Error that says something", err)
			}
			fmt.Fprintf(&out, "error %d\n", e.Code)
			if r.Held() != 0 {
				t.Errorf("holds %d bytes after an error", r.Held())
			}
			break
		}
	}
	return out.String()
}

// bytewise are the bytes of s as pieces.
func bytewise(s string) []string {
	pieces := make([]string, len(s))
	for i := range pieces {
		pieces[i] = s[i : i+1]
	}
	return pieces
}

// split cuts s in pieces, some of them empty.
func split(s string, rnd *rand.Rand) []string {
	var pieces []string
	for len(s) > 0 {
		n := min(rnd.IntN(1+rnd.IntN(20)), len(s))
		pieces = append(pieces, s[:n])
		s = s[n:]
	}
	return pieces
}

type readerCase struct {
	name  string
	rules *Rules
	in    string
	want  []string
}

func readerCases(t testing.TB) []readerCase {
	const (
		fin    = 0x80
		rsv1   = 0x40
		cont   = byte(OpContinuation)
		text   = byte(OpText)
		binary = byte(OpBinary)
		closes = fin | byte(OpClose)
		ping   = fin | byte(OpPing)
		pong   = fin | byte(OpPong)
	)
	const broken, invalid, tooBig = "error 1002", "error 1007", "error 1009"
	says := func(op Op, payload string) string { return fmt.Sprintf("%d %q", op, payload) }
	long := strings.Repeat("x", testLimit)
	noise := make([]byte, testLimit)
	rand.NewChaCha8([32]byte{}).Read(noise)
	// A block for each byte, as a client may make them that flushes each byte.
	var stored strings.Builder
	for range testLimit {
		stored.WriteString("\x00\x01\x00\xfe\xffx")
	}
	return []readerCase{
		// RFC 6455, 5.7, and the same with compression: RFC 7692, 7.2.3.
		{"masked Hello", plain, unhex(t, "818537fa213d7f9f4d5158"), []string{says(OpText, "Hello")}},
		{"fragmented Hello", plain, masked(text, "Hel") + masked(fin|cont, "lo"), []string{says(OpText, "Hello")}},
		{"ping", plain, masked(ping, "Hello"), []string{says(OpPing, "Hello")}},
		{"pong", plain, masked(pong, "Hello"), []string{says(OpPong, "Hello")}},
		{"256 bytes", plain, masked(fin|binary, long[:256]), []string{says(OpBinary, long[:256])}},
		{"compressed Hello", deflated, masked(fin|rsv1|text, unhex(t, "f248cdc9c90700")), []string{says(OpText, "Hello")}},
		{"compressed Hello in fragments", deflated, masked(rsv1|text, unhex(t, "f248cd")) + masked(fin|cont, unhex(t, "c9c90700")), []string{says(OpText, "Hello")}},
		{"compressed without compression", deflated, masked(fin|rsv1|text, unhex(t, "000500faff48656c6c6f00")), []string{says(OpText, "Hello")}},
		{"compressed with a final block", deflated, masked(fin|rsv1|text, unhex(t, "f348cdc9c9070000")), []string{says(OpText, "Hello")}},
		{"compressed in two blocks", deflated, masked(fin|rsv1|text, unhex(t, "f24805000000ffffcac9c90700")), []string{says(OpText, "Hello")}},

		// 5.2: what a frame looks like.
		{"nothing", plain, "", nil},
		{"half a header", plain, "\x81", nil},
		{"empty messages", plain, masked(fin|text, "") + masked(fin|binary, ""), []string{says(OpText, ""), says(OpBinary, "")}},
		{"many at once", plain, masked(fin|text, "a") + masked(ping, "b") + masked(fin|binary, "c"), []string{says(OpText, "a"), says(OpPing, "b"), says(OpBinary, "c")}},
		{"a message and the beginning of one", plain, masked(fin|text, "a") + masked(fin|text, "bcd")[:8], []string{says(OpText, "a")}},
		{"125 bytes", plain, masked(fin|text, long[:125]), []string{says(OpText, long[:125])}},
		{"126 bytes", plain, masked(fin|text, long[:126]), []string{says(OpText, long[:126])}},
		{"65535 bytes", &Rules{Limit: 1 << 16}, masked(fin|text, strings.Repeat("y", 65535)), []string{says(OpText, strings.Repeat("y", 65535))}},
		{"65536 bytes", &Rules{Limit: 1 << 16}, masked(fin|text, strings.Repeat("y", 65536)), []string{says(OpText, strings.Repeat("y", 65536))}},
		{"not masked", plain, "\x81\x05Hello", []string{broken}},
		{"not masked and empty", plain, "\x81\x00", []string{broken}},
		{"not masked behind a message", plain, masked(fin|text, "a") + "\x89\x00", []string{says(OpText, "a"), broken}},
		{"RSV1 without an agreement", plain, masked(fin|rsv1|text, unhex(t, "f248cdc9c90700")), []string{broken}},
		{"RSV2", deflated, masked(fin|0x20|text, "a"), []string{broken}},
		{"RSV3", deflated, masked(fin|0x10|text, "a"), []string{broken}},
		{"opcode 3", plain, masked(fin|3, "a"), []string{broken}},
		{"opcode 7", plain, masked(fin|7, "a"), []string{broken}},
		{"opcode 11", plain, masked(fin|11, "a"), []string{broken}},
		{"opcode 15", plain, masked(fin|15, "a"), []string{broken}},
		{"125 bytes, length in two", plain, announced(fin|text, 2, 125), []string{broken}},
		{"no byte, length in two", plain, announced(fin|text, 2, 0), []string{broken}},
		{"65535 bytes, length in eight", &Rules{Limit: 1 << 20}, announced(fin|text, 8, 65535), []string{broken}},
		{"length with its highest bit", plain, announced(fin|text, 8, 1<<63|1<<16), []string{broken}},

		// 5.4: fragments.
		{"three fragments", plain, masked(binary, "a") + masked(cont, "b") + masked(fin|cont, "c"), []string{says(OpBinary, "abc")}},
		{"empty fragments", plain, masked(text, "") + masked(cont, "") + masked(fin|cont, ""), []string{says(OpText, "")}},
		{"the last fragment is empty", plain, masked(text, "ab") + masked(fin|cont, ""), []string{says(OpText, "ab")}},
		{"a message after fragments", plain, masked(text, "a") + masked(fin|cont, "b") + masked(fin|text, "c"), []string{says(OpText, "ab"), says(OpText, "c")}},
		{"fragments after fragments", plain, masked(text, "a") + masked(fin|cont, "b") + masked(binary, "c") + masked(fin|cont, "d"), []string{says(OpText, "ab"), says(OpBinary, "cd")}},
		{"a ping between fragments", plain, masked(text, "a") + masked(ping, "p") + masked(fin|cont, "b"), []string{says(OpPing, "p"), says(OpText, "ab")}},
		{"several between fragments", plain, masked(text, "a") + masked(ping, "") + masked(cont, "b") + masked(pong, "q") + masked(ping, "r") + masked(fin|cont, "c"), []string{says(OpPing, ""), says(OpPong, "q"), says(OpPing, "r"), says(OpText, "abc")}},
		{"a close between fragments", plain, masked(text, "a") + masked(closes, "\x03\xe8"), []string{says(OpClose, "\x03\xe8")}},
		{"a continuation of nothing", plain, masked(fin|cont, "a"), []string{broken}},
		{"a continuation after the end", plain, masked(fin|text, "a") + masked(cont, "b"), []string{says(OpText, "a"), broken}},
		{"a message within a message", plain, masked(text, "a") + masked(fin|text, "b"), []string{broken}},
		{"a fragment of a message within a message", plain, masked(text, "a") + masked(binary, "b"), []string{broken}},

		// 5.5: control frames.
		{"longest ping", plain, masked(ping, long[:125]), []string{says(OpPing, long[:125])}},
		{"ping too long", plain, masked(ping, long[:126]), []string{broken}},
		{"ping announced far too long", plain, announced(ping, 8, 1<<40), []string{broken}},
		{"ping in fragments", plain, masked(byte(OpPing), "a"), []string{broken}},
		{"close in fragments", plain, masked(byte(OpClose), "\x03\xe8"), []string{broken}},
		{"ping compressed", deflated, masked(ping|rsv1, "\x00"), []string{broken}},
		{"a ping is not text", plain, masked(ping, "\xff"), []string{says(OpPing, "\xff")}},

		// 5.5.1 and 7.4: close frames.
		{"close without a code", plain, masked(closes, ""), []string{says(OpClose, "")}},
		{"close with a code", plain, masked(closes, "\x03\xe8"), []string{says(OpClose, "\x03\xe8")}},
		{"close with a reason", plain, masked(closes, "\x0f\xa0für"), []string{says(OpClose, "\x0f\xa0für")}},
		{"close with the longest reason", plain, masked(closes, "\x03\xe8"+long[:123]), []string{says(OpClose, "\x03\xe8"+long[:123])}},
		{"close with half a code", plain, masked(closes, "\x03"), []string{broken}},
		{"close with 999", plain, masked(closes, "\x03\xe7"), []string{broken}},
		{"close with 1005", plain, masked(closes, "\x03\xed"), []string{broken}},
		{"close with 1006", plain, masked(closes, "\x03\xee"), []string{broken}},
		{"close with 1015", plain, masked(closes, "\x03\xf7"), []string{broken}},
		{"close with 2999", plain, masked(closes, "\x0b\xb7"), []string{broken}},
		{"close with 5000", plain, masked(closes, "\x13\x88"), []string{broken}},
		{"close with a broken reason", plain, masked(closes, "\x03\xe8\xc3"), []string{invalid}},

		// 8.1: text.
		{"text", plain, masked(fin|text, "κόσμε 🦀"), []string{says(OpText, "κόσμε 🦀")}},
		{"a character in two fragments", plain, masked(text, "\xf0\x9f") + masked(fin|cont, "\xa6\x80"), []string{says(OpText, "🦀")}},
		{"half a character", plain, masked(fin|text, "a\xf0\x9f"), []string{invalid}},
		{"half a character in fragments", plain, masked(text, "a\xf0") + masked(fin|cont, "\x9f"), []string{invalid}},
		{"a surrogate", plain, masked(fin|text, "\xed\xa0\x80"), []string{invalid}},
		{"above the last character", plain, masked(fin|text, "\xf4\x90\x80\x80"), []string{invalid}},
		{"the longer way to write a slash", plain, masked(fin|text, "\xc0\xaf"), []string{invalid}},
		{"compressed, not text", deflated, masked(fin|rsv1|text, deflate("\xff")), []string{invalid}},
		{"binary is not text", plain, masked(fin|binary, "\xff"), []string{says(OpBinary, "\xff")}},

		// The limit.
		{"longest message", plain, masked(fin|text, long), []string{says(OpText, long)}},
		{"message too long", plain, announced(fin|text, 2, testLimit+1), []string{tooBig}},
		{"message far too long", plain, announced(fin|text, 8, 1<<63-1), []string{tooBig}},
		{"short, and too long", &Rules{Limit: 3}, "\x81\x84", []string{tooBig}},
		{"longest message in fragments", plain, masked(text, long[:900]) + masked(ping, long[:125]) + masked(fin|cont, long[900:]), []string{says(OpPing, long[:125]), says(OpText, long)}},
		{"fragments too long", plain, masked(text, long[:900]) + "\x80\xe5", []string{tooBig}},
		{"fragments far too long", plain, masked(text, long[:900]) + announced(fin|cont, 8, 1<<63-1), []string{tooBig}},
		{"no data at all", &Rules{}, masked(fin|text, "") + masked(ping, "a") + masked(fin|text, "a"), []string{says(OpText, ""), says(OpPing, "a"), tooBig}},

		// RFC 7692, 6 and 7: compression.
		{"compressed", deflated, masked(fin|rsv1|text, deflate(long)), []string{says(OpText, long)}},
		{"compressed and empty", deflated, masked(fin|rsv1|text, "\x00"), []string{says(OpText, "")}},
		{"not compressed after an agreement", deflated, masked(fin|text, "a"), []string{says(OpText, "a")}},
		{"one compressed, one not", deflated, masked(fin|rsv1|text, deflate("ab")) + masked(fin|text, "cd") + masked(fin|rsv1|text, deflate("ef")), []string{says(OpText, "ab"), says(OpText, "cd"), says(OpText, "ef")}},
		{"compressed, a ping between", deflated, masked(rsv1|text, deflate("abc")[:2]) + masked(ping, "p") + masked(fin|cont, deflate("abc")[2:]), []string{says(OpPing, "p"), says(OpText, "abc")}},
		{"compressed from the second fragment on", deflated, masked(text, "a") + masked(fin|rsv1|cont, "b"), []string{broken}},
		{"compressed, but does not get smaller", deflated, masked(fin|rsv1|binary, deflate(string(noise))), []string{says(OpBinary, string(noise))}},
		{"inflates to the limit", deflated, masked(fin|rsv1|text, deflate(long)), []string{says(OpText, long)}},
		{"inflates to more than the limit", deflated, masked(fin|rsv1|text, deflate(long+"x")), []string{tooBig}},
		{"inflates to far more", deflated, masked(fin|rsv1|text, deflate(strings.Repeat("x", 1e6))), []string{tooBig}},
		{"hardly compressed at all", deflated, masked(fin|rsv1|text, stored.String()), []string{tooBig}},
		{"damaged", deflated, masked(fin|rsv1|text, "\xff\xff\xff"), []string{invalid}},
		{"refers to what was before", deflated, masked(fin|rsv1|text, deflate("Hello")) + masked(fin|rsv1|text, unhex(t, "f200110000")), []string{says(OpText, "Hello"), invalid}},
	}
}

func TestReader(t *testing.T) {
	for _, tt := range readerCases(t) {
		t.Run(tt.name, func(t *testing.T) {
			var want string
			for _, line := range tt.want {
				want += line + "\n"
			}
			if got := heard(t, tt.rules, tt.in); got != want {
				t.Fatalf("got %s\nwant %s", got, want)
			}
			if got := heard(t, tt.rules, bytewise(tt.in)...); got != want {
				t.Errorf("byte by byte: got %s\nwant %s", got, want)
			}
			for seed := range uint64(50) {
				if got := heard(t, tt.rules, split(tt.in, rand.New(rand.NewPCG(seed, 0)))...); got != want {
					t.Errorf("split by seed %d: got %s\nwant %s", seed, got, want)
				}
			}
		})
	}
}

// TestReaderIdle is about the two words.
// A proxy reads what a server says.
func TestReaderFromServer(t *testing.T) {
	rules := &Rules{FromServer: true, Limit: testLimit}
	frame := func(op Op, payload string) string { return string(AppendFrame(nil, op, []byte(payload))) }
	long := strings.Repeat("y", 200)
	for _, tt := range []struct{ name, in, want string }{
		{"a message", frame(OpText, "hi"), "1 \"hi\"\n"},
		{"one with a longer length", frame(OpBinary, long), "2 \"" + long + "\"\n"},
		{"fragments with a ping between", "\x01\x02he" + frame(OpPing, "p") + "\x80\x03llo", "9 \"p\"\n1 \"hello\"\n"},
		{"a close", string(AppendClose(nil, 4000, "bye")), "8 \"\\x0f\\xa0bye\"\n"},
		{"a mask", masked(0x81, "hi"), "error 1002\n"},
		{"too long", frame(OpText, strings.Repeat("z", testLimit+1)), "error 1009\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, pieces := range [][]string{{tt.in}, bytewise(tt.in)} {
				if got := heard(t, rules, pieces...); got != tt.want {
					t.Errorf("in %d pieces: got %s, want %s", len(pieces), got, tt.want)
				}
			}
		})
	}
}

func TestReaderIdle(t *testing.T) {
	if got := unsafe.Sizeof(Reader{}); got > 16 {
		t.Errorf("a Reader has %d bytes, want at most 16", got)
	}
	hear := func(Message) error { return nil }
	in := masked(0x01, strings.Repeat("a", 500)) + masked(0x89, "ping") + masked(0x80, "b")
	r := NewReader(plain)
	for i := range in {
		if err := r.Feed([]byte(in[i:i+1]), hear); err != nil {
			t.Fatal(err)
		}
		if held := r.Held() > 0; held != (i < len(in)-1) {
			t.Fatalf("after %d of %d bytes: holds %d", i+1, len(in), r.Held())
		}
	}
	if err := r.Feed([]byte(in[:10]), hear); err != nil {
		t.Fatal(err)
	}
	r.Reset()
	r.Reset()
	if r.Held() != 0 {
		t.Errorf("holds %d bytes after Reset", r.Held())
	}
	// What was unfinished does not come back from the pool.
	for _, unfinished := range []string{masked(0x81, "a")[:3], masked(0x01, "a"), masked(0x89, "abc")[:8]} {
		for _, next := range []string{masked(0x81, "x"), masked(0x89, "x")} {
			if err := r.Feed([]byte(unfinished), hear); err != nil {
				t.Fatal(err)
			}
			r.Reset()
			want := heard(t, plain, next)
			if got := heard(t, plain, bytewise(next)...); got != want || got == "" {
				t.Errorf("after %q: got %q, want %q", unfinished, got, want)
			}
		}
	}
}

// TestReaderAnnounced is about a client that announces much and sends little.
func TestReaderAnnounced(t *testing.T) {
	r := NewReader(&Rules{Limit: 1 << 30})
	err := r.Feed([]byte(announced(0x81, 8, 1<<30)+"mask"+"little"), func(Message) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Held(); got > 4096 {
		t.Errorf("holds %d bytes for 6", got)
	}
}

func TestReaderStops(t *testing.T) {
	stop := errors.New("enough")
	r := NewReader(plain)
	count := 0
	err := r.Feed([]byte(masked(0x81, "a")+masked(0x81, "b")+masked(0x81, "c")), func(Message) error {
		if count++; count == 2 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || count != 2 {
		t.Errorf("error %v after %d messages, want %v after 2", err, count, stop)
	}
}

// reference reads all that a client sent, in the plainest way.
func reference(rules *Rules, data []byte) string {
	var out strings.Builder
	var message []byte
	var op Op
	var compressed bool
	for {
		if len(data) < 2 {
			return out.String()
		}
		fin, rsv1, code := data[0]&0x80 != 0, data[0]&0x40 != 0, Op(data[0]&0xf)
		control := code == OpClose || code == OpPing || code == OpPong
		known := control || code <= OpBinary
		length, size := int(data[1]&0x7f), 2
		if !known || data[0]&0x30 != 0 || data[1]&0x80 == 0 ||
			rsv1 && (rules.Inflate == nil || code != OpText && code != OpBinary) ||
			control && (!fin || length > 125) ||
			!control && (code == OpContinuation) != (op != 0) {
			return out.String() + "error 1002\n"
		}
		if length > 125 {
			if size = 4; length == 127 {
				size = 10
			}
			if len(data) < size {
				return out.String()
			}
			length = 0
			for _, b := range data[2:size] {
				length = length<<8 | int(b)
			}
			if length < 0 || size == 4 && length < 126 || size == 10 && length < 65536 {
				return out.String() + "error 1002\n"
			}
		}
		if !control {
			most := rules.Limit
			if op == 0 && rsv1 || op != 0 && compressed {
				most += most/256 + 64
			}
			if length > most-len(message) {
				return out.String() + "error 1009\n"
			}
		}
		if len(data) < size+4+length {
			return out.String()
		}
		key, payload := data[size:size+4], bytes.Clone(data[size+4:size+4+length])
		data = data[size+4+length:]
		for i := range payload {
			payload[i] ^= key[i%4]
		}
		if !control {
			if op == 0 {
				op, compressed = code, rsv1
			}
			message = append(message, payload...)
			if !fin {
				continue
			}
			code, payload = op, message
			op, message = 0, nil
			if compressed {
				p, err := rules.Inflate(nil, payload, rules.Limit)
				switch {
				case errors.Is(err, compress.ErrTooLarge):
					return out.String() + "error 1009\n"
				case err != nil:
					return out.String() + "error 1007\n"
				}
				payload = p
			}
		}
		switch {
		case code == OpText && !utf8.Valid(payload), code == OpClose && len(payload) > 2 && ValidCode(int(payload[0])<<8|int(payload[1])) && !utf8.Valid(payload[2:]):
			return out.String() + "error 1007\n"
		case code == OpClose && len(payload) > 0 && (len(payload) == 1 || !ValidCode(int(payload[0])<<8|int(payload[1]))):
			return out.String() + "error 1002\n"
		}
		fmt.Fprintf(&out, "%d %q\n", code, payload)
	}
}

// FuzzReader compares with the reference, however the bytes are split.
func FuzzReader(f *testing.F) {
	for i, tt := range readerCases(f) {
		if len(tt.in) < 2000 {
			f.Add([]byte(tt.in), uint64(i), tt.rules.Inflate != nil)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, seed uint64, compress bool) {
		rules := plain
		if compress {
			rules = deflated
		}
		want := reference(rules, data)
		if got := heard(t, rules, string(data)); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
		if got := heard(t, rules, bytewise(string(data))...); got != want {
			t.Errorf("byte by byte: got %s\nwant %s", got, want)
		}
		if got := heard(t, rules, split(string(data), rand.New(rand.NewPCG(seed, 0)))...); got != want {
			t.Errorf("split: got %s\nwant %s", got, want)
		}
	})
}

// raceEnabled is whether the race detector watches; race_test.go sets it.
var raceEnabled bool

// A feeding is a way in which a message comes.
type feeding struct {
	name   string
	pieces []string
}

func feedings() []feeding {
	chat := `{"type":"message","room":"general","text":"good morning to you all"}`
	whole := masked(0x81, chat)
	return []feeding{
		{"whole", []string{whole}},
		{"split", []string{whole[:3], whole[3:20], whole[20:]}},
		{"fragments", []string{masked(0x01, chat[:20]), masked(0x80, chat[20:])}},
		{"many", []string{strings.Repeat(whole, 10)}},
		{"compressed", []string{masked(0xc1, deflate(chat))}},
		{"pong", []string{masked(0x8a, "")}},
	}
}

func TestReaderAllocs(t *testing.T) {
	for _, tt := range feedings() {
		t.Run(tt.name, func(t *testing.T) {
			if raceEnabled && tt.name != "whole" && tt.name != "many" && tt.name != "pong" {
				t.Skip("a pool forgets at random under the race detector")
			}
			r := NewReader(deflated)
			buf := make([]byte, 4096)
			count := 0
			hear := func(Message) error { count++; return nil }
			allocs := testing.AllocsPerRun(100, func() {
				for _, p := range tt.pieces {
					if err := r.Feed(buf[:copy(buf, p)], hear); err != nil {
						t.Fatal(err)
					}
				}
			})
			if allocs != 0 || count == 0 {
				t.Errorf("%v allocations, %d messages; want none, some", allocs, count)
			}
		})
	}
}

func BenchmarkReader(b *testing.B) {
	for _, f := range slices.Concat(feedings(), []feeding{{"4KiB", []string{masked(0x82, strings.Repeat("x", 4096-8))}}}) {
		b.Run("client="+f.name, func(b *testing.B) {
			r := NewReader(&Rules{Limit: 64 << 10, Inflate: compress.Inflate})
			buf := make([]byte, 4096)
			hear := func(Message) error { return nil }
			n := 0
			for _, p := range f.pieces {
				n += len(p)
			}
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				for _, p := range f.pieces {
					if err := r.Feed(buf[:copy(buf, p)], hear); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
