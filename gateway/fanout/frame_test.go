package fanout

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http/httputil"
	"strings"
	"testing"
	"unsafe"

	"spillway/gateway/ws"
	"spillway/grip"
)

// borders are lengths around which a frame's head gets longer.
func borders() (all []int) {
	for _, n := range []int{0, 1, 0x10, 126, 0x100, 0x1000, 1 << 16, 0x100000} {
		for _, n := range []int{n - 2, n - 1, n, n + 1, n + 2} {
			if n >= 0 {
				all = append(all, n)
			}
		}
	}
	return all
}

func TestFrames(t *testing.T) {
	for _, n := range borders() {
		want := bytes.Repeat([]byte{'x'}, n)
		for form := range Form(byteForms) {
			frame := make([]byte, frameBytes(form, n))
			copy(frame[headBytes(form, n):], want)
			putFrame(frame, form, n, grip.BinaryMessage)
			if got := unframed(form, frame); !bytes.Equal(got, want) {
				t.Errorf("form %d: %d bytes in a frame are %d", form, n, len(got))
			}
			if most := headBytes(form, n) + n + frameTail; len(frame) > most {
				t.Errorf("form %d: a frame of %d bytes, want at most %d", form, len(frame), most)
			}
			if form == Message {
				if f, err := readFrame(bytes.NewReader(frame)); err != nil || f.op != ws.OpBinary || !bytes.Equal(f.payload, want) {
					t.Errorf("a frame of %d bytes: got opcode %d, %d bytes, error %v", n, f.op, len(f.payload), err)
				}
			} else if n > 0 {
				got, err := io.ReadAll(httputil.NewChunkedReader(io.MultiReader(bytes.NewReader(frame), strings.NewReader("0\r\n\r\n"))))
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("a chunk of %d bytes: got %d bytes, error %v", n, len(got), err)
				}
			}
		}
	}
}

// Items that were written with whatever hints come out as they were given, in
// both forms, across segments.
func TestWriter(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	sizes := append(borders(), 1000, 2000)
	for round := range 200 {
		e := newEngine(t, Config{ChannelLogBytes: 64 << 20})
		ch := e.Open("c", numbers{})
		var want [byteForms][][]byte
		for range 1 + random.IntN(5) {
			ch.(handle).Write(func(b grip.Batch) {
				for range 1 + random.IntN(8) {
					var en grip.Entry
					for form := range Form(byteForms) {
						if random.IntN(4) == 0 {
							continue
						}
						n := sizes[random.IntN(len(sizes)-5*(1+random.IntN(3)))]
						hint := n
						if random.IntN(4) == 0 {
							hint = random.IntN(2*n + 10)
						}
						give := b.Stream
						if form == Message {
							give = b.Message
						}
						var p []byte
						if random.IntN(4) > 0 {
							p = give(hint)
						}
						p = append(p, make([]byte, n)...)
						for i := range p {
							p[i] = byte(i + len(want[form]))
						}
						if p == nil {
							p = []byte{}
						}
						if random.IntN(8) == 0 {
							continue // and does not use it
						}
						if form == Stream {
							en.Stream = p
						} else {
							en.Message = p
						}
						want[form] = append(want[form], bytes.Clone(p))
					}
					b.Add(en)
				}
			})
		}
		for form := range Form(byteForms) {
			s := subscribe(t, e, form, Want{Channel: "c", PrevID: "0", HasPrevID: true})
			var got [][]byte
			for {
				b, status := s.Next(1 << (4 + random.IntN(20)))
				if status != Ready {
					break
				}
				if form == Message {
					for _, m := range b.Messages() {
						got = append(got, m)
					}
					continue
				}
				for c := range b.Contents() {
					got = append(got, c)
				}
			}
			expect := want[form]
			if form == Stream { // without those that make no chunk
				expect = nil
				for _, c := range want[form] {
					if len(c) > 0 {
						expect = append(expect, c)
					}
				}
			}
			if len(got) != len(expect) {
				t.Fatalf("round %d, form %d: got %d items, want %d", round, form, len(got), len(expect))
			}
			for i := range got {
				if !bytes.Equal(got[i], expect[i]) {
					t.Fatalf("round %d, form %d: item %d has %d bytes, want %d, or others", round, form, i, len(got[i]), len(expect[i]))
				}
			}
		}
		ch.Close()
		if n := e.logBytes.Load(); n != 0 {
			t.Fatalf("round %d: the log has %d bytes in the end", round, n)
		}
	}
}

