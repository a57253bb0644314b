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
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// TestModel does what it likes to two topics, one thing after the other, while
// clients come and go at two servers that keep next to nothing in memory, and
// holds what each client gets against a list of what was produced: no loss, no
// repetition, each partition in its order, what is gone is announced, and every
// id leads on, on either server and by every way out.
//
// It runs on demand, for as long as SPILLWAY_MODEL says (10m). SPILLWAY_MODEL_SEED
// repeats the choices of a run, not what the scheduler made of them.
func TestModel(t *testing.T) {
	text := os.Getenv("SPILLWAY_MODEL")
	if text == "" {
		t.Skip("the model runs for as long as SPILLWAY_MODEL says, such as 1m")
	}
	lasting, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("SPILLWAY_MODEL=%s: want a duration such as 10m", text)
	}
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		seed := uint64(time.Now().UnixNano())
		if text := os.Getenv("SPILLWAY_MODEL_SEED"); text != "" {
			var err error
			if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
				t.Fatalf("SPILLWAY_MODEL_SEED=%s: want a number", text)
			}
		}
		t.Logf("SPILLWAY_MODEL_SEED=%d", seed)
		runModel(t, k, seed, lasting)
	})
}

// A model is what Kafka has, as far as clients may know.
type model struct {
	mu     sync.Mutex
	topics []*modelTopic
	log    []string // the newest things done, for the report of a fault
}

// A modelTopic is all lives of a topic: it is deleted and created again.
type modelTopic struct {
	name  string
	lives [][]*modelPartition
	born  time.Time // when the newest began
}

type modelPartition struct {
	records []modelRecord // those that were committed, in the order of offsets
	number  int           // of the next record, aborted ones included
	start   int64         // where the log begins
	end     int64         // the offset after all that was produced
}

type modelRecord struct {
	offset int64
	modelValue
}

// A modelValue is the value of a record. Its key is k<N modulo 4>.
type modelValue struct {
	T   int    `json:"t"` // which topic,
	L   int    `json:"l"` // which life of it
	P   int    `json:"p"` // and which partition
	N   int    `json:"n"`
	Pad string `json:"pad,omitempty"`
}

func (mt *modelTopic) now() []*modelPartition { return mt.lives[len(mt.lives)-1] }

