package relay

import (
	"net/url"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
)

// A sparing is how a stream is spared events that a later one of the same key
// supersedes (event-semantics.md 8). It is of the connection: its channel is
// that of all others. A link carries it.
type sparing struct {
	Latest bool   `json:"sl,omitempty"` // slow=latest: while it is slow
	Rate   string `json:"rt,omitempty"` // rate=: always, and at most so many events; "": no
}

func (s sparing) none() bool { return s == sparing{} }

// params are the parameters of Grip-Channel that say so.
func (s sparing) params() string {
	switch {
	case s.Rate != "":
		return "; rate=" + s.Rate
	case s.Latest:
		return "; conflate"
	}
	return ""
}

// every is how long after an event the next may come.
func (s sparing) every() time.Duration {
	if s.Rate == "" {
		return 0
	}
	every, err := grip.ParseRate(s.Rate)
	if err != nil { // parseSparing has read it before
		return time.Second
	}
	return every
}

// parseSparing reads slow= and rate=.
func (s *selection) parseSparing(query url.Values) error {
	switch slow := query.Get("slow"); slow {
	case "":
	case "latest":
		s.sparing.Latest = true
	default:
		return badf("slow=%s: must be latest", slow)
	}
	if rate := query.Get("rate"); rate != "" {
		if _, err := grip.ParseRate(rate); err != nil {
			return badf("rate=%s: must be events per second or minute such as 5/s or 30/m, from one in an hour to %d/s", rate, time.Second/grip.MinEvery)
		}
		s.sparing.Rate = rate
	}
	switch {
	case s.sparing.none():
	case s.longPoll:
		return badf("slow= and rate= are for streams; a long poll has all that is there")
	case s.bounded():
		return badf("slow= and rate= leave events out, so they do not go with limit= or until=")
	case s.speed > 0 && s.sparing.Rate != "":
		return badf("speed= and rate= both say when events come; give one")
	}
	return nil
}

// sparedPageBytes bounds the pages of a stream with a rate, of which it gets one
// event.
const sparedPageBytes = 16 << 10

// A piece is a record, or a gap, in a page of a stream that is spared some.
type piece struct {
	begin, end int // in page.out
	topic      int
	partition  int32
	next       int64 // the partition's next offset
	minute     int64 // page.minute then
	superseded bool  // by a later piece
	gap        bool  // it is none of a record
}

// A pieceKey is what a record is the newest word about.
type pieceKey struct {
	topic int
	key   string
}

// pieces are the records of a page, so that those can be left out that later
// ones supersede.
type pieces struct {
	all    []piece
	newest map[pieceKey]int // place in all
}

// add notes that a record was written.
func (ps *pieces) add(topic int, r *kgo.Record, begin, end int, minute int64) {
	ps.all = append(ps.all, piece{begin, end, topic, r.Partition, r.Offset + 1, minute, false, false})
	if r.Key == nil {
		return
	}
	if ps.newest == nil {
		ps.newest = make(map[pieceKey]int)
	}
	key := pieceKey{topic, string(r.Key)}
	if before, found := ps.newest[key]; found {
		ps.all[before].superseded = true
	}
	ps.newest[key] = len(ps.all) - 1
}

// spare leaves out of the page what its stream is spared. Of a stream with a
// rate that is all behind the first event. begin is where the page began.
func (p *page) spare(begin vector) {
	if p.link.sparing.none() || len(p.pieces.all) == 0 {
		return
	}
	first := p.pieces.all[0].begin
	out := append([]byte(nil), p.out[first:]...)
	p.out = p.out[:first]
	for i, at := range p.pieces.all {
		next := len(out) + first // control events may stand between two pieces
		if i+1 < len(p.pieces.all) {
			next = p.pieces.all[i+1].begin
		}
		if at.superseded {
			p.link.Replayed--
		} else {
			p.out = append(p.out, out[at.begin-first:at.end-first]...)
		}
		p.out = append(p.out, out[at.end-first:next-first]...)
		if !at.superseded && p.link.Rate != "" {
			p.pause = p.link.every()
			p.rewind(begin, i)
			return
		}
	}
}

// rewind moves the page back to after its piece i.
func (p *page) rewind(begin vector, i int) {
	if i == len(p.pieces.all)-1 {
		return
	}
	for _, at := range p.pieces.all[i+1:] {
		if !at.gap {
			p.link.Replayed--
		}
	}
	p.minute = p.pieces.all[i].minute
	p.pos.set(begin)
	for _, at := range p.pieces.all[:i+1] {
		p.pos[at.topic][at.partition] = at.next
	}
}

// skipTo moves the page to where its channel's log begins: a stream with a rate
// that the log has passed gets nothing of what is before.
func (p *page) skipTo(oldest vector) {
	for t, topic := range p.topics {
		for i := range p.pos[t] {
			if from, to := p.pos[t][i], oldest[t][i]; from < to {
				p.pos[t][i] = to
				p.control(offsetGap(topic.name, int32(i), gapRate, from, to).event(), 0)
			}
		}
	}
}
