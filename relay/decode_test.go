package relay

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"spillway/relay/kafkatest"
	"spillway/relay/registry"
)

// A schemaRegistry is one with the schemas of the records below, that can be
// made to fail.
type schemaRegistry struct {
	url   string
	fault atomic.Pointer[http.HandlerFunc] // nil: none
}

const (
	avroOrder   = 7
	protoOrder  = 8
	jsonOrder   = 9
	avroText    = 10 // of keys
	avroNulls   = 11
	avroText2   = 12 // the same, registered anew
	noSuchOrder = 77
)

func startRegistry(t testing.TB) *schemaRegistry {
	t.Helper()
	fake := srfake.NewRegistry()
	for id, s := range map[int]sr.Schema{
		avroOrder:  {Type: sr.TypeAvro, Schema: `{"type":"record","name":"Order","fields":[{"name":"n","type":"long"},{"name":"note","type":["null","string"]}]}`},
		protoOrder: {Type: sr.TypeProtobuf, Schema: `syntax = "proto3"; message Order { int32 n = 1; string note = 2; }`},
		jsonOrder:  {Type: sr.TypeJSON, Schema: `{"type":"object"}`},
		avroText:   {Type: sr.TypeAvro, Schema: `"string"`},
		avroNulls:  {Type: sr.TypeAvro, Schema: `{"type":"array","items":"null"}`},
		avroText2:  {Type: sr.TypeAvro, Schema: `{"type":"string"}`},
	} {
		fake.SeedSchema(fmt.Sprint("s", id), 1, id, s)
	}
	s := &schemaRegistry{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fault := s.fault.Load(); fault != nil {
			(*fault)(w, r)
			return
		}
		fake.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *schemaRegistry) fail(h http.HandlerFunc) { s.fault.Store(&h) }
func (s *schemaRegistry) heal()                   { s.fault.Store(nil) }

// down is a registry behind a proxy that does not reach it.
func down(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }

// with configures a relay for the registry.
func (s *schemaRegistry) with(c *Config) {
	c.Registry = registry.Config{URLs: []string{s.url}, Timeout: 10 * time.Second, CacheEntries: 1000, CacheBytes: 64 << 20}
}

// written puts the wire format of a schema's id in front of data.
func written(id uint32, data string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, id), data...)
}

func zigzag(n int64) string { return string(binary.AppendVarint(nil, n)) }

func asAvro(id uint32, n int) []byte {
	return written(id, zigzag(int64(n))+zigzag(1)+zigzag(2)+"hi")
}

func asProto(n int) []byte {
	return written(protoOrder, "\x00\x08"+string(binary.AppendUvarint(nil, uint64(n)))+"\x12\x02hi")
}

// avroRecords are n records of an Avro schema to partition 0, and what they are
// as JSON.
func avroRecords(topic string, from, to int) (records []*kgo.Record, want []string) {
	for n := from; n < to; n++ {
		records = append(records, &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "k%d", n%3), Value: asAvro(avroOrder, n)})
		want = append(want, orderJSON(n))
	}
	return records, want
}

func orderJSON(n int) string { return fmt.Sprintf(`{"n":%d,"note":"hi"}`, n) }