// did notes a thing done. Call with mu held.
func (m *model) did(format string, args ...any) {
	m.log = append(m.log, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
	if len(m.log) > 40 {
		m.log = m.log[1:]
	}
}

// A modelView is what a client asks for, and which records that is.
type modelView struct {
	topics []int
	query  string
	has    func(v modelValue) bool
}

var modelSelections = []struct {
	query string
	has   func(v modelValue) bool
}{
	{"", func(modelValue) bool { return true }},
	{"", func(modelValue) bool { return true }},
	{"&key=k1", func(v modelValue) bool { return v.N%4 == 1 }},
	{"&key=k0&key=k3&fields=t,l,p,n", func(v modelValue) bool { return v.N%4 == 0 || v.N%4 == 3 }},
	{"&partition=0", func(v modelValue) bool { return v.P == 0 }},
	{"&partition=1&partition=0&filter=value.n%252==1", func(v modelValue) bool { return v.P < 2 && v.N%2 == 1 }},
	{"&filter=value.n%257==3", func(v modelValue) bool { return v.N%7 == 3 }},
	{"&header.odd=1&filter=value.p!=1", func(v modelValue) bool { return v.N%2 == 1 && v.P != 1 }},
}

// A modelClient is one that has been told to disconnect now and then.
type modelClient struct {
	m       *model
	view    modelView
	rand    *rand.Rand
	servers []*server

	id          string
	places      map[[2]int]*modelPlace // by topic and partition
	lives       map[int]int            // by topic; -1: the next record says
	connections int
	got         int
	gaps        int
	story       []string // of the newest events
}

// A modelPlace is where a client is in a partition.
type modelPlace struct {
	known bool  // it has had a record, or was told of a gap, in this life
	next  int64 // the first offset that it must not miss; before it, if known, none may come
}

// errModel is a fault; any other error is one of a connection.
type errModel struct{ what string }

func (e *errModel) Error() string { return e.what }

func faultf(format string, args ...any) error { return &errModel{fmt.Sprintf(format, args...)} }

func runModel(t *testing.T, k *kafkatest.Cluster, seed uint64, lasting time.Duration) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	m := &model{}
	for i := range 2 {
		mt := &modelTopic{name: kafkatest.UniqueTopic(t) + strconv.Itoa(i)}
		m.topics = append(m.topics, mt)
		m.create(k, mt, 2+i)
	}
	var servers []*server
	for range 2 {
		s := serve(t, k, "CHANNEL_LOG_BYTES=4KiB", "CHANNEL_LOG_MIN_AGE=0s", "HISTORY_PAGE_BYTES=4KiB", "HISTORY_CACHE_BYTES=1MiB",
			"HEARTBEAT_INTERVAL=1s", "TOPIC_LINGER=1s", "LOG_LEVEL=warn")
		servers = append(servers, s)
	}

	finish := make(chan struct{}) // closed when nothing more is done: clients stay until they have it all
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var running sync.WaitGroup
	var clients []*modelClient
	faults := make(chan error, 100)
	for i := range 24 {
		v := modelView{topics: [][]int{{0}, {1}, {0, 1}}[i%3]}
		s := modelSelections[i/3%len(modelSelections)]
		v.query, v.has = s.query, s.has
		c := &modelClient{
			m: m, view: v, servers: servers, rand: rand.New(rand.NewPCG(seed, uint64(i+1))),
			places: make(map[[2]int]*modelPlace), lives: make(map[int]int),
		}
		clients = append(clients, c)
		running.Go(func() { // ends with its first fault, when it has all in the end, or with ctx
			if err := c.run(ctx, finish); err != nil {
				m.mu.Lock()
				faults <- fmt.Errorf("client %d of %s%s, connection %d, %d records so far: %w\nits newest events:\n  %s\nwhat was done:\n  %s",
					i, v.names(m), v.query, c.connections, c.got, err, strings.Join(c.story, "\n  "), strings.Join(m.log, "\n  "))
				m.mu.Unlock()
			}
		})
	}

	pace := time.NewTicker(25 * time.Millisecond)
	defer pace.Stop()
	steps := 0
	for end := time.Now().Add(lasting); time.Now().Before(end) && len(faults) == 0; steps++ {
		m.step(k, rnd)
		<-pace.C
	}
	m.fence(k)
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
	close(faults)
	for err := range faults {
		t.Error(err)
	}
	got, gaps, connections := 0, 0, 0
	for _, c := range clients {
		got, gaps, connections = got+c.got, gaps+c.gaps, connections+c.connections
	}
	t.Logf("%d steps, %d lives of topics, %d connections, %d records and %d gaps seen", steps, len(m.topics[0].lives)+len(m.topics[1].lives), connections, got, gaps)
	if got == 0 || connections < 2*len(clients) {
		t.Errorf("%d records over %d connections: nothing has been tried", got, connections)
	}
}

// create begins a life of a topic. Call with mu held, or alone.
func (m *model) create(k *kafkatest.Cluster, mt *modelTopic, partitions int) {
	k.CreateTopic(mt.name, partitions)
	var life []*modelPartition
	for range partitions {
		life = append(life, &modelPartition{})
	}
	mt.lives, mt.born = append(mt.lives, life), time.Now()
}

