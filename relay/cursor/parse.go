package cursor

import (
	"fmt"
	"math"
	"strings"
	"time"
)

const (
	// maxParseBytes bounds what Parse looks at. It is above MaxBytes, so that
	// a cursor that an operator shortened the limit for is still understood.
	maxParseBytes = 8 << 10

	// maxPartitions bounds n and part. Kafka's controllers stop being useful
	// far below a million partitions in one topic.
	maxPartitions = 1_000_000
)

// Parse reads a cursor of version 1. It is strict: whatever [Cursor.Append]
// would not write is an error, which says what is wrong and at which byte
// (counted from 0). Parse allocates no more than about eight times len(s).
func Parse(s string) (Cursor, error) {
	if len(s) > maxParseBytes {
		return Cursor{}, fmt.Errorf("cursor of %d bytes: at most %d are allowed", len(s), maxParseBytes)
	}
	p := parser{in: s}
	c, err := p.cursor()
	if err != nil {
		return Cursor{}, fmt.Errorf("cursor: byte %d: %w", p.at, err)
	}
	return c, nil
}

// A parser walks over in. On an error, at is where it happened.
type parser struct {
	in string
	at int
}

// rest is what has not been read yet.
func (p *parser) rest() string { return p.in[p.at:] }

// accept steps over b if it is next.
func (p *parser) accept(b byte) bool {
	if p.at < len(p.in) && p.in[p.at] == b {
		p.at++
		return true
	}
	return false
}

// want steps over b, which must be next.
func (p *parser) want(b byte) error {
	if !p.accept(b) {
		return p.unexpected(fmt.Sprintf("%q", b))
	}
	return nil
}

func (p *parser) unexpected(want string) error {
	if p.at == len(p.in) {
		return fmt.Errorf("cut short: want %s", want)
	}
	return fmt.Errorf("got %q, want %s", p.in[p.at], want)
}

func (p *parser) cursor() (Cursor, error) {
	var c Cursor
	switch {
	case p.accept('1'):
	case strings.HasPrefix(p.in, "2-"):
		return c, fmt.Errorf("version 2: a sealed cursor, which only a server with its CURSOR_KEY can read")
	default:
		return c, p.unexpected(`version "1"`)
	}
	switch {
	case p.accept(byte(PhaseSnapshot)):
		c.Phase = PhaseSnapshot
	case p.accept(byte(PhaseEnd)):
		c.Phase = PhaseEnd
	}
	if err := p.want('-'); err != nil {
		return c, err
	}
	minute, err := p.number(36, maxMinute, "time")
	if err != nil {
		return c, err
	}
	c.Time = time.Unix(minute*60, 0).UTC()
	if err := p.want('-'); err != nil {
		return c, err
	}
	for {
		b, err := p.block()
		if err != nil {
			return c, err
		}
		c.Blocks = append(c.Blocks, b)
		if p.at == len(p.in) {
			return c, nil
		}
		if !p.accept('~') {
			return c, p.unexpected(`"~" or the end`)
		}
	}
}

func (p *parser) block() (Block, error) {
	var b Block
	for i := range b.Tag {
		if p.at == len(p.in) || digit(p.in[p.at]) >= 36 {
			return b, p.unexpected("a tag of 5 base 36 digits")
		}
		b.Tag[i] = p.in[p.at]
		p.at++
	}
	if err := p.want('.'); err != nil {
		return b, err
	}
	n, err := p.number(10, maxPartitions, "partition count")
	if err != nil {
		return b, err
	}
	if n == 0 {
		p.at--
		return b, fmt.Errorf("partition count 0: a topic has at least one")
	}
	b.Partitions = int32(n)
	if p.accept('!') {
		b.Unknown = true
		return b, nil
	}

	// n is the client's word until so many offsets have been seen; each takes
	// at least two bytes.
	if n > int64(len(p.rest())/2) {
		return b, fmt.Errorf("%d offsets announced, but only %d bytes follow", n, len(p.rest()))
	}
	for i := range int(n) {
		if !p.accept('.') {
			return b, fmt.Errorf("%d of %d offsets: %w", i, n, p.unexpected(`"."`))
		}
		begin := p.at
		v, err := p.number(36, math.MaxInt64, "offset")
		if err != nil {
			return b, err
		}
		sparse := p.accept('_')
		switch {
		case i == 0 && sparse:
			b.Parts = make([]PartitionOffset, 0, n)
		case i == 0:
			b.Offsets = make([]int64, 0, n)
		case sparse != (b.Parts != nil):
			p.at = begin
			return b, fmt.Errorf("offsets with and without a partition in one block")
		}
		if !sparse {
			b.Offsets = append(b.Offsets, v)
			continue
		}
		if v >= maxPartitions {
			p.at = begin
			return b, fmt.Errorf("partition %d: at most %d", v, maxPartitions-1)
		}
		if i > 0 && int32(v) <= b.Parts[i-1].Partition {
			p.at = begin
			return b, fmt.Errorf("partition %d after %d: not in ascending order", v, b.Parts[i-1].Partition)
		}
		off, err := p.number(36, math.MaxInt64, "offset")
		if err != nil {
			return b, err
		}
		b.Parts = append(b.Parts, PartitionOffset{Partition: int32(v), Offset: off})
	}
	if strings.HasPrefix(p.rest(), ".") {
		return b, fmt.Errorf("more than the %d offsets announced", n)
	}
	return b, nil
}

// number reads one number between 0 and limit, without leading zeros.
func (p *parser) number(base, limit int64, what string) (int64, error) {
	begin := p.at
	var n int64
	for ; p.at < len(p.in); p.at++ {
		d := int64(digit(p.in[p.at]))
		if d >= base {
			break
		}
		if n > (limit-d)/base {
			p.at = begin
			return 0, fmt.Errorf("%s above %d", what, limit)
		}
		n = n*base + d
	}
	switch {
	case p.at == begin:
		return 0, p.unexpected(what)
	case p.in[begin] == '0' && p.at > begin+1:
		p.at = begin
		return 0, fmt.Errorf("%s with a leading zero", what)
	}
	return n, nil
}

// digit returns the value of a base 36 digit, or 36 for any other byte. Upper
// case is other: there is one spelling of a number.
func digit(b byte) int {
	switch {
	case '0' <= b && b <= '9':
		return int(b - '0')
	case 'a' <= b && b <= 'z':
		return int(b-'a') + 10
	}
	return 36
}