func TestDecodedLiveAndFromHistory(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		produce := func(n int) {
			for _, v := range [][]byte{asAvro(avroOrder, n), asProto(n + 1), written(jsonOrder, fmt.Sprintf(`{"n": %d,"note":"hi"}`, n+2)), []byte("as it is")} {
				k.Produce(&kgo.Record{Topic: topic, Value: v, Timestamp: noon})
			}
		}
		produce(0)
		h := startRelay(t, k, startRegistry(t).with)
		url := "/events/" + topic + "/?from=earliest"
		plain, envelope := h.open(url), h.open(url+"&format=envelope&schema=1")
		lines := h.open(url+"&schema=1", "Accept", "application/x-ndjson")
		socket := h.open(url, "Accept", "application/websocket-events")
		for _, s := range []*stream{plain, envelope, lines, socket} {
			s.until("hold", func(string) bool { return s.holding })
		}
		produce(10)
		plain.wantData(orderJSON(0), orderJSON(1), orderJSON(2), "as it is", orderJSON(10), orderJSON(11), orderJSON(12), "as it is")
		var want []string
		for i, value := range []string{orderJSON(0), orderJSON(1), orderJSON(2), `"as it is"`, orderJSON(10), orderJSON(11), orderJSON(12), `"as it is"`} {
			schema := ""
			if id := i%4 + avroOrder; id <= jsonOrder {
				schema = fmt.Sprintf(`,"schema":{"id":%d}`, id)
			}
			want = append(want, fmt.Sprintf(`{"topic":%q,"partition":0,"offset":%d,"timestamp":"2026-05-01T12:00:00.000Z","value":%s%s}`, topic, i, value, schema))
		}
		envelope.wantData(want...)
		for _, w := range want {
			w = strings.TrimSuffix(w, "}")
			lines.until(w, func(out string) bool { return strings.Contains(out, w) })
		}
		socket.until("the last message", func(out string) bool { return strings.Contains(out, orderJSON(12)) })
		if got := strings.Count(socket.out.String(), `,"note":"hi"}`); got != 6 {
			t.Errorf("the WebSocket got %d decoded messages, want 6: %q", got, socket.out.String())
		}
	})
}

// Filters and projections see what is decoded. A record that cannot be decoded
// is only found by what stands beside its value.
func TestFilterOnDecodedFields(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	produce := func(from int) {
		for n := from; n < from+6; n++ {
			k.Produce(&kgo.Record{Topic: topic, Key: []byte("known"), Value: asAvro(avroOrder, n)})
		}
		k.Produce(&kgo.Record{Topic: topic, Key: []byte("unknown"), Value: asAvro(noSuchOrder, from)})
	}
	produce(0)
	h := startRelay(t, k, startRegistry(t).with)
	url := "/events/" + topic + "/?from=earliest&"
	even, few := h.open(url+"filter=value.n%252==0"), h.open(url+"fields=n&filter=value.n>3+%26%26+value.note=='hi'")
	lost, none := h.open(url+"key=unknown"), h.open(url+"filter=value.n==0+%26%26+key=='unknown'")
	for _, s := range []*stream{even, few, lost, none} {
		s.until("hold", func(string) bool { return s.holding })
	}
	produce(10)
	even.wantData(orderJSON(0), orderJSON(2), orderJSON(4), orderJSON(10), orderJSON(12), orderJSON(14))
	few.wantData(`{"n":4}`, `{"n":5}`, `{"n":10}`, `{"n":11}`, `{"n":12}`, `{"n":13}`, `{"n":14}`, `{"n":15}`)
	undecodable := func(offset int) string {
		return fmt.Sprintf(`undecodable {"topic":%q,"partition":0,"offset":%d,"reason":"unknown-schema"}`, topic, offset)
	}
	lost.wantData(undecodable(6), undecodable(13))
	none.wantData()
}

// Why a record cannot be shown is said in every form, and counted.
func TestUndecodable(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k, startRegistry(t).with, func(c *Config) { c.EventMaxBytes = 1 << 10 })
	values := [][]byte{
		asAvro(noSuchOrder, 1),
		written(avroOrder, "\x02"),
		written(avroNulls, zigzag(1<<20)),
		append(asAvro(avroOrder, 1), make([]byte, 1<<10)...), // the value that was produced counts
	}
	produce := func() {
		for _, v := range values {
			k.Produce(&kgo.Record{Topic: topic, Value: v, Timestamp: noon})
		}
	}
	produce()
	url := "/events/" + topic + "/?from=earliest"
	plain, envelope := h.open(url), h.open(url+"&format=envelope&schema=1")
	socket := h.open(url, "Accept", "application/websocket-events")
	for _, s := range []*stream{plain, envelope, socket} {
		s.until("hold", func(string) bool { return s.holding })
	}
	produce()
	var wantPlain, wantEnvelope []string
	for i := range 2 * len(values) {
		place := fmt.Sprintf(`"topic":%q,"partition":0,"offset":%d`, topic, i)
		reason := []string{"unknown-schema", "bad-data", "too-large", "oversize"}[i%len(values)]
		if reason == "oversize" {
			w := fmt.Sprintf(`oversize {%s,"reason":"oversize","size":%d}`, place, len(values[3]))
			wantPlain, wantEnvelope = append(wantPlain, w), append(wantEnvelope, w)
			continue
		}
		wantPlain = append(wantPlain, fmt.Sprintf(`undecodable {%s,"reason":%q}`, place, reason))
		wantEnvelope = append(wantEnvelope, fmt.Sprintf(`undecodable {%s,"timestamp":"2026-05-01T12:00:00.000Z","error":%q,"value_base64":%q,"schema":{"id":%d}}`,
			place, reason, base64.StdEncoding.EncodeToString(values[i%len(values)]), []int{noSuchOrder, avroOrder, avroNulls}[i%len(values)]))
	}
	plain.wantData(wantPlain...)
	envelope.wantData(wantEnvelope...)
	for _, w := range wantPlain {
		_, w, _ = strings.Cut(w, " ")
		socket.until(w, func(out string) bool { return strings.Contains(out, w) })
	}
	// Three pages of history and two channels with three records each.
	if got := countOf(t, h.r.hub.metrics.encoded[kindUndecodable]); got != 3*3+2*3 {
		t.Errorf("%v undecodable events, want 15", got)
	}
}

