package filter

import (
	"math"
	"strconv"
)

// An Index finds the filters that show a record. It takes a look-up for each
// path that filters look at, and an evaluation for each filter that looks at
// none, whatever the number of filters. It belongs to one goroutine at a time.
type Index[T any] struct {
	paths   map[string]*pathIndex[T] // by name, see pathName
	tree    tree                     // of the paths into value
	byValue []*pathIndex[T]          // by their numbers in it
	key     *pathIndex[T]
	any     map[string]*pathIndex[T] // by the header's name
	single  map[string]*pathIndex[T]
	others  []*Entry[T] // of filters without a clause
	values  values
	round   uint64
}

// An Entry is a filter's place in an index.
type Entry[T any] struct {
	filter *Filter
	value  T
	path   *pathIndex[T] // nil: in others
	first  link[T]       // of the first literal,
	more   []link[T]     // and of all others
	at     int           // in others
	seen   uint64        // the round in which it was last found
}

// A pathIndex has the filters that look at one path, by what they want there.
type pathIndex[T any] struct {
	path
	name    string
	number  int32
	entries int
	texts   map[string]*link[T]
	bytes   map[string]*link[T]
	numbers map[float64]*link[T] // integers that are one double are told apart by the clause
	few     [3]*link[T]          // null, false, true
}

// A link is one of the filters that want the same literal.
type link[T any] struct {
	entry      *Entry[T]
	next, prev *link[T] // prev is nil for the first
	literal    *literal
}

// Add puts a filter in, nil for everything.
func (x *Index[T]) Add(f *Filter, value T) *Entry[T] {
	e := &Entry[T]{filter: f, value: value}
	if f == nil || len(f.clauses) == 0 {
		e.at = len(x.others)
		x.others = append(x.others, e)
		return e
	}
	c := &f.clauses[0]
	e.path = x.path(c)
	e.path.entries++
	if n := len(c.literals); n > 1 {
		e.more = make([]link[T], n-1)
	}
	for i := range c.literals {
		l := e.link(i)
		l.entry, l.literal = e, &c.literals[i]
		e.path.insert(l)
	}
	return e
}

// Remove takes out what Add put in.
func (x *Index[T]) Remove(e *Entry[T]) {
	if e.path == nil {
		last := len(x.others) - 1
		moved := x.others[last]
		x.others[e.at], moved.at = moved, e.at
		x.others[last] = nil
		x.others = x.others[:last]
		return
	}
	for i := range len(e.more) + 1 {
		e.path.delete(e.link(i))
	}
	if e.path.entries--; e.path.entries == 0 {
		x.drop(e.path)
	}
}

// link is the link of literal number i.
func (e *Entry[T]) link(i int) *link[T] {
	if i == 0 {
		return &e.first
	}
	return &e.more[i-1]
}

// path returns the index of a clause's path, a new one if there is none.
func (x *Index[T]) path(c *clause) *pathIndex[T] {
	name := c.name()
	if p := x.paths[name]; p != nil {
		return p
	}
	p := &pathIndex[T]{path: c.path, name: name}
	if x.paths == nil {
		x.paths = map[string]*pathIndex[T]{}
		x.any = map[string]*pathIndex[T]{}
		x.single = map[string]*pathIndex[T]{}
	}
	x.paths[name] = p
	switch p.root {
	case inKey:
		x.key = p
	case inAnyHeader:
		x.any[p.names[0]] = p
	case inHeader:
		x.single[p.names[0]] = p
	case inValue:
		p.number = x.tree.add(p.names)
		for len(x.byValue) <= int(p.number) {
			x.byValue = append(x.byValue, nil)
		}
		x.byValue[p.number] = p
	}
	return p
}

func (x *Index[T]) drop(p *pathIndex[T]) {
	delete(x.paths, p.name)
	switch p.root {
	case inKey:
		x.key = nil
	case inAnyHeader:
		delete(x.any, p.names[0])
	case inHeader:
		delete(x.single, p.names[0])
	case inValue:
		x.tree.remove(p.names)
		x.byValue[p.number] = nil
	}
}

// name tells paths apart.
func (p *path) name() string { return string(p.appendName(nil)) }

func (p *path) appendName(dst []byte) []byte {
	dst = strconv.AppendInt(dst, int64(p.root), 10)
	for _, n := range p.names {
		dst = strconv.AppendQuote(dst, n)
	}
	return dst
}

