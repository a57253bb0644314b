package cursor

import "time"

const digits = "0123456789abcdefghijklmnopqrstuvwxyz"

// Minute returns the minutes from 1970 to t, rounded down: the time of a
// cursor. Kafka's "no timestamp" (-1 ms) and other times before 1970 give 0.
func Minute(t time.Time) int64 {
	return max(t.Unix(), 0) / 60
}

// AppendHead appends what stands before the blocks:
//
//	"1" [ "s" | "e" ] "-" minute
//
// The caller adds "-" and the first block; a view keeps those bytes and the
// minute, and so formats only offsets per record. A minute outside 0 to 36^6-1
// is moved to the nearer end, since record timestamps are whatever a producer
// wrote.
func AppendHead(dst []byte, phase Phase, minute int64) []byte {
	dst = append(dst, '1')
	if phase != PhaseLive {
		dst = append(dst, byte(phase))
	}
	dst = append(dst, '-')
	return appendBase36(dst, uint64(min(max(minute, 0), maxMinute)))
}

// AppendDense appends the block of a topic whose partitions are all in the
// view; offsets[p] is the next offset to read in partition p:
//
//	tag "." n "." off "." off …
//
// The separator before it is the caller's: "-" for the first block of a
// cursor, "~" for the others. offsets must not be empty, and none negative.
func AppendDense(dst []byte, tag Tag, offsets []int64) []byte {
	dst = appendTag(dst, tag, len(offsets))
	for _, off := range offsets {
		dst = append(dst, '.')
		dst = AppendOffset(dst, off)
	}
	return dst
}

// AppendOffset appends one offset of a dense block, without the dot before it:
// the part of a cursor that changes from record to record. It must not be
// negative.
func AppendOffset(dst []byte, offset int64) []byte { return appendBase36(dst, uint64(offset)) }

// OverwriteOffset writes offset over the one that text ends with, which stands
// behind a "." or "_". It reports whether both have as many digits; else text is
// of no use any more.
func OverwriteOffset(text []byte, offset int64) bool {
	n := uint64(offset)
	for i := len(text) - 1; i >= 0; i-- {
		if c := text[i]; c == '.' || c == '_' {
			return false
		}
		text[i] = digits[n%36]
		if n /= 36; n == 0 {
			return i > 0 && (text[i-1] == '.' || text[i-1] == '_')
		}
	}
	return false
}

// AppendSparse appends the block of a topic of which only some partitions are
// in the view:
//
//	tag "." n "." part "_" off "." part "_" off …
//
// parts must be in ascending order of partition, and not empty. The separator
// before the block is the caller's, as for AppendDense.
func AppendSparse(dst []byte, tag Tag, parts []PartitionOffset) []byte {
	dst = appendTag(dst, tag, len(parts))
	for _, p := range parts {
		dst = append(dst, '.')
		dst = appendBase36(dst, uint64(p.Partition))
		dst = append(dst, '_')
		dst = appendBase36(dst, uint64(p.Offset))
	}
	return dst
}

// AppendUnknown appends the block of a topic with n partitions that is to be
// resumed by time:
//
//	tag "." n "!"
//
// The separator before it is the caller's, as for AppendDense.
func AppendUnknown(dst []byte, tag Tag, n int) []byte {
	return append(appendTag(dst, tag, n), '!')
}

func appendTag(dst []byte, tag Tag, n int) []byte {
	dst = append(dst, tag[:]...)
	dst = append(dst, '.')
	return appendDecimal(dst, n)
}

// appendDecimal is for n, which is rarely above three digits.
func appendDecimal(dst []byte, n int) []byte {
	var buf [10]byte
	i := len(buf) - 1
	for ; n >= 10; i-- {
		buf[i] = digits[n%10]
		n /= 10
	}
	buf[i] = digits[n]
	return append(dst, buf[i:]...)
}

// appendBase36 is strconv.AppendUint for one base. A constant divisor saves a
// third of the time, and this runs once per partition and record.
func appendBase36(dst []byte, n uint64) []byte {
	var buf [13]byte // 36^13 > 2^64
	i := len(buf) - 1
	for ; n >= 36; i-- {
		buf[i] = digits[n%36]
		n /= 36
	}
	buf[i] = digits[n]
	return append(dst, buf[i:]...)
}
