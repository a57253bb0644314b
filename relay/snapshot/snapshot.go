// Package snapshot keeps the newest record of each key of a compacted topic, so
// that a stream can begin with all of them and go on with what changes.
//
// A Map is the state of one topic, or of the part that a filter lets through.
// It is given the topic's records in order, and is shared by all who listen. A
// Version is that state as of one position: made in no time, never changed, and
// read in pages by as many as want, while the map moves on. A Place is where in
// a version a reader is, as text for a link.
//
// The package asks nothing of Kafka, has no goroutine and looks at no clock. A
// view of several topics has a map of each, and takes their versions together.
// Begin at Map.Apply and Version.Page.
package snapshot

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// KeepFor is how long a version is kept for its readers. Whoever has not read
// all of it by then begins again with a newer one.
const KeepFor = 60 * time.Second

var (
	// ErrTooLarge says that a map would need more memory than it may have. It
	// has let go of everything, and of its versions too.
	ErrTooLarge = errors.New("too large to be kept")
	// ErrExpired says that a version is no longer there.
	ErrExpired = errors.New("this version of the snapshot is gone")
	// ErrClosed says that the map was closed.
	ErrClosed = errors.New("snapshot is closed")
)

// A Verdict is what the listeners of a snapshot are sent of a record.
type Verdict uint8

const (
	Nothing Verdict = iota // it is not in the view, and what it replaces was not either
	Send                   // the record
	Delete                 // that the key is gone: it was in the view, and is not any more
)

func (v Verdict) String() string { return [...]string{"nothing", "send", "delete"}[v] }

func verdict(matches, matched bool) Verdict {
	switch {
	case matches:
		return Send
	case matched:
		return Delete
	}
	return Nothing
}

// A Budget is the memory that several maps may take together.
type Budget struct {
	max  int64
	used atomic.Int64
}

// NewBudget makes a budget of so many bytes.
func NewBudget(maxBytes int64) *Budget { return &Budget{max: maxBytes} }

// Used is how many bytes are taken.
func (b *Budget) Used() int64 { return b.used.Load() }

// take reports whether there were n bytes to take.
func (b *Budget) take(n int64) bool {
	if b.used.Add(n) > b.max {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *Budget) give(n int64) { b.used.Add(-n) }

// A Place is where a reader is in a version: it has seen that many records.
type Place struct {
	Version string // Version.ID
	Seen    int
}

// String is the place as ParsePlace reads it. It is small, whatever the keys are.
func (p Place) String() string { return p.Version + "." + strconv.FormatInt(int64(p.Seen), 36) }

// ParsePlace reads what Place.String wrote.
func ParsePlace(text string) (Place, error) {
	dot := strings.LastIndexByte(text, '.')
	if dot < 1 {
		return Place{}, fmt.Errorf("place %q: want <version>.<records seen>", text)
	}
	seen, err := strconv.ParseInt(text[dot+1:], 36, strconv.IntSize)
	if err != nil || seen < 0 {
		return Place{}, fmt.Errorf("place %q: %q is no number of records in base 36", text, text[dot+1:])
	}
	return Place{Version: text[:dot], Seen: int(seen)}, nil
}
