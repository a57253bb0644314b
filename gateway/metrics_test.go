package gateway

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"spillway/grip"
)

// Every metric of Pushpin is there by its own name and type, and has the value
// of ours.
func TestPushpinMetrics(t *testing.T) {
	checkGoroutines(t)
	api := newAPI(t, map[string]http.HandlerFunc{"/fruit": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "fruit")
	}})
	f := start(t, func(c *Config) { c.Routes, c.PrometheusPrefix = "* "+api.Listener.Addr().String(), "pushpin_" })
	scrape := httptest.NewServer(promhttp.HandlerFor(f.reg, promhttp.HandlerOpts{}))
	t.Cleanup(scrape.Close)
	one, two := f.get(t, "/fruit"), f.get(t, "/fruit")
	f.get(t, "/nothing").wantStatus(404)
	f.listening(t, "fruit", 2)
	f.publish(t, text("fruit", "", "", "apple"), grip.Item{Channel: "nobody", WSMessage: &grip.WSMessage{}}, text("fruit", "", "", "pear"))
	one.want("applepear")
	two.want("applepear")

	var types map[string]string
	metrics := func() map[string]float64 {
		resp, err := http.Get(scrape.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		values := make(map[string]float64)
		types = make(map[string]string)
		for line := range strings.Lines(string(body)) {
			fields := strings.Fields(line)
			if strings.HasPrefix(line, "# TYPE ") {
				types[fields[2]] = fields[3]
			}
			if strings.HasPrefix(line, "#") {
				continue
			}
			name, _, _ := strings.Cut(fields[0], "{")
			v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			values[name] += v
		}
		return values
	}
	var got map[string]float64
	eventually(t, "all to be counted", func() bool {
		got = metrics()
		return got["pushpin_message_sent"] == 4 && got["pushpin_connection_connected"] == 2
	})
	for _, tt := range []struct {
		name, kind, ours string
		want             float64
	}{
		{"request_received", "counter", "spillway_requests_total", 3},
		{"connection_connected", "gauge", "spillway_connections", 2},
		{"message_received", "counter", "spillway_published_items_total", 3},
		{"message_sent", "counter", "spillway_delivered_items_total", 4},
	} {
		name := "pushpin_" + tt.name
		if got[name] != tt.want || got[tt.ours] != tt.want || types[name] != tt.kind {
			t.Errorf("got %s %s %v, %s %v, want a %s of %v", types[name], name, got[name], tt.ours, got[tt.ours], tt.kind, tt.want)
		}
	}
	minutes, seconds := got["pushpin_connection_minute"], got["spillway_connection_seconds_total"]
	if minutes <= 0 || seconds <= 0 || types["pushpin_connection_minute"] != "counter" {
		t.Errorf("got %v minutes and %v seconds, a %s, want more than 0 of a counter", minutes, seconds, types["pushpin_connection_minute"])
	}
}

func TestPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p presence
		time.Sleep(time.Hour)
		for range 3 {
			p.change(1)
			time.Sleep(10 * time.Second)
		}
		p.change(-2)
		time.Sleep(time.Second)
		if got, want := p.sum(), 61.0; got != want {
			t.Errorf("got %v s, want %v", got, want)
		}
		if got := p.now(); got != 1 {
			t.Errorf("got %d, want 1", got)
		}
		p.change(-1)
		time.Sleep(time.Second)
		if got, want := p.sum(), 61.0; got != want {
			t.Errorf("got %v s after the last left, want %v", got, want)
		}
	})
}