// step does one thing.
func (m *model) step(k *kafkatest.Cluster, rnd *rand.Rand) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := rnd.IntN(len(m.topics))
	mt := m.topics[t]
	switch n := rnd.IntN(1000); {
	case n < 6 && len(mt.lives) < 20:
		partitions := 2 + rnd.IntN(3)
		m.did("topic %d is created again with %d partitions, life %d", t, partitions, len(mt.lives))
		k.DeleteTopic(mt.name)
		m.create(k, mt, partitions)
	case n < 20 && len(mt.now()) < 6:
		m.did("topic %d gets partition %d", t, len(mt.now()))
		k.AddPartitions(mt.name, 1)
		mt.lives[len(mt.lives)-1] = append(mt.now(), &modelPartition{})
	case n < 60:
		p := rnd.IntN(len(mt.now()))
		if mp := mt.now()[p]; mp.end > mp.start {
			before := mp.start + 1 + rnd.Int64N(mp.end-mp.start)
			m.did("topic %d partition %d is deleted before %d", t, p, before)
			k.DeleteRecords(mt.name, int32(p), before)
			mp.start = before
		}
	case n < 130:
		m.produce(k, rnd, t, 1+rnd.IntN(8), true, rnd.IntN(2) == 0)
	default:
		m.produce(k, rnd, t, rnd.IntN(30), false, true)
	}
}

// produce produces n records to a topic, in a transaction or not. Call with mu held.
func (m *model) produce(k *kafkatest.Cluster, rnd *rand.Rand, t, n int, txn, commit bool) {
	if n == 0 {
		return
	}
	mt, life := m.topics[t], len(m.topics[t].lives)-1
	var records []*kgo.Record
	var of []modelValue
	for range n {
		p := rnd.IntN(len(mt.now()))
		records, of = m.add(records, of, t, life, p, strings.Repeat("x", rnd.IntN(300)))
	}
	m.did("topic %d gets %d records, in a transaction %v, committed %v", t, n, txn, commit)
	m.keep(records, of, txn, commit, k)
}

// add makes the next record of a partition.
func (m *model) add(records []*kgo.Record, of []modelValue, t, life, p int, pad string) ([]*kgo.Record, []modelValue) {
	mp := m.topics[t].lives[life][p]
	v := modelValue{T: t, L: life, P: p, N: mp.number, Pad: pad}
	mp.number++
	value, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own type
	}
	r := &kgo.Record{
		Topic: m.topics[t].name, Partition: int32(p), Key: fmt.Appendf(nil, "k%d", v.N%4), Value: value,
		Headers: []kgo.RecordHeader{{Key: "odd", Value: strconv.AppendInt(nil, int64(v.N%2), 10)}},
	}
	return append(records, r), append(of, v)
}

// keep produces records and notes those that are to be seen.
func (m *model) keep(records []*kgo.Record, of []modelValue, txn, commit bool, k *kafkatest.Cluster) {
	var offsets []int64
	if txn {
		offsets = k.ProduceTxn(commit, records...)
	} else {
		offsets = k.Produce(records...)
	}
	for i, v := range of {
		mp := m.topics[v.T].lives[v.L][v.P]
		if commit {
			mp.records = append(mp.records, modelRecord{offsets[i], v})
		}
		mp.end = offsets[i] + 1
	}
}

// fence ends it all with records that every view has some of, in each partition,
// so that whatever went missing before them is noticed.
func (m *model) fence(k *kafkatest.Cluster) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.did("the last records")
	for t, mt := range m.topics {
		var records []*kgo.Record
		var of []modelValue
		for p := range mt.now() {
			for range 28 { // all remainders of 4, of 2 and of 7
				records, of = m.add(records, of, t, len(mt.lives)-1, p, "")
			}
		}
		m.keep(records, of, false, true, k)
	}
}

func (v modelView) names(m *model) string {
	var names []string
	for _, t := range v.topics {
		names = append(names, m.topics[t].name)
	}
	return strings.Join(names, ",")
}

