package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// TestModel does what it likes to three topics and two servers, one thing after
// the other, while clients come and go at the servers, which keep next to nothing
// in memory, and holds what each client gets against a list of what was produced:
// no loss, no repetition, each partition in its order, what is gone is announced,
// and every id leads on, on either server and by every way out.
//
// It lasts as long as SPILLWAY_MODEL says (2h). SPILLWAY_MODEL_SEED repeats the
// choices of a run, not what the scheduler made of them.
func TestModel(t *testing.T) {
	seed, lasting := uint64(time.Now().UnixNano()), time.Duration(0)
	var err error
	if text := os.Getenv("SPILLWAY_MODEL_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("SPILLWAY_MODEL_SEED=%s: want a number", text)
		}
	}
	if text := os.Getenv("SPILLWAY_MODEL"); text != "" {
		if lasting, err = time.ParseDuration(text); err != nil || lasting <= 0 {
			t.Fatalf("SPILLWAY_MODEL=%s: want a duration such as 10m", text)
		}
	}
	t.Logf("SPILLWAY_MODEL_SEED=%d", seed)
	// Both at once: neither needs a whole machine.
	t.Run("kfake", func(t *testing.T) {
		t.Parallel()
		newModelRun(t, kafkatest.Fake(t), seed).run(max(lasting, 6*time.Second))
	})
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		newModelRun(t, kafkatest.Real(t), seed).run(max(lasting, time.Minute))
	})
}

// A modelRun is what TestModel does to one Kafka and its servers.
type modelRun struct {
	model
	t       *testing.T
	k       *kafkatest.Cluster
	seed    uint64
	rand    *rand.Rand
	servers []*server
	clients []*modelClient
	wrong   chan error // what clients found

	open    *kafkatest.Txn             // nil: none
	pending []*modelRecord             // of open
	away    *server                    // nil: all are there
	killed  bool                       // away did not stop by itself
	settled map[settledAt]map[int]bool // partitions that it has answered with
	done    map[string]int             // how often each card was played
}

// A settledAt is what a server knows of a topic as it is. It knows a partition when
// it has answered with a record of it: an answer that needed none proves nothing.
type settledAt struct {
	s *server
	t int
}

// modelCards are what is done: one after the other, in another order each time.
// Each is called with mu held.
var modelCards = []struct {
	name  string
	times int
	play  func(m *modelRun)
}{
	{"produce", 26, func(m *modelRun) { m.produce(m.rand.IntN(len(m.topics)), 1+m.rand.IntN(30)) }},
	{"transaction", 6, (*modelRun).transact},
	{"open transaction", 6, (*modelRun).openOrEnd},
	{"delete records", 4, (*modelRun).deleteRecords},
	{"grow", 1, (*modelRun).grow},
	{"create again", 1, (*modelRun).createAgain},
	{"compact", 2, (*modelRun).compact},
	{"probe", 5, (*modelRun).probe},
	{"restart", 1, (*modelRun).restart},
}

// modelSelections are of records with the keys k0 to k3.
var modelSelections = []modelView{
	{has: func(*modelRecord) bool { return true }},
	{params: []string{"key=k1"}, has: func(r *modelRecord) bool { return r.N%4 == 1 }},
	{params: []string{"key=k0", "key=k3", "fields=t,l,p,n"}, has: func(r *modelRecord) bool { return r.N%4 == 0 || r.N%4 == 3 }, bare: true},
	{params: []string{"partition=0"}, has: func(r *modelRecord) bool { return r.P == 0 }},
	{params: []string{"partition=1", "partition=0", "filter=value.n % 2 == 1"}, has: func(r *modelRecord) bool { return r.P < 2 && r.N%2 == 1 }},
	{params: []string{"filter=value.n % 7 == 3"}, has: func(r *modelRecord) bool { return r.N%7 == 3 }},
	{params: []string{"filter=value.p == 1 && headers.odd == '0'"}, has: func(r *modelRecord) bool { return r.P == 1 && r.N%2 == 0 }},
	{params: []string{"header.odd=1", "filter=value.p != 1"}, has: func(r *modelRecord) bool { return r.N%2 == 1 && r.P != 1 }},
}