// While the registry is away records say so, and none is lost; when it is back
// all that is read is decoded, history too that was read meanwhile.
func TestRegistryComesBack(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		schemas := startRegistry(t)
		schemas.fail(down)
		records, decoded := avroRecords(topic, 0, 3)
		k.Produce(records...)
		h := startRelay(t, k, schemas.with)
		url := "/events/" + topic + "/"
		s := h.open(url + "?from=earliest")
		s.until("hold", func(string) bool { return s.holding })
		records, live := avroRecords(topic, 3, 6)
		k.Produce(records...)
		var want []string
		for offset := range 6 {
			want = append(want, fmt.Sprintf(`undecodable {"topic":%q,"partition":0,"offset":%d,"reason":"registry-unavailable"}`, topic, offset))
		}
		s.wantData(want...)

		schemas.heal()
		h.eventually("a record is decoded", func() bool {
			k.Produce(&kgo.Record{Topic: topic, Value: asAvro(avroOrder, 99)})
			n := len(s.events())
			s.until("the record", func(string) bool { return len(s.events()) > n })
			return s.events()[n].data == orderJSON(99)
		})
		h.eventually("history is decoded", func() bool {
			again := h.open(url + "?from=earliest&limit=6")
			again.until("the end", func(out string) bool { return strings.Contains(out, "event: end") })
			var got []string
			for _, e := range again.events()[:6] {
				got = append(got, e.data)
			}
			return slices.Equal(got, append(decoded, live...))
		})
	})
}

// A topic whose schema is being asked for does not hold up another, and loses
// nothing of its order.
func TestOtherTopicsGoOnWhileOneWaits(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	waits, goesOn := kafkatest.UniqueTopic(t), kafkatest.UniqueTopic(t)+"-other"
	k.CreateTopic(waits, 2)
	k.CreateTopic(goesOn, 1)
	schemas := startRegistry(t)
	release := make(chan struct{})
	asked := make(chan struct{}, 100)
	schemas.fail(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
		}
		down(w, r)
	})
	h := startRelay(t, k, schemas.with, func(c *Config) { c.Registry.Timeout = 30 * time.Second })
	slow, fast := h.open("/events/"+waits+"/"), h.open("/events/"+goesOn+"/")
	records, _ := avroRecords(waits, 0, 5)
	k.Produce(records...)
	<-asked
	values(k, goesOn, numbered("v", 0, 5)...)
	fast.wantData(numbered("v", 0, 5)...)
	// What comes behind those that wait does too, in other partitions as well.
	k.Produce(value(waits, 0, "plain"), value(waits, 1, "plain"))
	values(k, goesOn, numbered("v", 5, 10)...)
	fast.wantData(numbered("v", 0, 10)...)
	h.eventually("they are read", func() bool {
		h.r.hub.waiting.mu.Lock()
		defer h.r.hub.waiting.mu.Unlock()
		n := 0
		for _, in := range h.r.hub.waiting.queues[waits] {
			n += len(in.records)
		}
		return n == 7
	})
	slow.wantData()
	close(release)
	slow.until("all of them", func(string) bool { return len(slow.events()) == 7 })
	for i, e := range slow.events()[:5] {
		if want := fmt.Sprintf(`{"topic":%q,"partition":0,"offset":%d,"reason":"registry-unavailable"}`, waits, i); e.data != want {
			t.Errorf("record %d: got %s %s, want %s", i, e.name, e.data, want)
		}
	}
	h.eventually("nothing waits", func() bool {
		h.r.hub.waiting.mu.Lock()
		defer h.r.hub.waiting.mu.Unlock()
		return h.r.hub.waiting.bytes == 0 && len(h.r.hub.waiting.queues) == 0
	})
	k.Produce(value(waits, 0, "later"))
	slow.until("what comes later", func(out string) bool { return strings.Contains(out, "later") })
}

