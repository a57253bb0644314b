package relay

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/grip/secret"
	"spillway/relay/cursor"
)

// discard is a log that keeps only numbers, as far as retain.
type discard struct {
	last, retain uint64
	stream, text []byte
	raw          bool // messages are the values themselves
	outside      int  // contents that were not written where there was room for them
}

func (d *discard) Write(write func(grip.Batch)) uint64 {
	write(d)
	return d.last
}

func (d *discard) Stream(n int) []byte  { return room(&d.stream, n) }
func (d *discard) Message(n int) []byte { return room(&d.text, n) }

func room(b *[]byte, n int) []byte {
	if cap(*b) < n {
		*b = make([]byte, 0, n)
	}
	return (*b)[:0:n]
}

func (d *discard) Add(e grip.Entry) {
	d.last++
	if e.Stream != nil && unsafe.SliceData(e.Stream) != unsafe.SliceData(d.stream) {
		d.outside++
	}
	if e.Message != nil && unsafe.SliceData(e.Message) != unsafe.SliceData(d.text) && !d.raw {
		d.outside++
	}
}

func (d *discard) Append(items []grip.Item) uint64 {
	d.last += uint64(len(items))
	return d.last
}

func (d *discard) Retained() (first, last uint64) {
	if d.last > d.retain {
		return d.last - d.retain + 1, d.last
	}
	return 1, d.last
}
func (d *discard) Subscribers() int { return 1 }
func (d *discard) Close()           {}

// newTestChannel is the channel of one topic "t" that begins at offset 0 of
// every partition.
func newTestChannel(r rendering, partitions int, log grip.Channel) (*channel, vector) {
	tags := []cursor.Tag{cursor.TagOfName("c", "t")}
	h := vector{make([]int64, partitions)}
	var encoded [numKinds]prometheus.Counter
	for i := range encoded {
		encoded[i] = prometheus.NewCounter(prometheus.CounterOpts{Name: "n"})
	}
	return &channel{
		writer: writer{rendering: r, channel: "t", maxBytes: 1 << 20, maxID: cursor.MaxBytes},
		log:    log, index: newIndex(tags, h.clone(), 0), lastItem: stampOf(noon),
		metrics: &hubMetrics{encoded: encoded, unsent: prometheus.NewCounter(prometheus.CounterOpts{Name: "n"})},
	}, h
}

func recordsOf(first int64, values ...string) (records []*kgo.Record) {
	for i, v := range values {
		records = append(records, &kgo.Record{Topic: "t", Offset: first + int64(i), Value: []byte(v), Timestamp: noon})
	}
	return records
}

// controlAt turns records at these places into marks of transactions.
func controlAt(records []*kgo.Record, places ...int) []*kgo.Record {
	for _, i := range places {
		// Only the client can make one: the attributes of a batch, as on the wire.
		*(*uint8)(unsafe.Pointer(&records[i].Attrs)) = 0b0010_0000
	}
	return records
}

