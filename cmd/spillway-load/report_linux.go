package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// A report is all of a run, as written to -out.
type report struct {
	Began    time.Time `json:"began"`
	Took     float64   `json:"tookSeconds"`
	Machine  machine   `json:"machine"`
	Broker   string    `json:"broker"` // "kfake" or the bootstrap servers
	Args     []string  `json:"args"`
	Rows     []*row    `json:"rows"`
	Notes    []string  `json:"notes,omitempty"`
	Idle     *idleView `json:"idleView,omitempty"`
	Profiles []profile `json:"profiles,omitempty"`

	Instructions []executed `json:"instructions,omitempty"`

	Steps []*step `json:"steps"`
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
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(w, strings.Join(cells, "\t")+"\t") }
	if len(r.Rows) > 0 {
		row("scenario", "what", "ours", "reached", "other", "reached", "unit", "ratio", "q1–q3", "goal", "verdict", "pairs", "")
		for _, l := range r.Rows {
			row(l.cells()...)
		}
		fmt.Fprintln(w)
	}
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
	for _, e := range r.Instructions {
		fmt.Fprintf(w, "\ninstructions of %s, %s, by function:\n", e.Name, e.What)
		for _, f := range e.Functions {
			row(fmt.Sprintf("%.1f %%", 100*f.Share), f.Name)
		}
	}
	for _, n := range r.Notes {
		fmt.Fprintln(w, n)
	}
	return w.Flush()
}

// cells are the row's line in the table.
func (r *row) cells() []string {
	shown := ratio
	cells := []string{r.Scenario, r.What, r.Ours.Name, short(r.Ours.Spread.Median), r.Theirs.Name, short(r.Theirs.Spread.Median), r.Unit}
	if r.Theirs.Name == "" {
		cells[5] = ""
		shown = func(v float64) string { return digits(v) }
	}
	wanted := ""
	if r.Goal != (goal{}) {
		wanted = "≥ " + shown(r.Goal.Value)
		if r.Goal.AtMost {
			wanted = "≤ " + shown(r.Goal.Value)
		}
	}
	return append(cells, shown(r.Ratio.Median), shown(r.Ratio.Q1)+"–"+shown(r.Ratio.Q3), wanted, r.Verdict, fmt.Sprint(r.Ratio.Of), r.Remark)
}

// short writes a number with three digits: 1.23M, 45.6k, 789.
func short(v float64) string {
	switch {
	case !isNumber(v):
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

// ratio writes a ratio: in percent, or as a multiple where that reads better.
func ratio(v float64) string {
	switch {
	case !isNumber(v):
		return "-"
	case v >= 3:
		return fmt.Sprintf("%.1f ×", v)
	default:
		return fmt.Sprintf("%.0f %%", 100*v)
	}
}

func ms(v milliseconds) string { return digits(float64(v)) }

// thousands writes a whole number with commas: 10,000.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
