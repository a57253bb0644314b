package main_test

// What Kafka has, and whether what a client got of it is right: the oracle of
// TestModel. It knows nothing of how a server works.

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A model is what Kafka has, as far as clients may know.
type model struct {
	mu     sync.Mutex
	topics []*modelTopic
	log    []string // the newest things done, for the report of a fault
}

// A modelTopic is all lives of a topic: it is deleted and created again.
type modelTopic struct {
	name      string
	compacted bool
	lives     [][]*modelPartition // of those long gone: nil
	changed   time.Time           // when it was last created, or got a partition
}

func (mt *modelTopic) now() []*modelPartition { return mt.lives[len(mt.lives)-1] }

// young reports whether servers may not have heard of how the topic is now.
func (mt *modelTopic) young() bool { return time.Since(mt.changed) < patience }

type modelPartition struct {
	records []*modelRecord          // those that were committed, in the order of offsets
	newest  map[string]*modelRecord // of each key
	number  int                     // of the next record, aborted ones included
	start   int64                   // where the log begins
	end     int64                   // the offset after all that was produced
	open    int64                   // the first offset of an open transaction; -1: none
	added   time.Time               // to a topic that was there; zero: it began with it
}

type modelRecord struct {
	modelValue
	offset  int64
	key     string
	time    time.Time
	deletes bool // a tombstone
}

// A modelValue is the value of a record.
type modelValue struct {
	T   int    `json:"t"` // which topic,
	L   int    `json:"l"` // which life of it
	P   int    `json:"p"` // and which partition
	N   int    `json:"n"`
	Pad string `json:"pad,omitempty"`
}

func (r *modelRecord) String() string {
	return fmt.Sprintf("%d/%d/%d number %d, offset %d, key %s, tombstone %v", r.T, r.L, r.P, r.N, r.offset, r.key, r.deletes)
}

// stable is where the partition ends for those who read committed records.
func (mp *modelPartition) stable() int64 {
	if mp.open >= 0 {
		return mp.open
	}
	return mp.end
}

// from is the index of the first record at or after an offset.
func (mp *modelPartition) from(offset int64) int {
	return sort.Search(len(mp.records), func(i int) bool { return mp.records[i].offset >= offset })
}

// commit makes a record one that is to be seen.
func (mp *modelPartition) commit(r *modelRecord) {
	mp.records = slices.Insert(mp.records, mp.from(r.offset), r)
	if n := mp.newest[r.key]; n == nil || n.offset < r.offset {
		mp.newest[r.key] = r
	}
}

// superseded reports whether the cleaner may have removed a record.
func (mp *modelPartition) superseded(r *modelRecord) bool { return mp.newest[r.key] != r }