// run connects again and again, and in the end stays until it has everything.
func (c *modelClient) run(ctx context.Context, finish chan struct{}) error {
	for ctx.Err() == nil {
		last := false
		select {
		case <-finish:
			last = true
		default:
		}
		err := c.connect(ctx, last)
		c.connections++
		var fault *errModel
		switch {
		case errors.As(err, &fault):
			return err
		case last && c.complete():
			return nil
		case err != nil: // transient: a real client waits for the retry time
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return faultf("it did not get everything in time: %s", c.missing())
}

// missing says what the client still has to get.
func (c *modelClient) missing() string {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	var owed []string
	for _, t := range c.view.topics {
		lives := c.m.topics[t].lives
		if life, ok := c.lives[t]; !ok || life >= 0 && life < len(lives)-1 {
			owed = append(owed, fmt.Sprintf("topic %d: it is in life %d of %d", t, life, len(lives)-1))
			continue
		}
		for p, mp := range c.m.topics[t].now() {
			next := int64(0)
			if at := c.places[[2]int{t, p}]; at != nil {
				next = at.next
			}
			for _, r := range mp.records {
				if r.offset >= next && r.offset >= mp.start && c.view.has(r.modelValue) {
					owed = append(owed, fmt.Sprintf("topic %d partition %d from %d on", t, p, r.offset))
					break
				}
			}
		}
	}
	return strings.Join(owed, "; ")
}

func (c *modelClient) complete() bool { return c.missing() == "" }

// begin notes what a request without an id, answered a moment ago, must get at
// least. lives are those of the topics before the request; it returns false
// where one has ended since.
func (c *modelClient) begin(start string, lives map[int]int) bool {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	clear(c.places)
	for _, t := range c.view.topics {
		mt := c.m.topics[t]
		if lives[t] != len(mt.lives)-1 {
			return false
		}
		c.lives[t] = lives[t]
		for p, mp := range mt.now() {
			at := &modelPlace{next: mp.end}
			if start == "earliest" {
				at.next = mp.start
			}
			c.places[[2]int{t, p}] = at
		}
	}
	return true
}

func (c *modelClient) livesNow() map[int]int {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	lives := make(map[int]int)
	for _, t := range c.view.topics {
		lives[t] = len(c.m.topics[t].lives) - 1
	}
	return lives
}

// record holds a record that came against what had to come.
func (c *modelClient) record(v modelValue) error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.story = append(c.story, fmt.Sprintf("record %d/%d/%d number %d", v.T, v.L, v.P, v.N))
	if len(c.story) > 12 {
		c.story = c.story[1:]
	}
	if !slices.Contains(c.view.topics, v.T) || !c.view.has(v) {
		return faultf("got a record that was not asked for")
	}
	life, ok := c.lives[v.T]
	if !ok || v.L >= len(c.m.topics[v.T].lives) || v.P >= len(c.m.topics[v.T].lives[v.L]) {
		return faultf("got a record that nobody has made")
	}
	if life == -1 {
		life = v.L
		c.lives[v.T] = life
	}
	if v.L != life {
		return faultf("got a record of life %d without a word, in life %d", v.L, life)
	}
	mp := c.m.topics[v.T].lives[v.L][v.P]
	i := slices.IndexFunc(mp.records, func(r modelRecord) bool { return r.N == v.N })
	if i < 0 {
		return faultf("got a record of an aborted transaction")
	}
	offset := mp.records[i].offset
	at := c.place(v.T, v.P)
	if at.known && offset < at.next {
		return faultf("repeated: got offset %d, want %d or later", offset, at.next)
	}
	if err := c.passOver(mp, at, offset); err != nil {
		return err
	}
	at.known, at.next = true, offset+1
	c.got++
	return nil
}

func (c *modelClient) place(t, p int) *modelPlace {
	at := c.places[[2]int{t, p}]
	if at == nil { // a partition that was added, or all of a new life
		at = &modelPlace{}
		c.places[[2]int{t, p}] = at
	}
	return at
}

// passOver looks for records that should have come before offset. Where the
// client knows nothing of a partition yet, it begins with what there still is.
func (c *modelClient) passOver(mp *modelPartition, at *modelPlace, offset int64) error {
	for _, r := range mp.records {
		if r.offset >= at.next && r.offset < offset && c.view.has(r.modelValue) && (at.known || r.offset >= mp.start) {
			return faultf("lost: offset %d did not come before %d, and the log begins at %d", r.offset, offset, mp.start)
		}
	}
	return nil
}

// gap takes the client past records that it was told are gone.
func (c *modelClient) gap(data string) error {
	var g struct {
		Topic, Reason string
		Partition     int
		From, To      int64
	}
	if err := json.Unmarshal([]byte(data), &g); err != nil {
		return faultf("gap %s: %v", data, err)
	}
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.story = append(c.story, "gap "+data)
	c.gaps++
	t := slices.IndexFunc(c.m.topics, func(mt *modelTopic) bool { return mt.name == g.Topic })
	if !slices.Contains(c.view.topics, t) {
		return faultf("gap of a topic that was not asked for")
	}
	switch g.Reason {
	case "topic-changed":
		// The server that it came from may have heard of the new life before
		// the one that it came to.
		if mt := c.m.topics[t]; c.lives[t] == len(mt.lives)-1 && c.placed(t) && time.Since(mt.born) > 10*time.Second {
			return faultf("the topic did not change")
		}
		c.lives[t] = -1
		for place := range c.places {
			if place[0] == t {
				delete(c.places, place)
			}
		}
		return nil
	case "retention":
		life := c.lives[t]
		if life == -1 {
			return nil // of which one is not known
		}
		if g.Partition >= len(c.m.topics[t].lives[life]) {
			return faultf("gap: there is no such partition in life %d", life)
		}
		mp := c.m.topics[t].lives[life][g.Partition]
		if g.To > mp.start {
			return faultf("gap: offsets up to %d are said to be gone, and the log begins at %d", g.To, mp.start)
		}
		at := c.place(t, g.Partition)
		if at.known && g.From < at.next {
			return faultf("gap: from %d, and offset %d came already", g.From, at.next-1)
		}
		if err := c.passOver(mp, at, g.From); err != nil {
			return err
		}
		at.known, at.next = true, g.To
		return nil
	}
	return faultf("gap: nothing happened that would be the reason")
}

// placed reports whether the client has had anything of the topic in its life.
func (c *modelClient) placed(t int) bool {
	for place, at := range c.places {
		if place[0] == t && at.known {
			return true
		}
	}
	return false
}

// connect reads from one connection until it has had enough of it, or it ends.
// The last one it leaves when it has everything.
func (c *modelClient) connect(ctx context.Context, last bool) error {
	patient := time.Duration(20+c.rand.IntN(700)) * time.Millisecond
	if last {
		patient = 5 * time.Second // then it looks again from where it is
	}
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	base := c.servers[c.rand.IntN(len(c.servers))].url + "/events/" + c.view.names(c.m) + "/?_=1" + c.view.query
	enough := 1 + c.rand.IntN(400)
	if last {
		enough = 1 << 30
	}
	header := make(http.Header)
	start, lives := "", c.livesNow()
	switch {
	case c.id != "" && c.rand.IntN(2) == 0:
		header.Set("Last-Event-ID", c.id)
	case c.id != "":
		base += "&last_event_id=" + url.QueryEscape(c.id)
	case c.rand.IntN(2) == 0:
		start = "earliest"
		base += "&from=earliest"
	}
	answered := func() error {
		if c.id == "" && !c.begin(start, lives) {
			return errors.New("a topic was created again meanwhile")
		}
		return nil
	}
	if last && c.complete() && c.id != "" {
		return nil
	}
	switch n := c.rand.IntN(10); {
	case n < 4:
		return c.stream(ctx, base, header, enough, last, answered)
	case n < 6:
		return c.lines(ctx, base, header, enough, last, answered)
	case n < 8:
		return c.poll(ctx, base, header, answered)
	default:
		return c.socket(ctx, base, header, enough, last, answered)
	}
}

// ask makes a request that must be answered 200, or by something transient.
func (c *modelClient) ask(ctx context.Context, url string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return resp, nil
	case http.StatusServiceUnavailable, http.StatusNotFound: // between two lives
		resp.Body.Close()
		return nil, errors.New(resp.Status)
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
	resp.Body.Close()
	return nil, faultf("%s: got %s %s", url, resp.Status, body)
}

// event takes one event of any form, after which id is where the client is.
func (c *modelClient) event(name, data, id string) error {
	var err error
	switch name {
	case "message", "record":
		var v struct {
			modelValue
			Value *modelValue `json:"value"` // in an envelope
		}
		if e := json.Unmarshal([]byte(data), &v); e != nil {
			return faultf("record %s: %v", data, e)
		}
		if v.Value != nil {
			v.modelValue = *v.Value
		}
		err = c.record(v.modelValue)
	case "gap":
		err = c.gap(data)
	case "live", "cursor":
	case "stream-error", "error":
		if strings.Contains(data, `"internal"`) {
			return faultf("stream-error %s", data)
		}
		return errors.New(data)
	default:
		return faultf("unexpected event %s %s", name, data)
	}
	if err != nil {
		return err
	}
	if id != "" {
		c.id = id
	} else if name == "message" || name == "record" || name == "gap" {
		return faultf("%s %s has no id", name, data)
	}
	return nil
}

// line takes an event that is a JSON object with a type, but for records.
func (c *modelClient) line(text string) error {
	var e struct{ Type, ID string }
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return faultf("%q is no JSON object: %v", text, err)
	}
	if e.Type == "" {
		e.Type = "record"
	}
	return c.event(e.Type, text, e.ID)
}

