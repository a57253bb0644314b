package main_test

// Tests of the tests: what counts must be known to notice a fault.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

func TestStreamReader(t *testing.T) {
	for _, tt := range []struct {
		name, stream string
		want         []block
		lastID       string
		err          string
	}{
		{"event", "event: delete\nid: 1-a\ndata: k\n\n",
			[]block{{name: "delete", id: "1-a", data: "k", fires: true}}, "1-a", "EOF"},
		{"no name is message", "data: x\n\n", []block{{name: "message", data: "x", fires: true}}, "", "EOF"},
		{"lines of data", "data: a\ndata:\ndata:  b\n\n", []block{{name: "message", data: "a\n\n b", fires: true}}, "", "EOF"},
		{"empty data fire", "data: \n\n", []block{{name: "message", fires: true}}, "", "EOF"},
		{"an id by itself does not", "id: 7\n\n", []block{{name: "message", id: "7"}}, "7", "EOF"},
		{"comment and retry", ":ok\nretry: 2713\n\n:\n\n",
			[]block{{comment: true, data: "ok"}, {name: "message", retry: 2713}, {comment: true}}, "", "EOF"},
		{"cut in a block", "data: a\n", nil, "", "unexpected EOF"},
		{"cut in a line", "data: a\n\nda", []block{{name: "message", data: "a", fires: true}}, "", "unexpected EOF"},
		{"longer than the buffer", "data: " + strings.Repeat("x", 200_000) + "\n\n",
			[]block{{name: "message", data: strings.Repeat("x", 200_000), fires: true}}, "", "EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newEventReader(strings.NewReader(tt.stream))
			var got []block
			for {
				b, err := r.next()
				if err != nil {
					if err.Error() != tt.err {
						t.Errorf("end: got %v, want %s", err, tt.err)
					}
					break
				}
				got = append(got, b)
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("got %.300v, want %.300v", got, tt.want)
			}
			if r.lastID != tt.lastID {
				t.Errorf("last id: got %q, want %q", r.lastID, tt.lastID)
			}
		})
	}
}

// TestDeliveryNoticesFaults runs the counting client against servers that make
// one mistake.
func TestDeliveryNoticesFaults(t *testing.T) {
	const records, partitions = 3000, 3
	for _, tt := range []struct {
		name  string
		order func(i int) []int // numbers of the records to send at position i
		fault string
	}{
		{"none", func(i int) []int { return []int{i} }, ""},
		{"one is lost", func(i int) []int {
			if i == 1500 {
				return nil
			}
			return []int{i}
		}, "lost"},
		{"one comes twice", func(i int) []int {
			if i == 1500 {
				return []int{i, i}
			}
			return []int{i}
		}, "repeated"},
		{"two of a partition change places", func(i int) []int {
			switch i {
			case 1500:
				return []int{1503}
			case 1503:
				return []int{1500}
			}
			return []int{i}
		}, "lost"},
		{"the end never comes", func(i int) []int {
			if i == records-1 {
				return nil
			}
			return []int{i}
		}, "not done in time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				start := 0
				if id := r.Header.Get("Last-Event-ID"); id != "" {
					start, _ = strconv.Atoi(id)
				}
				for i := start; i < records; i++ {
					for _, n := range tt.order(i) {
						if _, err := fmt.Fprintf(w, "id: %d\ndata: %d %d\n\n", i+1, n%partitions, n/partitions); err != nil {
							return
						}
					}
				}
				if start >= records-1 {
					cancel() // the client has all that it will ever get
				}
			})
			a, b := httptest.NewServer(h), httptest.NewServer(h)
			defer a.Close()
			defer b.Close()
			c := &countingClient{
				urls: []string{a.URL, b.URL}, want: records,
				next: make([]int, partitions), rand: rand.New(rand.NewPCG(1, 1)),
			}
			err := c.run(ctx)
			if got := fmt.Sprint(err); tt.fault == "" && err != nil || !strings.Contains(got, tt.fault) {
				t.Errorf("got %v, want a fault that says %q", err, tt.fault)
			}
			if c.connections < 3 {
				t.Errorf("connections: got %d, want several", c.connections)
			}
		})
	}
}
