package fanout

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

func TestConnections(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		r := newRig(t, cfg)
		begun := time.Now().Add(-time.Second) // since is in whole seconds
		peers := make([]*peer, 5)
		for i := range peers {
			peers[i] = r.take(Options{Framing: framing})
			peers[i].hold(Hold{Wants: wanted("own" + strconv.Itoa(i))})
			peers[i].hold(Hold{Wants: wanted("all")})
		}
		hello := item("hello")
		hello.Channel = "own1"
		if err := r.Publish(t.Context(), hello); err != nil {
			t.Fatal(err)
		}
		peers[1].want("hello")
		list := func(after uint64, n int) (infos []ConnInfo, more bool) { return r.Connections(t.Context(), after, n) }
		eventually(t, "what was written is counted", func() bool {
			infos, _ := list(0, 100)
			return len(infos) == len(peers) && infos[1].Bytes > 0
		})
		infos, more := list(0, 100)
		if len(infos) != len(peers) || more {
			t.Fatalf("got %d connections and more=%t, want %d", len(infos), more, len(peers))
		}
		for i, info := range infos {
			if info.Owner != Owner(peers[i]) || !slices.Equal(info.Channels, []string{"all", "own" + strconv.Itoa(i)}) ||
				info.Since.Before(begun) || info.Since.After(time.Now()) || (info.Bytes > 0) != (i == 1) || i > 0 && info.ID <= infos[i-1].ID {
				t.Errorf("connection %d: got %+v", i, info)
			}
		}
		page, more := list(infos[1].ID, 2)
		if len(page) != 2 || page[0].ID != infos[2].ID || page[1].ID != infos[3].ID || !more {
			t.Errorf("a page behind the second: got %+v and more=%t", page, more)
		}
		if page, more = list(infos[3].ID, 2); len(page) != 1 || page[0].ID != infos[4].ID || more {
			t.Errorf("the last page: got %+v and more=%t", page, more)
		}
		peers[0].conn.Cut()
		peers[0].wantGone(CutOff)
		if page, _ = list(0, 1); len(page) != 1 || page[0].ID != infos[1].ID {
			t.Errorf("when the first has gone: got %+v", page)
		}
	})
}

// Lists of many who ask at the same time, while connections come and go.
func TestConnectionsWhileTheyChange(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		stays := r.take(Options{Framing: Chunked})
		eventually(t, "it is there", func() bool {
			infos, _ := r.Connections(t.Context(), 0, 1)
			return len(infos) == 1
		})
		stop := make(chan struct{})
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for !isClosed(stop) {
					if infos, _ := r.Connections(t.Context(), 0, 1); len(infos) != 1 || infos[0].Owner != Owner(stays) {
						t.Errorf("got %+v, want the one that stays first", infos)
						return
					}
				}
			})
		}
		for range 200 {
			p := r.take(Options{Framing: Chunked})
			p.hold(Hold{Wants: wanted("c")})
			p.hold(Hold{Wants: wanted("d")})
			p.conn.Cut()
			p.wantGone(CutOff)
		}
		close(stop)
		all.Wait()
	})
}

// Who asks is not kept waiting by an engine that does not run, or any more.
func TestConnectionsOfAnEngineThatRests(t *testing.T) {
	e := newEngine(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() { e.Connections(ctx, 0, 1) })
	}
	cancel()
	all.Wait()
}