// What waits is bounded: then the reader waits, and goes on.
func TestFullWaitingRoom(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	schemas := startRegistry(t)
	release := make(chan struct{})
	schemas.fail(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	})
	h := startRelay(t, k, schemas.with, func(c *Config) { c.Registry.Timeout = 30 * time.Second })
	h.r.hub.waiting.maxBytes = 1000
	s := h.open("/events/" + topic + "/")
	records, _ := avroRecords(topic, 0, 10)
	k.Produce(records...)
	h.eventually("the reader waits", func() bool { return countOf(t, h.r.hub.waiting.stalls) == 1 })
	close(release)
	k.Produce(value(topic, 0, "later"))
	s.until("all of them", func(string) bool { return len(s.events()) == 11 })
}

// A relay that stops while a schema is asked for stops at once, and calls
// nothing undecodable that it has only not waited for.
func TestStopWhileASchemaIsAskedFor(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	schemas := startRegistry(t)
	asked := make(chan struct{}, 100)
	schemas.fail(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	})
	h := startRelay(t, k, schemas.with, func(c *Config) { c.Registry.Timeout = 30 * time.Second })
	ctx, cancel := context.WithCancel(context.Background())
	records, _ := avroRecords(topic, 0, 5)
	begun := time.Now()
	done := make(chan error, 1)
	go func() {
		_, left, err := h.r.decoder.decode(ctx, topic, records)
		if err == nil || len(left) != 5 {
			err = fmt.Errorf("%d records are left, %w", len(left), err)
		} else {
			err = nil
		}
		done <- err
	}()
	<-asked
	cancel()
	if err := <-done; err != nil {
		t.Errorf("got %v, want all records left", err)
	}
	if d := time.Since(begun); d > 25*time.Second {
		t.Errorf("it took %v", d)
	}
	h.open("/events/" + topic + "/")
	k.Produce(records...)
	h.eventually("they wait", func() bool { return h.r.hub.waiting.busy(topic) })
	// The cleanup of the relay fails if it does not stop.
}

// A small record can be a large JSON. Not all of a block is there at once, and
// nothing of it is lost.
func TestDecodedRecordsAreBounded(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	const nulls = 600_000 // 3 MB
	produce := func() {
		for range 7 {
			k.Produce(&kgo.Record{Topic: topic, Value: written(avroNulls, zigzag(nulls)+zigzag(0))})
		}
	}
	produce()
	h := startRelay(t, k, startRegistry(t).with)
	t0 := mustLookup(t, h, topic)
	blocks, errs := h.r.blocks.get(context.Background(), []blockWant{{info: t0, end: 7}})
	if errs[0] != nil || blocks[0].Len() != 3 || blocks[0].next != 3 {
		t.Fatalf("got %d records before offset %d, %v, want the 3 that make more than %d bytes", blocks[0].Len(), blocks[0].next, errs[0], decodeBytes)
	}
	s := h.open("/events/" + topic + "/?from=earliest")
	s.until("history", func(string) bool { return len(s.events()) == 7 && s.holding })
	produce()
	s.until("all", func(string) bool { return len(s.events()) == 14 })
	for i, e := range s.events() {
		if len(e.data) != 5*nulls+1 {
			t.Errorf("event %d has %d bytes, want %d", i, len(e.data), 5*nulls+1)
		}
	}
}

