package fanout

import (
	"bytes"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A ring's sends do what send(2) does, also when the kernel takes no more calls.
func TestRingSend(t *testing.T) {
	for name, broken := range map[string]bool{"ring": false, "broken": true} {
		t.Run(name, func(t *testing.T) {
			r, err := newRing()
			if err != nil {
				t.Skip(err) // the kernel has none, or forbids it
			}
			t.Cleanup(r.close)
			if broken {
				own := r.fd
				r.fd = -1
				t.Cleanup(func() { r.fd = own })
			}
			big := bytes.Repeat([]byte("x"), 8<<20)
			taken, rest := socketPair(t)
			full, _ := socketPair(t)
			for {
				if _, errno := send(full, big); errno == syscall.EAGAIN {
					break
				}
			}
			parted, _ := socketPair(t)
			hungUp, client := socketPair(t)
			if err := unix.Shutdown(client, unix.SHUT_RD); err != nil {
				t.Fatal(err)
			}

			for round := range 3 { // so that the queues go round
				cases := []struct {
					fd    int
					p     []byte
					n     int // -1: some
					errno syscall.Errno
				}{
					{taken, []byte("hello"), 5, 0},
					{full, []byte("hello"), 0, syscall.EAGAIN},
					{hungUp, []byte("hello"), 0, syscall.EPIPE},
					{parted, big, -1, 0},
				}
				if round > 0 {
					cases = cases[:3]
				}
				want := 1
				for ; len(cases) < sweepChunk; want++ {
					cases = append(cases, cases[0])
				}
				for i, tc := range cases {
					r.sends[i] = sending{conn: &Conn{fd: tc.fd}, p: tc.p}
				}
				if err := r.send(len(cases)); (err != nil) != broken {
					t.Fatalf("send: got error %v", err)
				}
				for i, tc := range cases {
					got := &r.sends[i]
					if tc.n < 0 && got.n > 0 && got.n < len(tc.p) && got.errno == 0 {
						continue
					}
					if got.n != tc.n || got.errno != tc.errno {
						t.Errorf("call %d: got %d bytes, error %v, want %d, %v", i, got.n, got.errno, tc.n, tc.errno)
					}
				}
				if got := bytes.Count(readAll(t, rest), []byte("hello")); got != want {
					t.Errorf("round %d: the client got %d times what was sent %d times", round, got, want)
				}
			}
		})
	}
}

// socketPair is two ends of a connection, not blocking.
func socketPair(t *testing.T) (a, b int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	})
	return fds[0], fds[1]
}

// readAll is what is there now.
func readAll(t *testing.T, fd int) (all []byte) {
	t.Helper()
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EAGAIN {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, buf[:n]...)
	}
}
