package fanout

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/grip"
)

// A flood is what is published while clients conflate: items of some keys, most of
// which are superseded soon.
type flood struct {
	*rig
	ch         grip.Channel
	keys       []string // by number, from 1 on; empty: none
	superseded []bool   // a later item has the key
}

const floodItems = 3000

// publish publishes all in bursts. The last item has no key.
func (f *flood) publish(random *rand.Rand) {
	for n := 1; n <= floodItems; {
		f.ch.Write(func(b grip.Batch) {
			for range 1 + random.IntN(20) {
				if n > floodItems {
					return
				}
				text := fmt.Sprintf("%d %s\n", n, strings.Repeat("x", random.IntN(60)))
				e := grip.Entry{Stream: append(b.Stream(len(text)), text...), Message: append(b.Message(len(text)), text...)}
				if f.keys[n] != "" {
					e.Key = []byte(f.keys[n])
				}
				b.Add(e)
				n++
			}
		})
		time.Sleep(rand.N(2 * time.Millisecond)) // a publisher's pace
	}
}

// A bather is a connection that conflates, its owner and its client.
type bather struct {
	*flood
	d      dress
	every  time.Duration
	fate   fate
	random *rand.Rand
	conn   *Conn
	gone   chan Ending
	pages  int
	last   int // item that the client got last, or need not get any more
}

func (*bather) Received(grip.MessageType, []byte) {}
func (*bather) TimeOver()                         {}
func (b *bather) Gone(why Ending)                 { b.gone <- why }

// Held says in a page what is left to history, and goes on at the log's oldest
// item.
func (b *bather) Held(s *Subscriber, why Status, _ Batch) {
	lasts, _ := b.conn.Release(s)
	if why != Behind || len(lasts) != 1 {
		b.t.Errorf("held with status %d, ids %v", why, lasts)
		return
	}
	from := lasts[0].ID
	for {
		first, _ := b.ch.Retained()
		to := strconv.FormatUint(first-1, 10)
		if b.conn.Write([]byte("#page "+from+" "+to+"\n")) != nil || b.hold(to) || b.conn.Over() {
			return
		}
		from = to
	}
}

func (b *bather) hold(after string) bool {
	w := wanted("a", after)
	w[0].Conflate, w[0].Every = true, b.every
	_, ok := b.conn.Hold(Hold{Wants: w, OpenOnly: true})
	return ok
}

func (b *bather) run(server, client *net.TCPConn) error {
	defer client.Close()
	if b.random.IntN(2) == 0 {
		_, _ = server.SetWriteBuffer(1), client.SetReadBuffer(16<<10)
	}
	if b.d.coding == Gzip || b.d.coding == Zstd {
		if _, err := server.Write(b.d.head()); err != nil {
			return err
		}
	}
	o := b.d.options()
	o.Owner, o.WriteTimeout, o.Rules = b, patience, &testRules
	b.conn = b.Take(server, o)
	b.conn.Start()
	b.conn.SetKeepAlive(&grip.KeepAlive{Content: []byte("#keep\n"), Timeout: 20 * time.Millisecond, Interval: true})
	if !b.hold("0") {
		return errors.New("not attached")
	}
	if err := b.read(client); err != nil {
		b.conn.Cut()
		return fmt.Errorf("behind item %d: %w", b.last, err)
	}
	return nil
}

func (b *bather) read(client net.Conn) error {
	content, err := b.undress(client)
	if err != nil {
		return err
	}
	stopAt := floodItems
	if b.fate > leaves {
		stopAt = b.random.IntN(floodItems)
	}
	lines := bufio.NewReader(content)
	for b.last < stopAt {
		if b.random.IntN(200) == 0 {
			time.Sleep(rand.N(20 * time.Millisecond)) // a slow client
		}
		text, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		if err := b.take(text); err != nil {
			return err
		}
	}
	switch b.fate {
	case survives:
		b.conn.Finish([]byte("#bye\n"), 1000, "")
		_, err = io.Copy(io.Discard, lines)
		return err
	case resets:
		_ = client.(*net.TCPConn).SetLinger(0)
	case freezes:
		b.conn.Cut()
	}
	return nil
}