func TestCodecsOfRules(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	key := func(text string) []byte { return written(avroText, zigzag(int64(len(text)))+text) }
	b64 := base64.StdEncoding.EncodeToString
	avro, proto := asAvro(avroOrder, 1), asProto(1)
	want := make(map[string][]string) // by topic
	for _, tt := range []struct {
		rule       string
		key, value []byte
		want       string // the envelope from the key on, or the event's name and its reason
	}{
		{"none", key("a"), avro, `"key":"\u0000\u0000\u0000\u0000\n\u0002a","value":` + orderJSON(1)},
		{"keys", key("a"), avro, `"key":"a","value":` + orderJSON(1)},
		{"keys", written(avroOrder, zigzag(1)+zigzag(0)), nil, `"key":"{\"n\":1,\"note\":null}","value":null,"op":"delete"`},
		{"keys", []byte("as it is"), avro, `"key":"as it is","value":` + orderJSON(1)},
		{"auto", key("a"), avro, `"key":"a","value":` + orderJSON(1)},
		{"auto", []byte("as it is"), []byte("1"), `"key":"as it is","value":1`},
		{"avro", nil, avro, `"value":` + orderJSON(1)},
		{"avro", nil, nil, `"value":null,"op":"delete"`},
		{"avro", nil, []byte(`{"n":1}`), `"error":"not-wire-format","value_base64":"` + b64([]byte(`{"n":1}`)) + `"`},
		{"avro", nil, proto, `"error":"other-schema","value_base64":"` + b64(proto) + `"`},
		{"proto", nil, proto, `"value":` + orderJSON(1)},
		{"json", nil, []byte(`{"n":1}`), `"value":{"n":1}`},
		{"json", nil, proto, `"value":"\u0000\u0000\u0000\u0000\u0008\u0000\u0008\u0001\u0012\u0002hi"`},
		{"string", nil, []byte(`{"n":1}`), `"value":"{\"n\":1}"`},
		{"string", nil, []byte("\xff"), `"value_base64":"/w=="`},
		{"binary", nil, []byte(`{"n":1}`), `"value_base64":"eyJuIjoxfQ=="`},
	} {
		topic := topic + "-" + tt.rule
		if len(want[topic]) == 0 {
			k.CreateTopic(topic, 1)
		}
		k.Produce(&kgo.Record{Topic: topic, Key: tt.key, Value: tt.value})
		want[topic] = append(want[topic], tt.want)
	}
	h := startRelay(t, k, startRegistry(t).with, func(c *Config) {
		c.TopicRules = `{".*-keys": {"codec": {"key": "avro"}}, ".*-auto": {"codec": {"key": "auto", "value": "auto"}},
			".*-avro": {"codec": {"value": "avro"}}, ".*-proto": {"codec": {"value": "protobuf"}}, ".*-json": {"codec": {"value": "json"}},
			".*-string": {"codec": {"value": "string"}}, ".*-binary": {"codec": {"value": "binary"}}}`
	})
	for topic, want := range want {
		s := h.open("/events/" + topic + "/?from=earliest&format=envelope")
		s.until("all", func(string) bool { return len(s.events()) == len(want) })
		for i, want := range want {
			if _, got, _ := strings.Cut(strings.TrimSuffix(s.events()[i].data, "}"), `Z",`); got != want {
				t.Errorf("%s, record %d: got %s, want %s", topic, i, got, want)
			}
		}
	}
	// A key is found as it is shown.
	s := h.open("/events/" + topic + "-keys/?from=earliest&key=a")
	s.wantData(orderJSON(1))
}