// countOf reads a counter.
func countOf(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func TestChannelBatches(t *testing.T) {
	g := newMemGateway()
	c, h := newTestChannel(rendering{form: formPlain, ids: idBatch}, 2, nil)
	c.log = g.Open("t", &c.index)
	mem := g.channels["t"]
	var b batch
	feed := func(records []*kgo.Record) {
		b.set(1, records, noon)
		c.append(h, 0, &b, &b.all)
		h[0][1] = records[len(records)-1].Offset + 1
	}
	withIDs := func() (ids []string) {
		for _, it := range mem.items {
			_, id, found := strings.Cut(string(it.HTTPStream.Content), "\nid: ")
			if id, _, _ = strings.Cut(id, "\n"); !found {
				id = ""
			}
			ids = append(ids, id)
		}
		return ids
	}
	feed(controlAt(recordsOf(0, "a", "", "b", "c", ""), 1, 4))
	if len(mem.items) != 3 {
		t.Fatalf("%d items, want one for each record that is no mark", len(mem.items))
	}
	if ids := withIDs(); ids[2] == "" || !strings.HasSuffix(ids[2], ".2.0.4") {
		t.Errorf("ids %q: the last event of a batch carries the position after it, though a mark follows", ids)
	}
	if !c.stale {
		t.Error("the mark after the last item is forgotten: the cursor of a quiet listener will not move past it")
	}
	if got, _, ok := c.index.attach(vector{{0, 3}}); !ok || !sameVector(got, vector{{0, 3}}) {
		t.Errorf("the position after b is %v, %v", got, ok)
	}
	feed(recordsOf(5, "d"))
	if got, _ := c.index.ID(4); !strings.HasSuffix(got, ".2.0.6") {
		t.Errorf("after the mark the position is %s", got)
	}
	feed(controlAt(recordsOf(6, ""), 0))
	if len(mem.items) != 4 || !c.stale {
		t.Errorf("%d items, stale %v; a mark alone makes no item and moves the cursor", len(mem.items), c.stale)
	}
	c.moveCursor(h, noon)
	if got := string(mem.items[4].HTTPStream.Content); !strings.HasPrefix(got, "id: 1-") || !strings.HasSuffix(got, ".2.0.7\n\n") || c.stale {
		t.Errorf("id-only block %q, stale %v", got, c.stale)
	}
}

// What is written into the log in one go is what is written piece by piece.
func TestChannelsWriteWhatPagesDo(t *testing.T) {
	for _, f := range []form{formPlain, formEnvelope, formNDJSON, formJSON} {
		g := newMemGateway()
		c, h := newTestChannel(rendering{form: f, eventFrom: "key"}, 2, nil)
		c.log = g.Open("t", &c.index)
		c.maxBytes = 100
		records := recordsOf(0, "text", `{"json": [1]}`, "line\nline", "not \xff UTF-8", strings.Repeat("x", 101), "", "deleted", "{\n}")
		records[6].Value = nil
		for i, r := range records {
			r.Partition, r.Key = 1, []byte("key\"\n")
			r.Timestamp = noon.Add(time.Duration(i) * -40 * time.Second) // over several minutes
			r.Headers = []kgo.RecordHeader{{Key: "h", Value: []byte("v")}, {Key: "bin", Value: []byte{0xff}}}
		}
		var b batch
		b.set(1, records, noon)
		c.append(h, 0, &b, &b.all)
		for i, it := range g.channels["t"].items {
			r := records[i]
			id := vector{{0, r.Offset + 1}}.appendCursor(nil, 0, r.Timestamp.Unix()/60, c.index.tags)
			var stream, message []byte
			if it.HTTPStream != nil {
				stream = it.HTTPStream.Content
			}
			if it.WSMessage != nil {
				message = it.WSMessage.Content
			}
			if f != formJSON && !bytes.Equal(stream, c.appendStream(nil, r, c.kind(r), id)) {
				t.Errorf("form=%s, record %d: stream %q", f, i, stream)
			}
			if want, typ, ok := c.message(r, c.kind(r), id); f != formNDJSON && (!bytes.Equal(message, want) || (it.WSMessage != nil) != ok || ok && it.WSMessage.Type != typ) {
				t.Errorf("form=%s, record %d: message %q, want %q", f, i, message, want)
			}
		}
		if n := len(g.channels["t"].items); n != len(records) {
			t.Errorf("form=%s: %d items, want %d", f, n, len(records))
		}
	}
}

func TestChannelsFlushLargeBatches(t *testing.T) {
	g := newMemGateway()
	c, h := newTestChannel(rendering{form: formPlain}, 1, nil)
	c.log = g.Open("t", &c.index)
	var b batch
	var values []string
	for i := range 20 {
		values = append(values, strings.Repeat(fmt.Sprint(i%10), 600_000))
	}
	b.set(0, recordsOf(0, values...), noon)
	c.append(h, 0, &b, &b.all)
	for i, it := range g.channels["t"].items {
		if !strings.HasSuffix(string(it.HTTPStream.Content), "data: "+values[i]+"\n\n") || string(it.WSMessage.Content) != values[i] {
			t.Fatalf("item %d is not record %d", i, i)
		}
	}
	if n := len(g.channels["t"].items); n != len(values) {
		t.Errorf("%d items, want %d", n, len(values))
	}
}

func TestTombstonesThatAWebSocketCannotHave(t *testing.T) {
	c, h := newTestChannel(rendering{form: formPlain}, 1, &discard{})
	records := recordsOf(0, "a", "", "b")
	records[1].Value = nil
	var b batch
	b.set(0, records, noon)
	c.append(h, 0, &b, &b.all)
	if n := countOf(t, c.metrics.unsent); n != 1 {
		t.Errorf("%v tombstones were counted, want 1", n)
	}
	for kind, want := range map[recordKind]float64{kindText: 2, kindDelete: 1, kindBinary: 0} {
		if n := countOf(t, c.metrics.encoded[kind]); n != want {
			t.Errorf("%v %s records were counted, want %v", n, kind, want)
		}
	}
}

var hotForms = []form{formPlain, formEnvelope, formNDJSON, formJSON, formHint}

func TestAppendDoesNotAllocate(t *testing.T) {
	for _, f := range hotForms {
		log := &discard{retain: 1000, raw: f == formPlain}
		c, h := newTestChannel(rendering{form: f}, 6, log)
		var b batch
		records := recordsOf(0, slices.Repeat([]string{"some words", `{"a": 1}`, "two\nlines", "\xff", `"quoted" words`}, 20)...)
		for _, r := range records {
			r.Key, r.Headers = []byte("key"), []kgo.RecordHeader{{Key: "trace", Value: []byte("1234")}}
		}
		one := func() {
			b.set(3, records, noon)
			c.append(h, 0, &b, &b.all)
			for _, r := range records {
				r.Offset += int64(len(records))
			}
			h[0][3] += int64(len(records))
		}
		one()
		// What is left is the index's: a few slices for every 256 items.
		if n := testing.AllocsPerRun(100, one) / float64(len(records)); n > 0.05 {
			t.Errorf("form=%s: %.2f allocations for each record, want none", f, n)
		}
		if log.outside > 0 {
			t.Errorf("form=%s: %d contents found no room in the log", f, log.outside)
		}
	}
}

// What CURSOR_KEY costs is measured for each record and channel.
func BenchmarkAppendSealed(b *testing.B) {
	sealer, err := ParseCursorKey(cursorKeyA)
	if err != nil {
		b.Fatal(err)
	}
	for _, partitions := range []int{6, 60} {
		for _, v := range []*veil{nil, {keys: secret.Fixed(sealer)}} {
			b.Run(fmt.Sprintf("partitions=%d/sealed=%v", partitions, v != nil), func(b *testing.B) {
				c, h := newTestChannel(rendering{form: formPlain, ids: idEvery}, partitions, &discard{retain: 10_000})
				c.veil = v
				var batch batch
				records := recordsOf(0, slices.Repeat([]string{strings.Repeat("x", 128)}, 100)...)
				b.ReportAllocs()
				n := 0
				for b.Loop() {
					if n++; n == len(records) {
						batch.set(3, records, noon)
						c.append(h, 0, &batch, &batch.all)
						for _, r := range records {
							r.Offset += int64(n)
						}
						h[0][3] += int64(n)
						n = 0
					}
				}
			})
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, f := range hotForms[:4] {
		for _, partitions := range []int{6, 60} {
			for _, size := range []int{128, 1024} {
				b.Run(fmt.Sprintf("form=%s/partitions=%d/size=%d", f, partitions, size), func(b *testing.B) {
					c, h := newTestChannel(rendering{form: f}, partitions, &discard{retain: 10_000})
					var batch batch
					text := `{"order":42,"text":"` + strings.Repeat("x", size-22) + `"}`
					records := recordsOf(0, slices.Repeat([]string{text}, 100)...)
					b.SetBytes(int64(size))
					b.ReportAllocs()
					n := 0
					for b.Loop() {
						if n++; n == len(records) {
							batch.set(3, records, noon)
							c.append(h, 0, &batch, &batch.all)
							for _, r := range records {
								r.Offset += int64(n)
							}
							h[0][3] += int64(n)
							n = 0
						}
					}
				})
			}
		}
	}
}
