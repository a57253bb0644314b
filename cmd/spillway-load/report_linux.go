package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// A report is all of a run, as written to -out.
type report struct {
	Began   time.Time `json:"began"`
	Machine machine   `json:"machine"`
	Broker  string    `json:"broker"` // "kfake" or the bootstrap servers
	Idle    *idleView `json:"idleView,omitempty"`
	Fanout  *fanout   `json:"fanout,omitempty"`
}

// profiles are those of all scenarios.
func (r *report) profiles() (all []profile) {
	if r.Idle != nil {
		all = append(all, r.Idle.Profile)
	}
	if r.Fanout != nil {
		all = append(all, r.Fanout.Profiles...)
	}
	return all
}

type machine struct {
	CPUs   int    `json:"cpus"`
	System string `json:"system"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

func thisMachine() machine {
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		kernel = []byte("unknown")
	}
	return machine{
		CPUs: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH,
		Kernel: strings.TrimSpace(string(kernel)), Go: runtime.Version(),
	}
}

// write prints the report for people.
func (r *report) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(cells ...string) { fmt.Fprintln(w, strings.Join(cells, "\t")+"\t") }
	if v := r.Idle; v != nil {
		fmt.Fprintf(w, "\nidle-view: %d records of %d bytes to one client\n\n", v.Records, v.Size)
		row("", "records/s", "per CPU-s", "CPU µs/record", "of the consumer, per CPU-s", "fell behind")
		for _, line := range []struct {
			name string
			reading
		}{{"live", v.Live}, {"backlog", v.Backlog}, {"bare consumer", v.Consumer}} {
			row(line.name, short(line.perSecond()), short(line.perCPUSecond()),
				fmt.Sprintf("%.2f", 1e6/line.perCPUSecond()), ratio(line.perCPUSecond()/v.Consumer.perCPUSecond()),
				fmt.Sprint(line.FellBehind))
		}
		fmt.Fprintf(w, "\nlive is bounded by the producer and the broker: %s records/s\n", short(v.ProducedPerSecond))
	}
	if f := r.Fanout; f != nil {
		fmt.Fprintf(w, "\nfanout: messages of %d bytes to %d clients; %s streams/s opened, %s of memory each\n\n",
			f.Size, f.Clients, short(f.OpenedPerSecond), kib(f.RSSPerStream))
		row("", "offered/s", "delivered/s", "p50 ms", "p99 ms", "max ms", "Kafka p99", "lost", "per CPU-s", "per write", "bytes", "RSS")
		line := func(name string, s *step) {
			acked := "-"
			if s.Acked > 0 {
				acked = ms(s.Acked)
			}
			row(name, short(s.Rate*float64(s.Clients)), short(s.perSecond()), ms(s.P50), ms(s.P99), ms(s.Max), acked,
				fmt.Sprint(s.Lost), short(s.perCPUSecond()), fmt.Sprintf("%.2f", s.perWrite()),
				fmt.Sprintf("%.0f", float64(s.WireBytes)/float64(s.Delivered)), fmt.Sprintf("%.0f MiB", float64(s.RSS)/(1<<20)))
		}
		both := func(name string, pairs []pair) {
			for i := range pairs {
				line(name+", spillway", &pairs[i].Spillway)
				line(name+", floor", &pairs[i].Floor)
			}
		}
		both("light", f.Light)
		both("busy", f.Busy)
		if f.Most != nil {
			line("most, spillway", f.Most)
		}
		if f.MostFloor != nil {
			line("most, floor", f.MostFloor)
		}
		fmt.Fprintln(w)
		for _, c := range f.Ratios {
			fmt.Fprintf(w, "%s, against the floor: %s", c.Of, ratio(c.Median))
			if c.Pairs > 1 {
				fmt.Fprintf(w, " (%s to %s in %d pairs)", ratio(c.Least), ratio(c.Greatest), c.Pairs)
			}
			fmt.Fprintln(w)
		}
		if f.TimeUp {
			fmt.Fprintln(w, "the search for the most ran out of time before it met a load that was too much: give it a longer -for")
		}
		if f.Most == nil {
			fmt.Fprintln(w, "spillway did not bear the first load of the search")
		}
	}
	return w.Flush()
}

// short writes a number with three digits: 1.23M, 45.6k, 789.
func short(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case v >= 1e6:
		return digits(v/1e6) + "M"
	case v >= 1e3:
		return digits(v/1e3) + "k"
	default:
		return digits(v)
	}
}

func digits(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func ratio(v float64) string   { return fmt.Sprintf("%.0f %%", 100*v) }
func ms(v milliseconds) string { return digits(float64(v)) }
func kib(bytes float64) string { return digits(bytes/1024) + " KiB" }