// Of a topic whose values are text or bytes by its rule, filters and projections
// see just that, live and in history.
func TestFilterOnValuesOfAFixedCodec(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	records := func(suffix string) (all []*kgo.Record) {
		for _, v := range [][]byte{[]byte(`{"n":1}`), []byte("1"), []byte("text"), {0xff}} {
			all = append(all, &kgo.Record{Topic: topic + suffix, Value: v})
		}
		return all
	}
	suffixes := []string{"-auto", "-string", "-binary"}
	for _, suffix := range suffixes {
		k.CreateTopic(topic+suffix, 1)
		k.Produce(records(suffix)...)
	}
	h := startRelay(t, k, func(c *Config) {
		c.TopicRules = `{".*-string": {"codec": {"value": "string"}}, ".*-binary": {"codec": {"value": "binary"}}}`
	})
	const (
		object, number, null = `"value":{"n":1}`, `"value":1`, `"value":null`
		text, one, quoted    = `"value":"text"`, `"value":"1"`, `"value":"{\"n\":1}"`
		text64, ff64         = `"value_base64":"dGV4dA=="`, `"value_base64":"/w=="`
	)
	type test struct {
		s    *stream
		name string
		want []string // values as the envelope has them
	}
	var tests []test
	for _, tt := range []struct {
		query              string
		auto, text, binary []string
	}{
		{"filter=value.n==1", []string{object}, nil, nil},
		{"filter=value.n%2B0==1", []string{object}, nil, nil}, // no look-up
		{"filter=value==1", []string{number}, nil, nil},
		{"filter=value=='1'", nil, []string{one}, nil},
		{"filter=value.startsWith('t')", []string{text}, []string{text}, nil},
		{"filter=value.contains('1')", nil, []string{quoted, one}, nil},
		{"filter=value==b'text'", nil, nil, []string{text64}},
		{"filter=value==b'%5Cxff'", []string{ff64}, []string{ff64}, []string{ff64}},
		{"fields=n", []string{object, null, null, null}, []string{null, null, null, null}, []string{null, null, null, null}},
	} {
		for i, want := range [][]string{tt.auto, tt.text, tt.binary} {
			url := "/events/" + topic + suffixes[i] + "/?format=envelope&from=earliest&" + tt.query
			tests = append(tests, test{h.open(url), url, slices.Concat(want, want)})
		}
	}
	for _, tt := range tests {
		tt.s.until("hold", func(string) bool { return tt.s.holding })
	}
	for _, suffix := range suffixes {
		k.Produce(records(suffix)...)
	}
	for _, suffix := range suffixes {
		h.untilRead(topic+suffix, 8)
	}
	for _, tt := range tests {
		for tt.s.step() {
		}
		var got []string
		for _, e := range tt.s.events() {
			_, v, _ := strings.Cut(strings.TrimSuffix(e.data, "}"), `Z",`)
			got = append(got, v)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// Keys that are decoded are one key if they read the same, whichever schema
// wrote them: in snapshots, and for what supersedes what.
func TestKeysOfSeveralSchemas(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1)
	keyed := func(id uint32, key, v string) *kgo.Record {
		r := &kgo.Record{Topic: topic, Key: written(id, zigzag(int64(len(key)))+key)}
		if v != "" {
			r.Value = []byte(v)
		}
		return r
	}
	k.Produce(keyed(avroText, "a", "1"), keyed(avroText, "b", "1"), keyed(avroText, "c", "1"), keyed(avroText2, "a", "2"), keyed(avroText2, "b", ""))
	h := startRelay(t, k, startRegistry(t).with, func(c *Config) { c.TopicRules = `{".*": {"codec": {"key": "avro"}}}` })
	url := "/events/" + topic + "/?"
	s := h.open(url + "from=snapshot")
	s.wantData("2", "1", `live {"replayed":2}`)
	sparing := h.open(url + "from=earliest&slow=latest")
	sparing.wantData("1", "2", "delete b")
	sparing.until("hold", func(string) bool { return sparing.holding })
	one := h.open(url + "from=snapshot&filter=value==2")
	one.wantData("2", `live {"replayed":1}`)

	k.Produce(keyed(avroText, "a", "3"), keyed(avroText2, "c", ""))
	s.wantData("2", "1", `live {"replayed":2}`, "3", "delete c")
	one.wantData("2", `live {"replayed":1}`, "delete a")
	sparing.wantData("1", "2", "delete b", "3", "delete c")
	// The gateway tells by these what to pass over.
	if got, want := sparing.ch.keys, []string{"a", "c"}; !slices.Equal(got, want) {
		t.Errorf("the items have the keys %q, want %q", got, want)
	}
}

// A registry whose configuration cannot work is refused at the start.
func TestRegistryConfig(t *testing.T) {
	for _, tt := range []struct {
		name      string
		configure func(*Config)
		want      string
	}{
		{"a value's codec without a registry", func(c *Config) { c.TopicRules = `{"orders.*": {"codec": {"value": "avro"}}}` },
			`TOPIC_RULES: "orders.*": codec.value avro needs a schema registry; set SCHEMA_REGISTRY_URL`},
		{"a key's", func(c *Config) { c.TopicRules = `{"a": {"codec": {"key": "protobuf"}}}` }, `codec.key protobuf needs a schema registry`},
		{"credentials without a registry", func(c *Config) { c.Registry.Auth = "me:secret" }, "SCHEMA_REGISTRY_AUTH: there is no SCHEMA_REGISTRY_URL"},
		{"no URL", func(c *Config) { c.Registry.URLs = []string{"registry:8081"} }, "SCHEMA_REGISTRY_URL: number 1 is not a URL"},
	} {
		cfg := testConfig("localhost:9092")
		tt.configure(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// What a rule hides is hidden in what was decoded, and an empty value is no
// tombstone because of it.
func TestRedactionOfDecodedValues(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	k.Produce(&kgo.Record{Topic: topic, Value: []byte{}}, &kgo.Record{Topic: topic, Value: asAvro(avroOrder, 1)}, &kgo.Record{Topic: topic, Value: asAvro(noSuchOrder, 1)})
	h := startRelay(t, k, startRegistry(t).with, func(c *Config) { c.TopicRules = `{".*": {"redact": ["value.note"]}}` })
	s := h.open("/events/" + topic + "/?from=earliest&format=envelope")
	s.until("all", func(string) bool { return len(s.events()) == 3 })
	for i, want := range []string{`"value":""}`, `"value":{"n":1}}`, `"error":"unknown-schema"}`} {
		if got := s.events()[i].data; !strings.HasSuffix(got, want) {
			t.Errorf("record %d: got %s, want …%s", i, got, want)
		}
	}
}

// The relay command publishes what is decoded.
func TestForwardDecoded(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	k.Produce(&kgo.Record{Topic: topic, Value: asAvro(avroOrder, 1)}, &kgo.Record{Topic: topic, Value: asAvro(noSuchOrder, 1)})
	var p memPublisher
	startForwarder(t, k, topic, &p, startRegistry(t).with)
	h := &harness{t: t}
	h.eventually("both", func() bool { return len(p.accepted()) == 2 })
	lost := fmt.Sprintf(`{"topic":%q,"partition":0,"offset":1,"reason":"unknown-schema"}`, topic)
	for i, want := range []string{
		"1<0 build-idevent: message$id: %I$data: " + orderJSON(1) + "$$|" + orderJSON(1),
		"2<1 build-idevent: undecodable$id: %I$data: " + lost + "$$|" + lost,
	} {
		if got := p.accepted()[i]; got != topic+".0 "+want {
			t.Errorf("item %d: got %q, want %q", i, got, want)
		}
	}
}

func TestSchemaIDInEnvelopes(t *testing.T) {
	for _, tt := range []struct {
		query, accept string
		want          bool
	}{
		{"schema=1&format=envelope", "", true},
		{"schema=0&format=envelope", "", false},
		{"schema=1", "", false}, // a value alone has no place for it, and shares its channel
		{"schema=1", "application/x-ndjson", true},
	} {
		r := httptest.NewRequest(http.MethodGet, "/events/t/?"+tt.query, nil)
		if tt.accept != "" {
			r.Header.Set("Accept", tt.accept)
		}
		s, err := parseSelection("t/", r, nil, testQueries(), nil, nil, noon)
		if err != nil || s.schema != tt.want || strings.Contains(s.key(), "schema") != tt.want {
			t.Errorf("%s %s: got %v in %q, %v, want %v", tt.query, tt.accept, s.schema, s.key(), err, tt.want)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/events/t/?schema=yes", nil)
	if _, err := parseSelection("t/", r, nil, testQueries(), nil, nil, noon); err == nil || !strings.Contains(err.Error(), "schema=yes: must be 0 or 1") {
		t.Errorf("got %v, want what would be right", err)
	}
}