func (p *pathIndex[T]) insert(l *link[T]) {
	switch l.literal.kind {
	case isString:
		if p.texts == nil {
			p.texts = map[string]*link[T]{}
		}
		l.before(p.texts[l.literal.text])
		p.texts[l.literal.text] = l
	case isBytes:
		if p.bytes == nil {
			p.bytes = map[string]*link[T]{}
		}
		l.before(p.bytes[l.literal.text])
		p.bytes[l.literal.text] = l
	case isNull, isBool:
		few := &p.few[slotOf(l.literal.kind, l.literal.bits)]
		l.before(*few)
		*few = l
	default:
		if p.numbers == nil {
			p.numbers = map[float64]*link[T]{}
		}
		n := toDouble(l.literal.kind, l.literal.bits)
		l.before(p.numbers[n])
		p.numbers[n] = l
	}
}

func slotOf(k kind, bits uint64) int {
	if k == isNull {
		return 0
	}
	return 1 + int(bits)
}

func (l *link[T]) before(next *link[T]) {
	if l.next = next; next != nil {
		next.prev = l
	}
}

func (p *pathIndex[T]) delete(l *link[T]) {
	if l.next != nil {
		l.next.prev = l.prev
	}
	if l.prev != nil {
		l.prev.next = l.next
		return
	}
	switch l.literal.kind {
	case isString:
		replace(p.texts, l.literal.text, l.next)
	case isBytes:
		replace(p.bytes, l.literal.text, l.next)
	case isNull, isBool:
		p.few[slotOf(l.literal.kind, l.literal.bits)] = l.next
	default:
		replace(p.numbers, toDouble(l.literal.kind, l.literal.bits), l.next)
	}
}

func replace[K comparable, T any](m map[K]*link[T], key K, first *link[T]) {
	if first == nil {
		delete(m, key)
		return
	}
	m[key] = first
}

// first returns the first of the filters that may want s.
func (p *pathIndex[T]) first(s *scalar) *link[T] {
	switch s.kind {
	case isString:
		return p.texts[string(s.text)]
	case isBytes:
		return p.bytes[string(s.text)]
	case isNull, isBool:
		return p.few[slotOf(s.kind, s.bits)]
	case isInt, isUint, isDouble:
		if n := toDouble(s.kind, s.bits); !math.IsNaN(n) {
			return p.numbers[n]
		}
	}
	return nil
}

// Match calls visit for what was added with each filter that shows the record,
// once for each. visit must not change the index.
func (x *Index[T]) Match(r *Record, visit func(T)) {
	x.round++
	if x.key != nil {
		s := textScalar(r.r.Key)
		x.look(x.key, &s, r, visit)
	}
	if len(x.any) > 0 || len(x.single) > 0 {
		x.matchHeaders(r, visit)
	}
	if x.tree.root.leaf > 0 || len(x.tree.root.members) > 0 {
		r.scan(&x.tree, &x.values)
		for _, number := range x.values.found {
			x.look(x.byValue[number], &x.values.at[number], r, visit)
		}
		x.values.reset()
	}
	for _, e := range x.others {
		if e.filter.Match(r) {
			visit(e.value)
		}
	}
}

func (x *Index[T]) matchHeaders(r *Record, visit func(T)) {
	for i := range r.r.Headers {
		h := &r.r.Headers[i]
		any, single := x.any[h.Key], x.single[h.Key]
		if any == nil && single == nil {
			continue
		}
		s := textScalar(h.Value)
		if any != nil {
			x.look(any, &s, r, visit)
		}
		if single != nil {
			if only := r.header(h.Key); only.kind != isOther {
				x.look(single, &s, r, visit)
			}
		}
	}
}

// look visits the filters that want s at a path.
func (x *Index[T]) look(p *pathIndex[T], s *scalar, r *Record, visit func(T)) {
	for l := p.first(s); l != nil; l = l.next {
		// A filter may be found twice: by values of one header, or by integers
		// that are the same double.
		if l.entry.seen != x.round && l.literal.equals(s) {
			l.entry.seen = x.round
			if l.entry.filter.matchBut(r, 0) {
				visit(l.entry.value)
			}
		}
	}
}