// compactedSelections are of the compacted topic, whose keys are c0.0 to c11.0 in
// partition 0, and so on. Only keys, headers and partitions find tombstones.
var compactedSelections = []modelView{
	{has: func(*modelRecord) bool { return true }},
	{params: []string{"key=c1.0", "key=c2.0", "key=c1.1", "key=anchor.1"}, has: func(r *modelRecord) bool {
		return slices.Contains([]string{"c1.0", "c2.0", "c1.1", "anchor.1"}, r.key)
	}},
	{params: []string{"filter=value.n % 2 == 0"}, has: func(r *modelRecord) bool { return !r.deletes && r.N%2 == 0 }},
	{params: []string{"partition=1", "header.odd=1"}, has: func(r *modelRecord) bool { return r.P == 1 && r.N%2 == 1 }},
	{params: []string{"partition=0", "fields=t,l,p,n"}, has: func(r *modelRecord) bool { return r.P == 0 }, bare: true},
}

func newModelRun(t *testing.T, k *kafkatest.Cluster, seed uint64) *modelRun {
	m := &modelRun{
		t: t, k: k, seed: seed, rand: rand.New(rand.NewPCG(seed, 0)), wrong: make(chan error, 100),
		settled: make(map[settledAt]map[int]bool), done: make(map[string]int),
	}
	for i := range 3 {
		m.topics = append(m.topics, &modelTopic{name: kafkatest.UniqueTopic(t) + strconv.Itoa(i), compacted: i == 2})
		m.create(i, 2+i%2)
	}
	for range 2 {
		m.servers = append(m.servers, serve(t, k, "CHANNEL_LOG_BYTES=4KiB", "CHANNEL_LOG_MIN_AGE=0s", "HISTORY_PAGE_BYTES=4KiB", "HISTORY_CACHE_BYTES=1MiB",
			"HEARTBEAT_INTERVAL=1s", "TOPIC_LINGER=1s", "DRAIN_TIMEOUT=3s", "LOG_LEVEL=warn"))
	}
	view := func(v modelView, topics ...int) modelView {
		v.topics = topics
		return v
	}
	snapshot := func(v modelView) modelView {
		v.snapshot = true
		return view(v, 2)
	}
	n := len(modelSelections)
	for i, v := range modelSelections {
		m.client(view(v, 0))
		m.client(view(v, 1), view(modelSelections[(i+1)%n], 0), snapshot(compactedSelections[i%5]))
		m.client(view(v, 0, 1), view(modelSelections[(i+2)%n], 1), view(modelSelections[(i+3)%n], 0, 1))
	}
	for i, v := range compactedSelections {
		m.client(view(v, 2))
		m.client(snapshot(v), view(modelSelections[i], 1), view(compactedSelections[(i+1)%5], 2))
	}
	m.client(view(modelSelections[0], 0, 1, 2))
	return m
}

// client adds a client whose first view is that of its URLs.
func (m *modelRun) client(views ...modelView) {
	c := &modelClient{m: &m.model, rand: rand.New(rand.NewPCG(m.seed, uint64(len(m.clients)+1)))}
	for _, s := range m.servers {
		c.urls = append(c.urls, s.url)
	}
	for _, v := range views {
		c.readers = append(c.readers, newModelReader(&m.model, v))
	}
	m.clients = append(m.clients, c)
}

