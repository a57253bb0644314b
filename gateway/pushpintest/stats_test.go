package pushpintest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// pushpinStats reads what Pushpin tells about subscriptions on its stats socket,
// so that recording waits for them. The socket is ZeroMQ's, of which this is as
// much as it takes: ZMTP 3.0 without security, and one subscription to all.
type pushpinStats struct {
	conn net.Conn

	mu    sync.Mutex
	count map[string]map[string]int // by channel and mode; guarded by mu
}

func watchStats(path string) (*pushpinStats, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, fmt.Errorf("stats: %w", err)
	}
	s := &pushpinStats{conn: conn, count: make(map[string]map[string]int)}
	br := bufio.NewReader(conn)
	if err := s.greet(br); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("stats: %w", err)
	}
	go s.read(br)
	return s, nil
}

func (s *pushpinStats) close() { _ = s.conn.Close() }

func (s *pushpinStats) greet(br *bufio.Reader) error {
	hello := make([]byte, 64)
	hello[0], hello[9], hello[10] = 0xff, 0x7f, 3
	copy(hello[12:], "NULL")
	if _, err := s.conn.Write(hello); err != nil {
		return err
	}
	if _, err := io.ReadFull(br, hello); err != nil {
		return err
	}
	ready := []byte("\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB")
	if _, err := s.conn.Write(append([]byte{4, byte(len(ready))}, ready...)); err != nil {
		return err
	}
	if _, _, err := zmtpFrame(br); err != nil {
		return err
	}
	_, err := s.conn.Write([]byte{0, 1, 1})
	return err
}

func zmtpFrame(br *bufio.Reader) (flags byte, body []byte, err error) {
	if flags, err = br.ReadByte(); err != nil {
		return 0, nil, err
	}
	length := make([]byte, 8)
	if flags&2 != 0 {
		_, err = io.ReadFull(br, length)
	} else {
		length[7], err = br.ReadByte()
	}
	n := binary.BigEndian.Uint64(length)
	if err != nil || n > 1<<20 {
		return 0, nil, fmt.Errorf("a frame of %d bytes: %w", n, err)
	}
	body = make([]byte, n)
	_, err = io.ReadFull(br, body)
	return flags, body, err
}

func (s *pushpinStats) read(br *bufio.Reader) {
	for {
		_, body, err := zmtpFrame(br)
		if err != nil {
			return
		}
		text, ok := bytes.CutPrefix(body, []byte("sub J"))
		if !ok {
			continue
		}
		var sub struct {
			Mode, Channel string
			Subscribers   int
			Unavailable   bool
		}
		if json.Unmarshal(text, &sub) != nil {
			continue
		}
		s.mu.Lock()
		if s.count[sub.Channel] == nil {
			s.count[sub.Channel] = make(map[string]int)
		}
		s.count[sub.Channel][sub.Mode] = sub.Subscribers
		if sub.Unavailable {
			delete(s.count[sub.Channel], sub.Mode)
		}
		s.mu.Unlock()
	}
}

func (s *pushpinStats) listening(channel string, n int, patience time.Duration) error {
	count := 0
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		count = 0
		s.mu.Lock()
		for _, c := range s.count[channel] {
			count += c
		}
		s.mu.Unlock()
		if count == n {
			return nil
		}
	}
	return fmt.Errorf("there are %d", count)
}