func (c *modelClient) stream(ctx context.Context, url string, header http.Header, enough int, last bool, answered func() error) error {
	header.Set("Accept", "text/event-stream")
	if c.rand.IntN(3) == 0 {
		url += "&format=envelope"
	}
	resp, err := c.ask(ctx, url, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := answered(); err != nil {
		return err
	}
	for r := newEventReader(resp.Body); enough > 0 && !(last && c.complete()); enough-- {
		b, err := r.next()
		if err != nil {
			return err
		}
		if !b.fires {
			if b.id != "" {
				c.id = b.id
			}
			continue
		}
		if err := c.event(b.name, b.data, b.id); err != nil {
			return err
		}
	}
	return nil
}

func (c *modelClient) lines(ctx context.Context, url string, header http.Header, enough int, last bool, answered func() error) error {
	header.Set("Accept", "application/x-ndjson")
	resp, err := c.ask(ctx, url, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := answered(); err != nil {
		return err
	}
	l := &lineReader{lines: make(chan string)}
	go l.read(resp.Body) // ends with the response, whose rest is read below
	defer func() {
		resp.Body.Close()
		for range l.lines {
		}
	}()
	for line := range l.lines {
		if line != "" {
			if err := c.line(line); err != nil {
				return err
			}
		}
		if enough--; enough <= 0 || last && c.complete() {
			return nil
		}
	}
	return io.ErrUnexpectedEOF
}

func (c *modelClient) poll(ctx context.Context, url string, header http.Header, answered func() error) error {
	header.Set("Accept", "application/json")
	resp, err := c.ask(ctx, url+"&wait=1s", header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if err := answered(); err != nil {
		return err
	}
	var answer struct {
		Events []json.RawMessage
		ID     string
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.ID == "" {
		return faultf("poll: got %s: %v", body, err)
	}
	for _, e := range answer.Events {
		var typ struct{ Type string }
		if err := json.Unmarshal(e, &typ); err != nil {
			return faultf("poll: event %s: %v", e, err)
		}
		if typ.Type == "" {
			typ.Type = "record"
		}
		if err := c.event(typ.Type, string(e), answer.ID); err != nil {
			return err
		}
	}
	c.id = answer.ID
	return nil
}

func (c *modelClient) socket(ctx context.Context, url string, header http.Header, enough int, last bool, answered func() error) error {
	conn, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: []string{"spillway.v1.json"}, HTTPHeader: header})
	if err != nil {
		if resp != nil && resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusSwitchingProtocols {
			return faultf("%s: got %s", url, resp.Status)
		}
		return err
	}
	defer conn.CloseNow()
	conn.SetReadLimit(8 << 20)
	if err := answered(); err != nil {
		return err
	}
	for ; enough > 0 && !(last && c.complete()); enough-- {
		_, text, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		if err := c.line(string(text)); err != nil {
			return err
		}
	}
	return nil
}