func (m *modelRun) run(lasting time.Duration) {
	ctx, cancel := context.WithCancel(m.t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	finish := make(chan struct{}) // closed when nothing more is done: clients stay until they have it all
	for i, c := range m.clients {
		running.Go(func() { // ends with its first fault, when it has all in the end, or with ctx
			if err := c.run(ctx, finish); err != nil {
				m.wrong <- m.report(i, c, err)
			}
		})
	}
	m.play(lasting)
	m.fence()
	close(finish)
	done := make(chan struct{})
	go func() { // ends with the clients
		defer close(done)
		running.Wait()
	}()
	select {
	case <-done:
	case <-time.After(2 * patience):
		cancel()
		<-done
	}
	close(m.wrong)
	for err := range m.wrong {
		m.t.Error(err)
	}
	m.summary()
}

// play plays cards until time is up, or somebody has found a fault.
func (m *modelRun) play(lasting time.Duration) {
	pace := time.NewTicker(25 * time.Millisecond)
	defer pace.Stop()
	var deck []int
	for end := time.Now().Add(lasting); time.Now().Before(end) && len(m.wrong) == 0; {
		if len(deck) == 0 {
			for i, card := range modelCards {
				deck = append(deck, slices.Repeat([]int{i}, card.times)...)
			}
			m.rand.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		card := modelCards[deck[0]]
		deck = deck[1:]
		m.locked(func() { card.play(m) })
		m.done[card.name]++
		<-pace.C
	}
}

func (m *modelRun) locked(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// report says all that helps to find what went wrong.
func (m *modelRun) report(i int, c *modelClient, err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	for _, r := range c.readers {
		fmt.Fprintf(&b, "\n%s %v, %d records, now at %s; its newest requests:\n  %s\nand events:\n  %s",
			strings.Join(r.names(), ","), r.view.params, r.got, r.id, strings.Join(r.asks, "\n  "), strings.Join(r.story, "\n  "))
	}
	return fmt.Errorf("SPILLWAY_MODEL_SEED=%d, client %d, connection %d: %w%s\nwhat was done:\n  %s", m.seed, i, c.connections, err, b.String(), strings.Join(m.log, "\n  "))
}

func (m *modelRun) summary() {
	got, gaps, passed, connections, subscriptions, lives := 0, 0, 0, 0, 0, 0
	for _, c := range m.clients {
		connections, subscriptions = connections+c.connections, subscriptions+c.ref
		for _, r := range c.readers {
			got, gaps, passed = got+r.got, gaps+r.gaps, passed+r.passed
		}
	}
	for _, mt := range m.topics {
		lives += len(mt.lives)
	}
	m.t.Logf("%v; %d lives of topics; %d connections, %d subscriptions, %d records, %d gaps; %d records were passed over that are compacted",
		m.done, lives, connections, subscriptions, got, gaps, passed)
	if !m.t.Failed() && (gaps == 0 || subscriptions == 0 || connections < 2*len(m.clients)) {
		m.t.Error("something has not been tried")
	}
}

// create begins a life of a topic.
func (m *modelRun) create(t, partitions int) {
	mt := m.topics[t]
	var configs []string
	if mt.compacted { // at once, as far as there is a new segment
		configs = []string{"cleanup.policy=compact", "segment.ms=200", "min.cleanable.dirty.ratio=0.01", "max.compaction.lag.ms=200"}
	}
	m.k.CreateTopic(mt.name, partitions, configs...)
	mt.lives = append(mt.lives, nil)
	if old := len(mt.lives) - 5; old >= 0 {
		mt.lives[old] = nil
	}
	m.changed(t)
	for range partitions {
		m.add(t)
	}
}

// add notes a new partition.
func (m *modelRun) add(t int) *modelPartition {
	mt := m.topics[t]
	life := &mt.lives[len(mt.lives)-1]
	mp := &modelPartition{open: -1, newest: make(map[string]*modelRecord)}
	*life = append(*life, mp)
	if mt.compacted {
		// It stays, so that the log begins at 0 on kfake too, which would have it
		// begin with the first record that is left.
		m.commit(m.make(t, len(*life)-1))
	}
	return mp
}

func (m *modelRun) changed(t int) {
	m.topics[t].changed = time.Now()
	for _, s := range m.servers {
		delete(m.settled, settledAt{s, t})
	}
}

// make makes a record of a partition of a topic; -1: of any.
func (m *modelRun) make(t, p int) (*kgo.Record, *modelRecord) {
	mt := m.topics[t]
	if p < 0 {
		p = m.rand.IntN(len(mt.now()))
	}
	mp := mt.now()[p]
	r := &modelRecord{
		modelValue: modelValue{T: t, L: len(mt.lives) - 1, P: p, N: mp.number, Pad: modelPads[:m.rand.IntN(len(modelPads))]},
		time:       time.Now().Truncate(time.Millisecond),
	}
	mp.number++
	switch {
	case !mt.compacted:
		r.key = fmt.Sprintf("k%d", r.N%4)
	case r.N == 0:
		r.key = fmt.Sprintf("anchor.%d", p)
	default:
		r.key = fmt.Sprintf("c%d.%d", r.N%12, p)
		r.deletes = m.rand.IntN(5) == 0
	}
	kr := &kgo.Record{
		Topic: mt.name, Partition: int32(p), Key: []byte(r.key), Timestamp: r.time,
		Headers: []kgo.RecordHeader{{Key: "odd", Value: strconv.AppendInt(nil, int64(r.N%2), 10)}, {Key: "life", Value: strconv.AppendInt(nil, int64(r.L), 10)}},
	}
	if !r.deletes {
		value, err := json.Marshal(r.modelValue)
		if err != nil {
			panic(err) // our own type
		}
		kr.Value = value
	}
	return kr, r
}

var modelPads = strings.Repeat("x", 300)

// batch makes n records of a topic.
func (m *modelRun) batch(t, n int) (krs []*kgo.Record, rs []*modelRecord) {
	for range n {
		kr, r := m.make(t, -1)
		krs, rs = append(krs, kr), append(rs, r)
	}
	return krs, rs
}

func (m *modelRun) partition(r *modelRecord) *modelPartition { return m.topics[r.T].lives[r.L][r.P] }

// written notes where records are.
func (m *modelRun) written(rs []*modelRecord, offsets []int64) {
	for i, r := range rs {
		r.offset = offsets[i]
		m.partition(r).end = offsets[i] + 1
	}
}

func (m *modelRun) committed(rs []*modelRecord) {
	for _, r := range rs {
		m.partition(r).commit(r)
	}
}

// commit produces one record.
func (m *modelRun) commit(kr *kgo.Record, r *modelRecord) {
	m.written([]*modelRecord{r}, m.k.Produce(kr))
	m.committed([]*modelRecord{r})
}

func (m *modelRun) produce(t, n int) {
	krs, rs := m.batch(t, n)
	m.did("topic %d gets %d records", t, n)
	m.written(rs, m.k.Produce(krs...))
	m.committed(rs)
}

func (m *modelRun) transact() {
	t, n, commit := m.rand.IntN(len(m.topics)), 1+m.rand.IntN(8), m.rand.IntN(2) == 0
	krs, rs := m.batch(t, n)
	m.did("topic %d gets %d records in a transaction, committed %v", t, n, commit)
	m.written(rs, m.k.ProduceTxn(commit, krs...))
	if commit {
		m.committed(rs)
	}
}

// openOrEnd begins a transaction that stays open, goes on with it, or ends it.
func (m *modelRun) openOrEnd() {
	if m.open != nil && m.rand.IntN(2) == 0 {
		m.end()
		return
	}
	if m.open == nil {
		m.open = m.k.Begin()
	}
	t, n := m.rand.IntN(len(m.topics)), 1+m.rand.IntN(8)
	krs, rs := m.batch(t, n)
	m.did("topic %d gets %d records in the transaction that is open", t, n)
	m.written(rs, m.open.Produce(krs...))
	for _, r := range rs {
		if mp := m.partition(r); mp.open < 0 {
			mp.open = r.offset
		}
	}
	m.pending = append(m.pending, rs...)
}

func (m *modelRun) end() {
	if m.open == nil {
		return
	}
	commit := m.rand.IntN(2) == 0
	m.did("the open transaction ends, committed %v", commit)
	m.open.End(commit)
	for _, r := range m.pending {
		m.partition(r).open = -1
	}
	if commit {
		m.committed(m.pending)
	}
	m.open, m.pending = nil, nil
}

// deleteRecords deletes from the beginning of a partition; a compacted topic does
// not allow it.
func (m *modelRun) deleteRecords() {
	t := m.rand.IntN(2)
	mt := m.topics[t]
	p := m.rand.IntN(len(mt.now()))
	mp := mt.now()[p]
	if mp.stable() <= mp.start {
		return
	}
	before := mp.start + 1 + m.rand.Int64N(mp.stable()-mp.start)
	m.did("topic %d partition %d is deleted before %d", t, p, before)
	m.k.DeleteRecords(mt.name, int32(p), before)
	mp.start = before
}

func (m *modelRun) grow() {
	t := m.rand.IntN(len(m.topics))
	mt := m.topics[t]
	if len(mt.now()) >= 6 {
		return
	}
	if slices.ContainsFunc(m.pending, func(r *modelRecord) bool { return r.T == t }) {
		m.end() // its producer would not hear of the partition
	}
	m.did("topic %d gets partition %d", t, len(mt.now()))
	m.k.AddPartitions(mt.name, 1)
	m.changed(t)
	m.add(t).added = time.Now()
}

// createAgain deletes a topic, most often the same, and creates it again.
func (m *modelRun) createAgain() {
	t := 1
	if m.rand.IntN(6) == 0 {
		t = m.rand.IntN(len(m.topics))
	}
	m.end() // it would never end without its topic
	partitions := 2 + m.rand.IntN(3)
	m.did("topic %d is created again with %d partitions, life %d", t, partitions, len(m.topics[t].lives))
	m.k.DeleteTopic(m.topics[t].name)
	m.create(t, partitions)
}

// compact makes kfake compact; a real broker does so by itself.
func (m *modelRun) compact() {
	// It would take records for the newest that are not committed.
	if fake := m.k.Fake(); fake != nil && m.open == nil {
		m.did("compact")
		fake.Compact()
	}
}

// restart ends a server, or starts the one that was ended.
func (m *modelRun) restart() {
	if m.away == nil {
		s := m.rand.IntN(len(m.servers))
		m.away, m.killed = m.servers[s], m.rand.IntN(4) > 0
		m.did("server %d goes away, killed %v", s, m.killed)
		if m.killed {
			m.away.kill()
		} else {
			m.away.signal(syscall.SIGTERM)
		}
		return
	}
	if code := m.away.wait(); code != 0 && !m.killed {
		m.t.Errorf("exit code after SIGTERM: got %d, want 0", code)
	}
	m.did("the server comes back")
	m.away.start()
	m.away = nil
}

// fence ends it all with records that every view has some of, in each partition,
// so that whatever went missing before them is noticed.
func (m *modelRun) fence() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.end()
	if m.away != nil {
		m.restart()
	}
	m.did("the last records")
	for t, mt := range m.topics {
		for p := range mt.now() {
			var krs []*kgo.Record
			var rs []*modelRecord
			for range 84 { // all remainders of 12 and of 7
				kr, r := m.make(t, p)
				krs, rs = append(krs, kr), append(rs, r)
			}
			m.written(rs, m.k.Produce(krs...))
			m.committed(rs)
		}
	}
	for t := range m.topics {
		m.probeOf(t, m.servers[t%2])
	}
}

// probe asks a server for a replay that ends now, while nothing is produced.
func (m *modelRun) probe() {
	s := m.servers[m.rand.IntN(len(m.servers))]
	if t := m.rand.IntN(len(m.topics)); s != m.away && m.open == nil {
		m.probeOf(t, s)
	}
}

// A modelQuestion is a bounded request of which it is known exactly what the
// answer is.
type modelQuestion struct {
	view   modelView
	params []string
	all    []*modelRecord // that the view has, in the order of time
	limit  int            // 0: none
	last   int            // 0: it begins with the first of all
}

// probeOf holds the answer against the list, record by record. What is younger
// than what a server has read, or has heard of, may change it for a moment.
func (m *modelRun) probeOf(t int, s *server) {
	mt := m.topics[t]
	now := time.Now().Truncate(time.Millisecond).Add(time.Millisecond)
	q := modelQuestion{params: []string{"until=" + strconv.FormatInt(now.UnixMilli(), 10)}}
	q.view = modelSelections[m.rand.IntN(len(modelSelections))]
	if mt.compacted {
		q.view = compactedSelections[m.rand.IntN(len(compactedSelections))]
	}
	var since time.Time
	switch n := m.rand.IntN(3); {
	case n == 0 && !mt.compacted:
		q.last = 1 + m.rand.IntN(200)
		q.params = append(q.params, "last="+strconv.Itoa(q.last))
	case n == 1:
		since = now.Add(-time.Duration(m.rand.IntN(3000)) * time.Millisecond)
		q.params = append(q.params, "since="+strconv.FormatInt(since.UnixMilli(), 10))
	default:
		q.params = append(q.params, "from=earliest")
	}
	if m.rand.IntN(3) == 0 {
		q.limit = 1 + m.rand.IntN(200)
		q.params = append(q.params, "limit="+strconv.Itoa(q.limit))
	}
	for _, mp := range mt.now() {
		for _, r := range mp.records[mp.from(mp.start):] {
			if q.view.has(r) && !r.time.Before(since) && !(mt.compacted && mp.superseded(r)) {
				q.all = append(q.all, r)
			}
		}
	}
	slices.SortStableFunc(q.all, func(a, b *modelRecord) int { return a.time.Compare(b.time) })
	q.params = append(q.params, q.view.params...)
	m.did("probe of topic %d at %s: %v", t, s.url, q.params)
	for deadline := time.Now().Add(patience); ; {
		lost, err := m.answer(t, s, &q)
		if err == nil {
			return
		}
		if lost && len(m.settled[settledAt{s, t}]) == len(mt.now()) || time.Now().After(deadline) {
			m.wrong <- fmt.Errorf("SPILLWAY_MODEL_SEED=%d, probe of topic %d at %s: %v: %w\nwhat was done:\n  %s", m.seed, t, s.url, q.params, err, strings.Join(m.log, "\n  "))
			return
		}
		time.Sleep(20 * time.Millisecond) // between two looks, not instead of one
	}
}

// answer asks the question. lost says that something did not come that was to be
// read before the server was asked.
func (m *modelRun) answer(t int, s *server, q *modelQuestion) (lost bool, err error) {
	mt := m.topics[t]
	reader := newModelReader(&m.model, q.view)
	reader.view.topics = []int{t}
	values := make(url.Values)
	for _, param := range q.params {
		name, value, _ := strings.Cut(param, "=")
		values.Add(name, value)
	}
	address := s.url + "/events/" + mt.name + "/?" + values.Encode()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	events, status, err := readLines(ctx, address, "")
	if err != nil || status != http.StatusOK {
		return false, fmt.Errorf("got status %d, %w", status, err)
	}
	var got []*modelRecord
	next := make([]int64, len(mt.now()))
	for i, e := range events {
		switch {
		case e.name == "record" || e.name == "delete":
			_, r, err := reader.find(e)
			if err != nil {
				return false, err
			}
			if r.L != len(mt.lives)-1 {
				return false, fmt.Errorf("got %v, which is of an old life", r)
			}
			if !q.view.has(r) || r.offset < next[r.P] || r.offset < mt.now()[r.P].start {
				return true, fmt.Errorf("got %v, want offset %d or later", r, next[r.P])
			}
			next[r.P] = r.offset + 1
			if !mt.compacted || !mt.now()[r.P].superseded(r) {
				got = append(got, r)
			}
		case e.name == "end" && i == len(events)-1:
			if _, status, err := readLines(ctx, address, e.id); err != nil || status != http.StatusNoContent {
				return false, fmt.Errorf("after the end: got status %d, %v, want 204", status, err)
			}
		default:
			return false, fmt.Errorf("got %s %s", e.name, e.data)
		}
	}
	if len(events) == 0 || events[len(events)-1].name != "end" {
		return false, errors.New("got no end")
	}
	if lost, err := q.compare(mt, got, len(events)-1); err != nil {
		return lost, err
	}
	at := settledAt{s, t}
	for _, r := range got {
		if m.settled[at] == nil {
			m.settled[at] = make(map[int]bool)
		}
		m.settled[at][r.P] = true
	}
	return false, nil
}

// compare holds the records that came against those that had to. Of a compacted
// topic got and all are without those that may have been removed, and came is how
// many came with them.
func (q *modelQuestion) compare(mt *modelTopic, got []*modelRecord, came int) (lost bool, err error) {
	want := len(q.all)
	if q.last > 0 {
		want = min(want, q.last)
	}
	if q.limit > 0 && came > q.limit {
		return true, fmt.Errorf("got %d records", came)
	}
	if q.limit > 0 && mt.compacted && came == q.limit {
		return false, nil // which of them is not known
	}
	if q.limit > 0 {
		want = min(want, q.limit)
	}
	if len(got) < want {
		return true, fmt.Errorf("got %d records, want %d", len(got), want)
	}
	if len(got) > want {
		return false, fmt.Errorf("got %d records, want %d", len(got), want)
	}
	// Of each partition all, the first of all, or the last of all. How partitions
	// share in what there is of limit and last, only time says.
	for p := range mt.now() {
		of := func(rs []*modelRecord) (out []*modelRecord) {
			for _, r := range rs {
				if r.P == p {
					out = append(out, r)
				}
			}
			return out
		}
		all, some := of(q.all), of(got)
		switch {
		case q.last > 0 && q.limit > 0: // from the middle
			first := slices.IndexFunc(all, func(r *modelRecord) bool { return len(some) > 0 && r == some[0] })
			all = all[max(first, 0):]
			fallthrough
		case q.last == 0:
			all = all[:min(len(some), len(all))]
		default:
			all = all[max(len(all)-len(some), 0):]
		}
		if !slices.Equal(some, all) {
			return true, fmt.Errorf("partition %d: got %v, want %v", p, some, all)
		}
	}
	if q.last > 0 && q.limit == 0 && want > 0 {
		oldest := slices.MinFunc(got, func(a, b *modelRecord) int { return a.time.Compare(b.time) })
		if newer := q.all[len(q.all)-want]; oldest.time.Before(newer.time) {
			return false, fmt.Errorf("got %v of %v, want none before %v", oldest, oldest.time, newer.time)
		}
	}
	return false, nil
}

// readLines reads a bounded stream to its end.
func readLines(ctx context.Context, address, id string) (events []*modelEvent, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Accept", "application/x-ndjson")
	if id != "" {
		req.Header.Set("Last-Event-ID", id)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, resp.StatusCode, err
	}
	for line := range strings.Lines(string(body)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		e, err := parseModelEvent("", line, "")
		if err != nil {
			return nil, resp.StatusCode, err
		}
		events = append(events, e)
	}
	return events, resp.StatusCode, nil
}
