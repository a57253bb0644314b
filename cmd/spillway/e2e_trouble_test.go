package main_test

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"spillway/relay/kafkatest"
)

// TestKafkaGoesAwayAndComesBack: connections stay, heartbeats go on, /readyz
// tells, and delivery goes on without loss or repeats.
func TestKafkaGoesAwayAndComesBack(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 3)
		s := serve(t, k, "HEARTBEAT_INTERVAL=1s")
		url := s.url + "/events/" + topic + "/"
		live := subscribe(t, url)
		ws := dial(t, url)
		k.Produce(numbered(topic, 1, 2)...)
		live.wantData("0", "1")
		ws.want(websocket.MessageText, "0")
		ws.want(websocket.MessageText, "1")
		id := live.lastID

		outages := 1
		if kafkatest.Full() {
			outages = 2 // the second finds clients that have been through one
		}
		for outage := range outages {
			k.Stop()
			s.wantReady(http.StatusServiceUnavailable)
			if _, body := s.readyz(); !strings.Contains(body, "kafka") {
				t.Errorf("/readyz: got %s, want kafka as the reason", body)
			}
			for range 2 { // more than what was on its way
				live.heartbeat()
			}
			k.Start()
			s.wantReady(http.StatusOK)
			want := fmt.Sprintf("after outage %d", outage)
			k.Produce(values(topic, int32(outage), want)...)
			live.wantData(want)
			ws.want(websocket.MessageText, want)
		}
		resumed := subscribe(t, url, "Last-Event-ID: "+id)
		resumed.wantSet([]string{"after outage 0", "after outage 1"}[:outages]...)
	})
}

// TestNewConnectionsWhileKafkaIsAway: transient, so a browser must get a 200
// that it comes back from, and everybody else a 503.
func TestNewConnectionsWhileKafkaIsAway(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		s := serve(t, k)
		url := s.url + "/events/" + topic + "/"
		k.Stop()
		s.wantReady(http.StatusServiceUnavailable)

		st := subscribe(t, url+"?from=earliest")
		retry := st.block("retry", func(b block) bool { return b.retry > 0 })
		if retry.retry < 1000 {
			t.Errorf("retry: got %d ms, want at least 1000", retry.retry)
		}
		st.wantEvent("stream-error", `{"code":"kafka-unavailable","retry":true}`)
		st.wantEnd()
		if st.lastID != "" {
			t.Errorf("id of a stream that never was: got %q, want none", st.lastID)
		}

		resp, body := fetch(t, url+"?from=earliest")
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Errorf("not an event stream: got %s, Retry-After %q, %s, want 503 with Retry-After", resp.Status, resp.Header.Get("Retry-After"), body)
		}
		k.Start()
		s.wantReady(http.StatusOK)
		k.Produce(values(topic, 0, "hello")...)
		subscribe(t, url+"?from=earliest").wantData("hello")
	})
}

func TestDrain(t *testing.T) {
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)

	t.Run("SIGTERM sends clients away in good order", func(t *testing.T) {
		s := serve(t, k, "DRAIN_TIMEOUT=3s")
		url := s.url + "/events/" + topic + "/"
		var streams []*stream
		for range 10 {
			st := subscribe(t, url)
			st.block("retry", func(b block) bool { return b.retry > 0 })
			streams = append(streams, st)
		}
		ws := dial(t, url)
		k.Produce(values(topic, 0, "last")...)
		for _, st := range streams {
			st.wantData("last")
		}
		ws.want(websocket.MessageText, "last")

		s.signal(syscall.SIGTERM)
		retries := map[int]bool{}
		for _, st := range streams {
			b := st.block("a new retry", func(b block) bool { return b.retry > 0 })
			retries[b.retry] = true
			st.wantEnd()
		}
		if len(retries) < 3 {
			t.Errorf("retry of %d clients: got %v, want them spread", len(streams), retries)
		}
		ws.wantClose(websocket.StatusServiceRestart)
		if code := s.wait(); code != 0 {
			t.Errorf("exit code: got %d, want 0", code)
		}
	})

	t.Run("DRAIN_DELAY goes on as before, and /readyz says so", func(t *testing.T) {
		s := serve(t, k, "DRAIN_DELAY=3s", "DRAIN_TIMEOUT=4s")
		st := subscribe(t, s.url+"/events/"+topic+"/")
		s.signal(syscall.SIGTERM)
		s.wantReady(http.StatusServiceUnavailable)
		k.Produce(values(topic, 0, "meanwhile")...)
		st.wantData("meanwhile")
		st.wantEnd()
		if code := s.wait(); code != 0 {
			t.Errorf("exit code: got %d, want 0", code)
		}
	})

	t.Run("a second signal ends it at once", func(t *testing.T) {
		s := newServer(t, consumerConfig(k), "DRAIN_DELAY=50s", "DRAIN_TIMEOUT=60s")
		s.start()
		st := subscribe(t, s.url+"/events/"+topic+"/")
		s.signal(syscall.SIGTERM)
		s.wantReady(http.StatusServiceUnavailable)
		began := time.Now()
		s.signal(syscall.SIGTERM)
		if code := s.wait(); code != 1 {
			t.Errorf("exit code: got %d, want 1", code)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("end after the second signal: got %v, want at once", took)
		}
		st.close()
	})
}

// TestWrongConfiguration never half-starts, and names every problem at once.
func TestWrongConfiguration(t *testing.T) {
	out, code := runProgram(t, []string{
		`KAFKA_CONSUMER_CONFIG={"bootstrap.server":"localhost:9092"}`,
		"HEARTBEAT_INTERVAL=30",
		"DRAIN_TIMEOUT=0s",
		"OPS_ADDR=9464",
	}, "serve")
	if code != 2 {
		t.Errorf("exit code: got %d, want 2", code)
	}
	for _, want := range []string{"bootstrap.server", "bootstrap.servers", "HEARTBEAT_INTERVAL", "30s", "DRAIN_TIMEOUT", "OPS_ADDR"} {
		if !strings.Contains(out, want) {
			t.Errorf("report: got %s, want it to name %s", out, want)
		}
	}
}

// TestAddressInUse is the end of the second server only.
func TestAddressInUse(t *testing.T) {
	k := kafkatest.Fake(t)
	s := serve(t, k)
	addr := strings.TrimPrefix(s.url, "http://")
	out, code := runProgram(t, newServer(t, consumerConfig(k), "HTTP_ADDR="+addr).env, "serve")
	if code <= 0 || !strings.Contains(out, addr) {
		t.Errorf("got exit code %d and %s, want a failure that names %s", code, out, addr)
	}
	s.wantReady(http.StatusOK)
}

// runProgram runs a command that ends by itself, and returns all it has printed.
func runProgram(t *testing.T, env []string, args ...string) (out string, code int) {
	t.Helper()
	cmd := spillway(t, env, args...)
	var log logBuffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	code = exitCode(t, cmd.Wait())
	return log.String(), code
}