// Content that was written in its place stays there.
func TestWriterDoesNotCopy(t *testing.T) {
	e := newEngine(t, Config{})
	ch := e.Open("c", numbers{})
	s := subscribe(t, e, Stream, Want{Channel: "c"})
	m := subscribe(t, e, Message, Want{Channel: "c"})
	copied := 0
	const items = 2000
	for i := range items {
		var stream, message []byte
		ch.(handle).Write(func(b grip.Batch) {
			stream = fmt.Appendf(b.Stream(500), "%0500d", i)
			message = fmt.Appendf(b.Message(200), "%0200d", i)
			b.Add(grip.Entry{Stream: stream, Message: message})
		})
		for _, of := range []struct {
			s *Subscriber
			p []byte
		}{{s, stream}, {m, message}} {
			b, _ := of.s.Next(1 << 20)
			for c := range b.Contents() {
				if !bytes.Equal(c, of.p) {
					t.Fatalf("item %d: got %s", i, short(c))
				}
				if unsafe.SliceData(c) != unsafe.SliceData(of.p) {
					copied++
				}
			}
		}
	}
	if copied > items/20 { // where the second form did not fit into the segment of the first
		t.Errorf("%d contents of %d were copied", copied, 2*items)
	}
	t.Logf("%d contents of %d were copied", copied, 2*items)
}

// A batch of which the socket took some bytes goes on right there, wherever that
// is, and the last id is of the item that is begun.
func TestRewind(t *testing.T) {
	for _, tt := range []struct {
		name    string
		channel string
	}{{"open", "o"}, {"foreign", "f"}} {
		for framing, name := range framings {
			t.Run(tt.name+"/framing="+name, func(t *testing.T) {
				e := newEngine(t, Config{})
				var all []grip.Item
				for i, content := range []string{"", "a", "0123456789abcdef", "", "", "bc", strings.Repeat("x", 130), "", "last", ""} {
					it := item(content)
					switch {
					case tt.channel == "f": // whose items follow one another
					case i == 3:
						it.WSMessage = nil
					case i == 4:
						it.HTTPStream = nil
					}
					it.Channel, it.ID, it.PrevID = tt.channel, fmt.Sprint(i+1), fmt.Sprint(i)
					all = append(all, it)
				}
				if tt.channel == "o" {
					e.Open("o", numbers{}).Append(all)
				} else {
					subscribe(t, e, Any, Want{Channel: "f"}) // so that it is there
					if err := e.Publish(t.Context(), all...); err != nil {
						t.Fatal(err)
					}
				}
				c := e.newConn(e.loops[0], Options{Framing: Framing(framing)})
				var scratch []byte
				hold := func() (*Subscriber, Batch, []byte) {
					s, ok := c.Hold(Hold{Wants: wanted(tt.channel, "1")})
					if !ok {
						t.Fatal("not attached")
					}
					var b Batch
					_, ok = c.next(&b, 0)
					if !ok {
						t.Fatal("nothing comes")
					}
					return s, b, bytes.Clone(c.wire(&b, &scratch))
				}
				s, _, whole := hold()
				c.Drop(s)
				prefix := func(last int) (n int) { // bytes on the wire up to an item
					for _, it := range all[1:last] {
						switch {
						case c.framing == Framed && it.WSMessage != nil:
							n += len(c.AppendFrame(nil, grip.TextMessage, it.WSMessage.Content))
						case c.framing != Framed && it.HTTPStream != nil:
							n += len(c.AppendFrame(nil, grip.TextMessage, it.HTTPStream.Content))
						}
					}
					return n
				}
				if got := prefix(len(all)); got != len(whole) {
					t.Fatalf("the batch has %d bytes, want %d", len(whole), got)
				}
				for n := range len(whole) {
					s, b, wire := hold()
					c.unsent(&b, n)
					got := wire[:n:n]
					begun := n
					if c.out != nil {
						got = append(got, c.out.buf...)
						begun = len(got)
						c.took(len(c.out.buf))
					}
					m := s.members[0]
					last, _ := m.lastID()
					id := 0
					if _, err := fmt.Sscan(last, &id); err != nil {
						t.Fatalf("cut at %d: last id %q: %v", n, last, err)
					}
					if at := prefix(id); at != begun {
						t.Fatalf("cut at %d: %d bytes are on their way, but item %d ends at %d", n, begun, id, at)
					}
					for {
						var b Batch
						_, ok := c.next(&b, 0)
						if !ok {
							break
						}
						got = append(got, c.wire(&b, &scratch)...)
					}
					if !bytes.Equal(got, whole) {
						t.Fatalf("cut at %d: got %q, want %q", n, got, whole)
					}
					if !c.Drop(s) {
						t.Fatalf("cut at %d: something was told", n)
					}
				}
				if n := e.privateBytes.Load(); n != 0 {
					t.Errorf("%d private bytes in the end", n)
				}
			})
		}
	}
}