// did notes a thing done. Call with mu held.
func (m *model) did(format string, args ...any) {
	m.log = append(m.log, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
	m.log = m.log[max(0, len(m.log)-60):]
}

// A modelView is what a client asks for, and which records that is.
type modelView struct {
	topics   []int
	params   []string // name=value
	has      func(r *modelRecord) bool
	bare     bool // pads are not shown
	snapshot bool // it begins with the newest record of each key
}

// A modelEvent is an event in any form.
type modelEvent struct {
	name string // record, delete, gap, live, end, cursor, error, …
	data string
	id   string // the cursor after it
	modelEnvelope
}

// A modelEnvelope is what the JSON of an event may hold. Without a topic it is a
// record's value alone.
type modelEnvelope struct {
	Type, ID, Channel, Reason, Topic, Op, Key string
	Partition                                 int
	Offset, From, To                          int64
	Headers                                   struct{ Life string }
	Value                                     *modelValue
	Complete                                  *bool
	Ref                                       int
	Code                                      string
	modelValue
}

// A modelReader is one selection and all that came of it, over many connections.
type modelReader struct {
	m    *model
	view modelView

	id     string                  // where it is
	places map[[2]int]*modelPlace  // by topic and partition
	lives  map[int]int             // by topic; -1: the next record says
	table  map[string]*modelRecord // by key, of one that began with a snapshot
	exact  bool                    // the table is all there is
	got    int
	gaps   int
	passed int // records that were superseded, and did not come

	// Of the newest request:
	start  string // the parameter that says where it begins
	since  time.Time
	until  time.Time
	limit  int
	asked  map[int]int      // the lives of topics before it
	ends   map[[2]int]int64 // and where partitions ended
	took   int              // records so far
	over   bool             // it asked for what has ended
	inside bool             // it is inside a snapshot
	twice  *modelRecord     // what came twice in it
	asks   []string         // the newest requests,
	story  []string         // and events
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

func newModelReader(m *model, v modelView) *modelReader {
	c := &modelReader{m: m, view: v, places: make(map[[2]int]*modelPlace), lives: make(map[int]int)}
	if v.snapshot {
		c.table = make(map[string]*modelRecord)
	}
	return c
}

// names are the topics of the view.
func (c *modelReader) names() (names []string) {
	for _, t := range c.view.topics {
		names = append(names, c.m.topics[t].name)
	}
	return names
}

// request notes how things are before a request is made.
func (c *modelReader) request(text string) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.asks = append(c.asks, time.Now().Format("05.000 ")+text)
	c.asks = c.asks[max(0, len(c.asks)-6):]
	c.tell("request: %s", text)
	c.took, c.over, c.inside, c.twice = 0, false, false, nil
	c.asked, c.ends = make(map[int]int), make(map[[2]int]int64)
	for _, t := range c.view.topics {
		mt := c.m.topics[t]
		c.asked[t] = len(mt.lives) - 1
		for p, mp := range mt.now() {
			c.ends[[2]int{t, p}] = mp.stable()
		}
	}
}

func (c *modelReader) tell(format string, args ...any) {
	c.story = append(c.story, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
	c.story = c.story[max(0, len(c.story)-24):]
}

// answered notes what a request without an id, answered a moment ago, must get at
// least. It returns false where a topic was created again meanwhile.
func (c *modelReader) answered() bool {
	if c.id != "" {
		return true
	}
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	clear(c.places)
	clear(c.lives)
	for _, t := range c.view.topics {
		mt := c.m.topics[t]
		if c.asked[t] != len(mt.lives)-1 {
			return false
		}
		c.lives[t] = c.asked[t]
		for p, mp := range mt.now() {
			at := &modelPlace{next: mp.end}
			switch c.start {
			case "from=earliest":
				at.next = mp.start
			case "since":
				for _, r := range mp.records[mp.from(mp.start):] {
					if !r.time.Before(c.since) {
						at.next = r.offset
						break
					}
				}
			}
			c.places[[2]int{t, p}] = at
		}
	}
	return true
}

// event holds an event against what had to come.
func (c *modelReader) event(e *modelEvent) error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.tell("%s %.200s id %s", e.name, e.data, e.id)
	if c.over && e.name != "error" {
		return faultf("got %s of what has ended, want the status 204", e.name)
	}
	var err error
	switch e.name {
	case "record", "delete":
		err = c.record(e)
	case "gap":
		err = c.gap(e)
	case "live":
		err = c.live(e)
	case "end":
		err = c.end(e)
	case "cursor":
	case "error":
		if e.Code == "internal" || e.Code == "bad-message" {
			return faultf("a fault of the server: %s", e.data)
		}
		return fmt.Errorf("the stream ended: %s", e.data)
	default:
		return faultf("unexpected event %s %s", e.name, e.data)
	}
	switch {
	case err != nil:
		return err
	case e.id != "":
		c.id = e.id
	case e.name != "gap" || e.Reason != "topic-changed": // before another one, which has an id
		return faultf("%s %s has no id", e.name, e.data)
	}
	return nil
}

// record holds a record that came against what had to come. Call with mu held.
func (c *modelReader) record(e *modelEvent) error {
	t, r, err := c.find(e)
	if err != nil {
		return err
	}
	mt := c.m.topics[t]
	life, begun := c.lives[t]
	newest := c.table != nil && strings.HasPrefix(e.id, "1s-")
	switch {
	case !begun || life == -1 || newest && !c.inside: // a snapshot begins with whatever there is
		c.lives[t] = r.L
	case r.L < life && mt.young() && !c.placed(t): // a server that has not heard of the new life
		c.lives[t] = r.L
		for p, mp := range mt.lives[r.L] {
			c.places[[2]int{t, p}] = &modelPlace{next: mp.end}
		}
	case r.L != life:
		return faultf("got %v without a word, in life %d", r, life)
	}
	// In a view with a snapshot, keys leave it with a record that it does not show.
	shown, leaves := c.view.has(r), c.view.snapshot && e.name == "delete"
	if !shown && !leaves || shown && e.name == "delete" && !r.deletes {
		return faultf("got a %s of %v, which was not asked for", e.name, r)
	}
	if c.took++; c.limit > 0 && c.took > c.limit {
		return faultf("got record %d, and limit=%d", c.took, c.limit)
	}
	// Where what followed the time is deleted or compacted, the end is what is left;
	// of what was before that, a server may have some in memory.
	mp := mt.lives[r.L][r.P]
	gone := r.offset < mp.start || mt.compacted && mp.superseded(r)
	if !c.until.IsZero() && !r.time.Before(c.until) && !gone {
		return faultf("got %v of %v, and until=%v", r, r.time, c.until)
	}
	c.got++
	if newest {
		if !c.inside {
			clear(c.table)
			c.inside = true
		}
		if c.table[r.key] != nil || r.deletes {
			c.twice = r
		}
		c.table[r.key] = r
		return nil
	}
	c.inside = false
	at := c.place(t, r.P)
	if at.known && r.offset < at.next {
		return faultf("repeated: got %v, want offset %d or later", r, at.next)
	}
	if err := c.passOver(mt, mp, at, r.offset); err != nil {
		return err
	}
	at.known, at.next = true, r.offset+1
	if c.table != nil {
		if c.table[r.key] = r; e.name == "delete" {
			delete(c.table, r.key)
		}
	}
	return nil
}

// find finds the record that an event is of.
func (c *modelReader) find(e *modelEvent) (t int, r *modelRecord, err error) {
	v := e.modelValue
	if e.Topic != "" {
		v = modelValue{P: e.Partition}
		if v.T = slices.IndexFunc(c.m.topics, func(mt *modelTopic) bool { return mt.name == e.Topic }); v.T < 0 {
			return 0, nil, faultf("got a record of topic %s", e.Topic)
		}
		if e.Value != nil {
			v = *e.Value
		} else if v.L, err = strconv.Atoi(e.Headers.Life); err != nil { // what leaves a view shows no headers
			if v.L = c.lives[v.T]; v.L == -1 {
				v.L = len(c.m.topics[v.T].lives) - 1
			}
		}
	}
	if !slices.Contains(c.view.topics, v.T) {
		return 0, nil, faultf("got a record of topic %d", v.T)
	}
	lives := c.m.topics[v.T].lives
	if v.L < 0 || v.L >= len(lives) || v.P < 0 || v.P >= len(lives[v.L]) {
		return 0, nil, faultf("got a record of life %d, partition %d, which nobody has made", v.L, v.P)
	}
	mp := lives[v.L][v.P]
	i := mp.from(e.Offset)
	if e.name != "delete" { // offsets and numbers have the same order
		i = sort.Search(len(mp.records), func(i int) bool { return mp.records[i].N >= v.N })
	}
	if i == len(mp.records) || e.name != "delete" && mp.records[i].N != v.N {
		return 0, nil, faultf("got a record that nobody has committed")
	}
	r = mp.records[i]
	if e.Topic != "" && (e.Topic != c.m.topics[v.T].name || e.Partition != v.P || e.Offset != r.offset || e.Key != r.key) {
		return 0, nil, faultf("got topic %s, partition %d, offset %d, key %s, want %v", e.Topic, e.Partition, e.Offset, e.Key, r)
	}
	want := r.modelValue
	if c.view.bare {
		want.Pad = ""
	}
	if e.name == "record" && (r.deletes || v != want) {
		return 0, nil, faultf("got the value %+v, want that of %v, with a pad of %d bytes", v, r, len(want.Pad))
	}
	return v.T, r, nil
}

func (c *modelReader) place(t, p int) *modelPlace {
	at := c.places[[2]int{t, p}]
	if at == nil { // a partition that was added, or all of a new life
		at = &modelPlace{}
		c.places[[2]int{t, p}] = at
	}
	return at
}

// placed reports whether the client has had anything of the topic in its life.
func (c *modelReader) placed(t int) bool {
	for place, at := range c.places {
		if place[0] == t && at.known {
			return true
		}
	}
	return false
}

// passOver looks for records that should have come before offset. Where the
// client knows nothing of a partition yet, it begins with what there still is.
func (c *modelReader) passOver(mt *modelTopic, mp *modelPartition, at *modelPlace, offset int64) error {
	for _, r := range mp.records[mp.from(at.next):] {
		switch {
		case r.offset >= offset:
			return nil
		case !c.view.has(r) || !at.known && r.offset < mp.start:
		case mt.compacted && mp.superseded(r):
			c.passed++
		case r.L < len(mt.lives)-1: // Kafka has not got it any more, and another gap says so
			c.passed++
		case c.table != nil && r.deletes: // of a key that is not in the table: see missing
		default:
			return faultf("lost: %v did not come before offset %d, and the log begins at %d", r, offset, mp.start)
		}
	}
	return nil
}

// gap takes the client past records that it was told are gone. Call with mu held.
func (c *modelReader) gap(g *modelEvent) error {
	c.gaps++
	t := slices.IndexFunc(c.m.topics, func(mt *modelTopic) bool { return mt.name == g.Topic })
	if !slices.Contains(c.view.topics, t) {
		return faultf("gap of a topic that was not asked for")
	}
	mt := c.m.topics[t]
	forget := func() {
		clear(c.table)
		c.inside, c.twice = false, nil
		maps.DeleteFunc(c.places, func(place [2]int, _ *modelPlace) bool { return place[0] == t })
	}
	switch {
	case g.Reason == "topic-changed":
		// The server that it came from may have heard of the new life before
		// the one that it came to.
		if c.lives[t] == len(mt.lives)-1 && c.placed(t) && (len(mt.lives) == 1 || !mt.young()) {
			return faultf("gap: the topic did not change")
		}
		c.lives[t] = -1
		forget()
		return nil
	case g.Reason == "compaction" && c.table != nil:
		forget()
		for p, mp := range mt.now() {
			c.places[[2]int{t, p}] = &modelPlace{next: mp.end} // the snapshot says where it ends
		}
		return nil
	case g.Reason == "retention":
		life := c.lives[t]
		if life == -1 {
			return nil // of which one is not known
		}
		if g.Partition >= len(mt.lives[life]) {
			return faultf("gap: there is no such partition in life %d", life)
		}
		mp := mt.lives[life][g.Partition]
		// Where a log begins is asked by the topic's name, so that a server may tell
		// of a new life what is true of the old one as well: it is gone.
		if g.To > mp.start && life == len(mt.lives)-1 {
			return faultf("gap: offsets up to %d are said to be gone, and the log begins at %d", g.To, mp.start)
		}
		at := c.place(t, g.Partition)
		if at.known && g.From < at.next {
			return faultf("gap: from %d, and offset %d came already", g.From, at.next-1)
		}
		if err := c.passOver(mt, mp, at, g.From); err != nil {
			return err
		}
		at.known, at.next = true, g.To
		return nil
	}
	return faultf("gap: nothing happened that would be the reason")
}

// end holds the end of a bounded stream against what was asked for.
func (c *modelReader) end(e *modelEvent) error {
	switch {
	case !strings.HasPrefix(e.id, "1e-"):
		return faultf("end without its mark")
	case e.Reason == "limit" && c.limit > 0 && c.took == c.limit:
	case e.Reason == "until" && !c.until.IsZero() && !time.Now().Before(c.until):
	default:
		return faultf("end: nothing is the reason, after %d records with limit=%d, until=%v", c.took, c.limit, c.until)
	}
	return nil
}

// live holds a snapshot that is complete against the newest records of each key,
// as of one offset of each partition that is not before the request.
func (c *modelReader) live(e *modelEvent) error {
	if c.table == nil {
		return faultf("live: nobody asked for it")
	}
	t := c.view.topics[0]
	mt := c.m.topics[t]
	if !c.inside { // of nothing, in the newest life as well as in the one before
		clear(c.table)
		if c.lives[t] < len(mt.lives)-1 {
			c.lives[t] = -1
		}
	}
	c.inside = false
	if c.exact = e.Complete == nil || *e.Complete; !c.exact || c.lives[t] == -1 {
		for p, mp := range mt.now() {
			c.places[[2]int{t, p}] = &modelPlace{next: mp.end}
		}
		return nil
	}
	if c.twice != nil {
		return faultf("snapshot: %v came, and its key before", c.twice)
	}
	life := c.lives[t]
	for p, mp := range mt.lives[life] {
		least := int64(0) // a server may not have heard of the partition, or of the life
		if c.asked[t] == life && time.Since(mp.added) > patience && (len(c.table) > 0 || !mt.young()) {
			least = c.ends[[2]int{t, p}]
		}
		got := make(map[string]*modelRecord)
		for key, r := range c.table {
			if r.P == p {
				got[key], least = r, max(least, r.offset+1)
			}
		}
		want := make(map[string]*modelRecord)
		next := 0
		apply := func() {
			r := mp.records[next]
			next++
			if want[r.key] = r; r.deletes || !c.view.has(r) {
				delete(want, r.key)
			}
		}
		for next < len(mp.records) && mp.records[next].offset < least {
			apply()
		}
		for !maps.Equal(got, want) {
			if next == len(mp.records) {
				return faultf("snapshot: partition %d: got %v, want the newest of each key as of offset %d or later, %v", p, got, least, want)
			}
			apply()
			least = mp.records[next-1].offset + 1
		}
		c.places[[2]int{t, p}] = &modelPlace{known: true, next: least}
	}
	return nil
}

// missing says what the client still has to get, now that nothing is done any more.
func (c *modelReader) missing() string {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	var owed []string
	for _, t := range c.view.topics {
		mt := c.m.topics[t]
		if life, begun := c.lives[t]; !begun || life >= 0 && life < len(mt.lives)-1 {
			owed = append(owed, fmt.Sprintf("topic %d: it is in life %d of %d", t, life, len(mt.lives)-1))
			continue
		}
		for p, mp := range mt.now() {
			if c.table != nil {
				for key, r := range mp.newest {
					if want := c.view.has(r) && !r.deletes; want && c.table[key] != r || !want && c.table[key] != nil {
						owed = append(owed, fmt.Sprintf("topic %d: of key %s it has %v, want %v", t, key, c.table[key], r))
					}
				}
				continue
			}
			next := int64(0)
			if at := c.places[[2]int{t, p}]; at != nil {
				next = at.next
			}
			for _, r := range mp.records[mp.from(max(next, mp.start)):] {
				if c.view.has(r) && !(mt.compacted && mp.superseded(r)) {
					owed = append(owed, fmt.Sprintf("topic %d partition %d from %d on", t, p, r.offset))
					break
				}
			}
		}
	}
	if c.table != nil && !c.exact {
		owed = append(owed, "it has no snapshot")
	}
	return strings.Join(owed, "; ")
}

// parseModelEvent reads an event. Where name is empty the data say what it is.
func parseModelEvent(name, data, id string) (*modelEvent, error) {
	e := &modelEvent{name: name, data: data, id: id}
	if err := json.Unmarshal([]byte(data), &e.modelEnvelope); err != nil {
		return nil, faultf("%s %q: %v", name, data, err)
	}
	if name == "" {
		e.name, e.id = e.Type, e.ID
	}
	switch {
	case e.Op == "delete":
		e.name = "delete"
	case e.name == "", e.name == "message":
		e.name = "record"
	case e.name == "stream-error":
		e.name = "error"
	}
	return e, nil
}
