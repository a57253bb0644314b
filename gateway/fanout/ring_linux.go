package fanout

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A ring is an io_uring: through it many sends are one system call. It is used as
// a list of calls that are done when the system call returns; nothing stays on its
// way in the kernel. Only its loop uses it.
type ring struct {
	fd      int
	shared  []byte // mapped: head and tail of both queues, and completions
	entries []byte // mapped: submissions

	sent      *uint32 // where the kernel is in submissions
	submitted *uint32 // where we are
	taken     *uint32 // where we are in completions
	completed *uint32 // where the kernel is
	calls     []submission
	results   []completion

	sends [sweepChunk]sending
}

// A sending is one call.
type sending struct {
	conn    *Conn // whose lock is held
	batch   Batch
	private bool
	p       []byte
	n       int
	errno   syscall.Errno
	more    bool
}

// Of linux/io_uring.h.
type (
	// A submission is struct io_uring_sqe.
	submission struct {
		opcode   uint8
		flags    uint8
		ioprio   uint16
		fd       int32
		offset   uint64
		address  uint64
		length   uint32
		msgFlags uint32
		userData uint64
		_        [3]uint64
	}

	// A completion is struct io_uring_cqe.
	completion struct {
		userData uint64
		result   int32
		flags    uint32
	}

	// ringParams is struct io_uring_params.
	ringParams struct {
		submissions, completions uint32
		flags                    uint32
		_                        [2]uint32
		features                 uint32
		_                        [4]uint32
		submission               struct {
			head, tail, mask, entries, flags, dropped, array, _ uint32
			_                                                   uint64
		}
		completion struct {
			head, tail, mask, entries, overflow, results, flags, _ uint32
			_                                                      uint64
		}
	}
)

const (
	opSend       = 26          // IORING_OP_SEND
	setupAll     = 1 << 7      // IORING_SETUP_SUBMIT_ALL, Linux 5.18: one that fails does not stop those behind it
	setupNoIPI   = 1 << 8      // IORING_SETUP_COOP_TASKRUN, Linux 5.19
	featOneMap   = 1 << 0      // IORING_FEAT_SINGLE_MMAP
	offShared    = 0           // IORING_OFF_SQ_RING
	offEntries   = 0x1000_0000 // IORING_OFF_SQES
	enterAndWait = 1 << 0      // IORING_ENTER_GETEVENTS
)

// newRing makes a ring, where the system has them and allows it: containers often
// do not.
func newRing() (*ring, error) {
	p := ringParams{flags: setupAll | setupNoIPI}
	fd, _, errno := syscall.Syscall(unix.SYS_IO_URING_SETUP, sweepChunk, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	r := &ring{fd: int(fd)}
	if p.features&featOneMap == 0 {
		r.close()
		return nil, errors.New("io_uring_setup: too old")
	}
	var err error
	size := max(p.submission.array+4*p.submissions, p.completion.results+uint32(unsafe.Sizeof(completion{}))*p.completions)
	if r.shared, err = unix.Mmap(r.fd, offShared, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		r.close()
		return nil, fmt.Errorf("mmap of an io_uring: %w", err)
	}
	size = uint32(unsafe.Sizeof(submission{})) * p.submissions
	if r.entries, err = unix.Mmap(r.fd, offEntries, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		r.close()
		return nil, fmt.Errorf("mmap of an io_uring: %w", err)
	}
	word := func(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.shared[offset])) }
	r.sent, r.submitted = word(p.submission.head), word(p.submission.tail)
	r.taken, r.completed = word(p.completion.head), word(p.completion.tail)
	r.calls = unsafe.Slice((*submission)(unsafe.Pointer(&r.entries[0])), p.submissions)
	r.results = unsafe.Slice((*completion)(unsafe.Pointer(&r.shared[p.completion.results])), p.completions)
	places := unsafe.Slice(word(p.submission.array), p.submissions)
	for i := range places {
		places[i] = uint32(i)
	}
	return r, nil
}

func (r *ring) close() {
	if r.entries != nil {
		_ = unix.Munmap(r.entries)
	}
	if r.shared != nil {
		_ = unix.Munmap(r.shared)
	}
	_ = unix.Close(r.fd)
}

// send does the first n sends. What the ring does not take is sent without it,
// and the error says why.
func (r *ring) send(n int) (err error) {
	begun := atomic.LoadUint32(r.submitted)
	for i := range r.sends[:n] {
		x := &r.sends[i]
		r.calls[(begun+uint32(i))%uint32(len(r.calls))] = submission{
			opcode: opSend, fd: int32(x.conn.fd), userData: uint64(i), msgFlags: unix.MSG_NOSIGNAL | unix.MSG_DONTWAIT,
			address: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(x.p)))), length: uint32(len(x.p)),
		}
	}
	end := begun + uint32(n)
	atomic.StoreUint32(r.submitted, end)
	for left := n; left > 0; {
		sent := atomic.LoadUint32(r.sent)
		_, _, errno := syscall.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(end-sent), uintptr(left), enterAndWait, 0, 0)
		left -= r.collect()
		if errno == 0 || errno == syscall.EINTR {
			continue
		}
		err = fmt.Errorf("io_uring_enter: %w", errno)
		for i := atomic.LoadUint32(r.sent) - begun; i < end-begun; i++ {
			x := &r.sends[i]
			x.n, x.errno = send(x.conn.fd, x.p)
			left--
		}
		end = atomic.LoadUint32(r.sent)
		atomic.StoreUint32(r.submitted, end)
	}
	return err
}

// collect takes the results that are there, and says how many.
func (r *ring) collect() (n int) {
	taken, completed := atomic.LoadUint32(r.taken), atomic.LoadUint32(r.completed)
	for ; taken != completed; taken++ {
		c := &r.results[taken%uint32(len(r.results))]
		x := &r.sends[c.userData]
		x.n, x.errno = int(c.result), 0
		if c.result < 0 {
			x.n, x.errno = 0, syscall.Errno(-c.result)
		}
		n++
	}
	atomic.StoreUint32(r.taken, taken)
	return n
}

// flushAll writes to each connection what there is for it, the first write of all
// in one system call. Until that is done the locks of all are held: nobody holds
// one and waits for another. An error means that the ring is of no use any more;
// all is written nevertheless.
func (r *ring) flushAll(s *shard, l *loop, conns []*Conn) error {
	n := 0
	for _, c := range conns {
		if c.sending { // there twice
			continue
		}
		c.mu.Lock()
		x := &r.sends[n]
		private, ok := []byte(nil), false
		if !c.blocked && !c.pumping && c.framing != Plain {
			if private, ok = c.next(&x.batch, l.now); !ok {
				c.said(l.now)
			}
		} else if !c.blocked {
			s.flush(l, c)
		}
		if !ok {
			l.unlock(c)
			continue
		}
		x.conn, x.private, x.p = c, private != nil, private
		if private == nil {
			x.p = x.batch.Frames
		}
		c.sending = true
		n++
	}
	err := r.send(n)
	for i := range r.sends[:n] {
		x := &r.sends[i]
		x.more = s.wrote(l, x.conn, &x.batch, x.private, len(x.p), x.n, x.errno)
	}
	l.unpin(0)
	for i := range r.sends[:n] {
		x := &r.sends[i]
		c := x.conn
		c.sending = false
		if x.more {
			s.flush(l, c)
		}
		l.unlock(c)
		*x = sending{}
	}
	return err
}
