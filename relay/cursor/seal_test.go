package cursor

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func sealer(t testing.TB, secrets ...string) *Sealer {
	t.Helper()
	var all [][]byte
	for _, s := range secrets {
		all = append(all, []byte(s))
	}
	s, err := NewSealer(all...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const secretA, secretB = "a secret of more than 32 bytes, A", "a secret of more than 32 bytes, B"

var everyForm = []string{
	"1-hi3hk-4fz1q.3.xg.rq.3ej", "1s-hi3hk-4fz1q.1.0", "1e-hi3hk-4fz1q.1.a", "1-0-00000.2.3_z.z_10", "1-hi3hk-zzzzz.1000!",
	"1-hi3hk-aaaaa.1.1~bbbbb.1.0_2~ccccc.7!~aaaaa.1.3",
}

func TestSeal(t *testing.T) {
	a := sealer(t, secretA)
	for _, text := range everyForm {
		sealed := string(a.Seal([]byte("id: "+text), 4))
		sealed, ok := strings.CutPrefix(sealed, "id: 2-")
		if !ok {
			t.Fatalf("%s: got %q, want id: 2-…", text, sealed)
		}
		if strings.Trim(sealed, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			t.Errorf("%s: %q holds more than base64url", text, sealed)
		}
		sealed = "2-" + sealed
		if got, want := len(sealed), a.Len(len(text)); got != want {
			t.Errorf("%s: %d bytes, but Len says %d", text, got, want)
		}
		// Another server with the same key writes the same, and reads it, as does
		// one that seals with a newer key.
		if again := string(sealer(t, secretA, secretB).Seal([]byte(text), 0)); again != sealed {
			t.Errorf("%s: got %s and %s, want the same", text, sealed, again)
		}
		for name, s := range map[string]*Sealer{"same": sealer(t, secretA), "rotated": sealer(t, secretB, secretA)} {
			if c, err := s.Parse(sealed); err != nil || c.String() != text {
				t.Errorf("%s: the %s key reads %s, %v, want %s", sealed, name, c, err, text)
			}
		}
		if other := string(sealer(t, secretB).Seal([]byte(text), 0)); other == sealed {
			t.Errorf("%s: two keys seal it alike", text)
		}
	}
	// Servers of different versions share cursors: this may not change.
	if got, want := string(a.Seal([]byte(everyForm[0]), 0)), golden; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

const golden = "2-NMQGmkWYz3lX-yYcjvKNyCDF2yc_1MkxhFG4YGGYGsJibE1goIS43yE"

func TestForgedCursors(t *testing.T) {
	a := sealer(t, secretA, secretB)
	good := string(a.Seal([]byte(everyForm[0]), 0))
	if _, err := a.Parse(good); err != nil {
		t.Fatal(err)
	}
	refused := func(what, text string, want error) {
		t.Helper()
		if c, err := a.Parse(text); !errors.Is(err, want) {
			t.Errorf("%s: %q: got %v, %v, want %v", what, text, c, err, want)
		}
	}
	for i := len("2-"); i < len(good); i++ {
		refused("cut short", good[:i], ErrSealed)
		for _, c := range []byte("Aa0_\n\r= ") {
			if changed := good[:i] + string(c) + good[i+1:]; changed != good {
				refused("a byte changed", changed, ErrSealed)
			}
			refused("a byte more", good[:i]+string(c)+good[i:], ErrSealed)
		}
	}
	refused("something behind", good+"A", ErrSealed)
	refused("a line end behind", good+"\n", ErrSealed)
	refused("another base64 text of the same bytes", respelt(t, a), ErrSealed)
	refused("of a key that is not ours", string(sealer(t, secretA+"!").Seal([]byte(everyForm[0]), 0)), ErrSealed)
	refused("nothing sealed", "2-", ErrSealed)
	for _, text := range append(everyForm, "", "1", "3-"+good[2:], "2", good[2:], " "+good) {
		refused("not sealed", text, errUnsealed)
	}
	// What is sealed is not believed either: a key may seal other things elsewhere.
	for _, text := range []string{"", "1", "2-", good, "1-hi3hk", "{}", "\x00"} {
		sealed := string(a.Seal([]byte(text), 0))
		if c, err := a.Parse(sealed); err == nil {
			t.Errorf("sealed %q: got %v, want an error", text, c)
		}
	}
	if _, err := a.Parse("2-" + strings.Repeat("A", a.Len(maxParseBytes))); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("too long: got %v", err)
	}
}

// respelt is a sealed cursor whose unused last bits are set.
func respelt(t *testing.T, s *Sealer) string {
	t.Helper()
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for _, text := range everyForm {
		if sealed := string(s.Seal([]byte(text), 0)); (len(text)+sealBytes)%3 != 0 {
			last := len(sealed) - 1
			return sealed[:last] + string(digits[strings.IndexByte(digits, sealed[last])+1])
		}
	}
	t.Fatal("all are multiples of 3")
	return ""
}

func TestNoSealer(t *testing.T) {
	var s *Sealer
	if got := string(s.Seal([]byte(everyForm[0]), 0)); got != everyForm[0] || s.Len(7) != 7 {
		t.Errorf("got %s and %d, want what it was given", got, s.Len(7))
	}
	if c, err := s.Parse(everyForm[0]); err != nil || c.String() != everyForm[0] {
		t.Errorf("got %v, %v", c, err)
	}
	if _, err := NewSealer(); err == nil {
		t.Error("a Sealer without keys: got no error")
	}
	buf := []byte(everyForm[0])
	if n := testing.AllocsPerRun(100, func() { s.Seal(buf, 0) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// FuzzSealerParse: what is read is what Seal writes, and nothing panics.
func FuzzSealerParse(f *testing.F) {
	s := sealer(f, secretA, secretB)
	old := sealer(f, secretB)
	for _, text := range everyForm {
		f.Add(string(s.Seal([]byte(text), 0)))
		f.Add(string(old.Seal([]byte(text), 0)))
		f.Add(text)
	}
	for _, text := range []string{"2-", "2-AAAA", "2-\n", "2-=", "", "2"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := s.Parse(text)
		if err != nil {
			return
		}
		plain := c.Append(nil)
		if !bytes.Equal(s.Seal(bytes.Clone(plain), 0), []byte(text)) && !bytes.Equal(old.Seal(plain, 0), []byte(text)) {
			t.Errorf("%q is read as %v, but no key seals that so", text, c)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	s := sealer(b, secretA)
	for _, partitions := range []int{1, 12, 100} {
		text := []byte(Cursor{Time: minuteOf, Blocks: []Block{{Tag: tag("4fz1q"), Offsets: repeat(2_000_000_000, partitions)}}}.String())
		buf := make([]byte, 0, 4096)
		b.Run(fmt.Sprintf("partitions=%d/bytes=%d", partitions, len(text)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Seal(append(buf[:0], text...), 0)
			}
		})
		sealed := string(s.Seal(append(buf[:0], text...), 0))
		b.Run(fmt.Sprintf("open/partitions=%d", partitions), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Parse(sealed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