func (b *bather) undress(client net.Conn) (io.Reader, error) {
	switch {
	case b.d.coding != Uncoded || b.d.framing == Framed:
		return b.d.undress(client)
	case b.d.framing == Chunked:
		return httputil.NewChunkedReader(client), nil
	default:
		return client, nil
	}
}

// take checks a line: whole, in order, and nothing was left out but what a later
// item stands in for.
func (b *bather) take(text string) error {
	words := strings.Fields(text)
	switch {
	case len(words) == 3 && words[0] == "#page":
		from, err := strconv.Atoi(words[1])
		to, err2 := strconv.Atoi(words[2])
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		b.pages++
		if err := b.skip(from); err != nil {
			return fmt.Errorf("before a page: %w", err)
		}
		b.last = max(b.last, to)
		return nil
	case text[0] == '#':
		return nil
	}
	n, err := strconv.Atoi(words[0])
	if err != nil || n <= b.last || n > floodItems || strings.Trim(strings.Join(words[1:], "?"), "x") != "" {
		return fmt.Errorf("got %q", text)
	}
	if err := b.skip(n - 1); err != nil {
		return err
	}
	b.last = n
	return nil
}

func (b *bather) skip(to int) error {
	for n := b.last + 1; n <= to; n++ {
		if !b.superseded[n] {
			return fmt.Errorf("item %d of key %q was left out", n, b.keys[n])
		}
	}
	b.last = max(b.last, to)
	return nil
}

// TestConflateTorture has clients of all kinds conflate while the log is evicted
// and others leave.
func TestConflateTorture(t *testing.T) {
	clothes := append([]dress{{"chunked", Uncoded, Chunked}, {"plain", Uncoded, Plain}, {"websocket", Uncoded, Framed}}, dresses...)
	eachMechanism(t, func(t *testing.T, cfg Config) {
		random := rand.New(rand.NewPCG(3, 4))
		cfg.ChannelLogBytes = 48 << 10
		f := &flood{rig: newRig(t, cfg), keys: make([]string, floodItems+1), superseded: make([]bool, floodItems+1)}
		f.ch = f.Open("a", numbers{})
		newest := make(map[string]int)
		for n := 1; n < floodItems; n++ {
			if random.IntN(8) == 0 {
				continue
			}
			k := strconv.Itoa(random.IntN(1 + random.IntN(60)))
			if before, ok := newest[k]; ok {
				f.superseded[before] = true
			}
			f.keys[n], newest[k] = k, n
		}
		var lives sync.WaitGroup
		all := make([]*bather, 8*len(clothes))
		for i := range all {
			b := &bather{
				flood: f, d: clothes[i%len(clothes)], fate: fate(random.IntN(int(fates))),
				random: rand.New(rand.NewPCG(random.Uint64(), random.Uint64())), gone: make(chan Ending, 1),
			}
			if random.IntN(3) == 0 {
				b.every = grip.MinEvery
			}
			all[i] = b
			server, client := f.pair()
			lives.Go(func() {
				if err := b.run(server, client); err != nil {
					t.Errorf("%s, rate %v, fate %d: %v", b.d.name, b.every, b.fate, err)
				}
			})
		}
		f.publish(random)
		lives.Wait()
		pages := 0
		for _, b := range all {
			recv(t, b.gone, "Gone")
			pages += b.pages
		}
		left := f.metrics.conflated.Load()
		t.Logf("%d items were left out, %d pages", left, pages)
		if left == 0 || pages == 0 {
			t.Error("nothing was left out, or nobody fell behind: the test shows nothing")
		}
		f.stop()
		checkKeys(t, f.ch.(handle).ch)
		f.ch.Close()
		if n := f.logBytes.Load(); n != 0 {
			t.Errorf("the log has %d bytes in the end", n)
		}
	})
}
