package fanout

import "testing"

// A shard lists its connections in steps.
func TestPage(t *testing.T) {
	s := &shard{conns: make([]*Conn, 2*pageSlots+1)}
	want := 0
	for i := 0; i < len(s.conns); i += 3 {
		s.conns[i] = new(Conn)
		want++
	}
	seen := make(map[*Conn]bool)
	steps := 0
	for at := 0; at >= 0; steps++ {
		at = s.page(at, func(c *Conn) { seen[c] = true })
	}
	if len(seen) != want || steps != 3 {
		t.Errorf("got %d connections in %d steps, want %d in 3", len(seen), steps, want)
	}
	if next := new(shard).page(0, func(*Conn) { t.Error("got a connection of none") }); next != -1 {
		t.Errorf("got %d as next of none, want -1", next)
	}
	if next := s.page(5*pageSlots, func(*Conn) { t.Error("got a connection behind the end") }); next != -1 {
		t.Errorf("got %d as next behind the end, want -1", next)
	}
}
