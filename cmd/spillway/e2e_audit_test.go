package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"spillway/relay/kafkatest"
)

// An auditLine is what a test reads of a line of AUDIT_LOG.
type auditLine struct {
	Time                                                        time.Time
	Event, ID, Transport, Address, Subject, Reason, Route, Code string
	Topics                                                      []string
	Seconds                                                     *float64
	Bytes                                                       *uint64
}

// auditLines reads what is whole of the file.
func auditLines(t *testing.T, name string) (lines []auditLine, text string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var l auditLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		lines = append(lines, l)
	}
	return lines, string(b)
}

// TestAuditLog has a stream, a WebSocket and a long poll leave their traces, without
// what opens doors and without what records hold.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic, more := kafkatest.UniqueTopic(t), kafkatest.UniqueTopic(t)+"-more"
	k.CreateTopic(topic, 1)
	k.CreateTopic(more, 1)
	k.Produce(values(topic, 0, "a payload")...)
	s := serve(t, k, "JWT_KEY="+tokenKey, "JWT_LEEWAY=0s", "AUDIT_LOG=audit.jsonl", "TRUSTED_PROXIES=127.0.0.1")
	name := filepath.Join(s.dir, "audit.jsonl")
	url := s.url + "/events/" + topic + "/"
	token := tokenFor(t, "alice", topic+" "+more, time.Hour)
	find := func(name, event, transport string) (found *auditLine) {
		lines, _ := auditLines(t, name)
		i := slices.IndexFunc(lines, func(l auditLine) bool { return l.Event == event && l.Transport == transport })
		if i < 0 {
			return nil
		}
		return &lines[i]
	}
	await := func(name, event, transport string) auditLine {
		t.Helper()
		eventually(t, "a line of "+event+" "+transport, func() (bool, string) {
			_, text := auditLines(t, name)
			return find(name, event, transport) != nil, text
		})
		return *find(name, event, transport)
	}

	// A topic that is not there yet is no reading.
	eventually(t, "the topics are there", func() (bool, string) {
		resp := get(t, t.Context(), s.url+"/events/"+more+"/?wait=1s&from=earliest", "Authorization: Bearer "+token, "Accept: application/json")
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})
	if got := await(name, "read", "poll"); got.Subject != "alice" || !slices.Equal(got.Topics, []string{more}) || got.Address != "127.0.0.1" {
		t.Errorf("a long poll: got %+v", got)
	}
	// Who is refused stands there, too; what somebody says that there is does not.
	mallory := tokenFor(t, "mallory", "nothing", time.Hour)
	for _, refused := range []string{
		url + "?filter=%28&access_token=" + token, s.url + "/events/missing/?access_token=" + mallory, url, url + "?access_token=" + mallory,
	} {
		resp := get(t, t.Context(), refused, "Accept: text/event-stream")
		resp.Body.Close()
	}
	await(name, "refuse", "request")
	eventually(t, "both refusals", func() (bool, string) {
		lines, text := auditLines(t, name)
		refused := slices.DeleteFunc(lines, func(l auditLine) bool { return l.Event != "refuse" })
		if len(refused) < 2 {
			return false, text
		}
		for i, want := range []auditLine{
			{Reason: "unauthorized"},
			{Reason: "hidden", Subject: "mallory", Topics: []string{topic}},
		} {
			want.Time, want.Event, want.Transport, want.Address, want.Route = refused[i].Time, "refuse", "request", "127.0.0.1", "/events/"
			if fmt.Sprint(refused[i]) != fmt.Sprint(want) {
				t.Errorf("refusal %d: got %+v, want %+v", i, refused[i], want)
			}
		}
		return len(refused) == 2, text
	})

	sse := get(t, t.Context(), url+"?from=earliest&key=confidential&access_token="+token, "Accept: text/event-stream", "X-Forwarded-For: 2001:db8::7")
	open := await(name, "open", "stream")
	if want := (auditLine{Time: open.Time, Event: "open", ID: open.ID, Transport: "stream", Address: "2001:db8::7", Subject: "alice", Route: "/events/", Topics: []string{topic}}); fmt.Sprint(open) != fmt.Sprint(want) {
		t.Errorf("a stream: got %+v, want %+v", open, want)
	}
	if since := time.Since(open.Time); open.ID == "" || since < 0 || since > patience {
		t.Errorf("a stream: got id %q and %v ago", open.ID, since)
	}
	sse.Body.Close()
	closed := await(name, "close", "stream")
	if closed.ID != open.ID || closed.Subject != "alice" || closed.Reason != "client" || closed.Seconds == nil || closed.Bytes == nil || !slices.Equal(closed.Topics, []string{topic}) {
		t.Errorf("its end: got %+v", closed)
	}

	// Moved away, the file is another one after SIGHUP.
	if err := os.Rename(name, name+".1"); err != nil {
		t.Fatal(err)
	}
	s.signal(syscall.SIGHUP)
	eventually(t, "a new file", func() (bool, string) {
		_, err := os.Stat(name)
		return err == nil, fmt.Sprint(err)
	})
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}

	ws := dial(t, url, "spillway.v1.json", asSubprotocol(token))
	if got := await(name, "open", "websocket"); got.Subject != "alice" || !slices.Equal(got.Topics, []string{topic}) {
		t.Errorf("a WebSocket: got %+v", got)
	}
	ws.send(fmt.Sprintf(`{"type":"subscribe","topics":[%q],"ref":1}`, more))
	ws.send(`{"type":"subscribe","topics":["missing"],"ref":2}`)
	if got := await(name, "subscribe", "websocket"); got.Subject != "alice" || !slices.Equal(got.Topics, []string{more}) {
		t.Errorf("a subscription: got %+v", got)
	}
	ws.send(`{"type":"unsubscribe","ref":1}`)
	if got := await(name, "unsubscribe", "websocket"); got.Subject != "alice" || got.Reason != "client" || !slices.Equal(got.Topics, []string{more}) {
		t.Errorf("the end of a subscription: got %+v", got)
	}
	ws.send(`{"type":"auth","token":"` + mallory + `","ref":3}`)
	if got := await(name, "refuse", "websocket"); got.Subject != "alice" || got.Reason != "forbidden" || got.ID == "" || got.Topics != nil {
		t.Errorf("another's token: got %+v", got)
	}
	_ = ws.conn.Close(websocket.StatusNormalClosure, "")
	await(name, "close", "websocket")

	// It is told why rights have ended a stream.
	short := get(t, t.Context(), url, "Accept: text/event-stream", "Authorization: Bearer "+tokenFor(t, "carol", topic, 4*time.Second))
	if got := await(name, "close", "stream"); got.Subject != "carol" || got.Reason != "origin_end" || got.Code != "token-expired" {
		t.Errorf("the end of a token: got %+v", got)
	}
	short.Body.Close()

	// What is open at the end is closed before the file is.
	last := get(t, t.Context(), url, "Accept: text/event-stream", "Authorization: Bearer "+token)
	defer last.Body.Close()
	eventually(t, "it is open", func() (bool, string) {
		lines, text := auditLines(t, name)
		return lines[len(lines)-1].Event == "open", text
	})
	s.stop()
	if lines, text := auditLines(t, name); len(lines) == 0 || lines[len(lines)-1].Reason != "draining" {
		t.Errorf("at the end: got %s, want the stream closed by draining", text)
	}

	_, text := auditLines(t, name)
	_, before := auditLines(t, name+".1")
	for _, hidden := range []string{"payload", "confidential", token, mallory, strings.Split(token, ".")[2], strings.Split(mallory, ".")[2], "missing", "?"} {
		if strings.Contains(before+text, hidden) {
			t.Errorf("the audit log shows %q:\n%s%s", hidden, before, text)
		}
	}
}

// TestAuditLogOnFullDisk lets clients read while the log cannot be written, and says
// how much of it is missing.
func TestAuditLogOnFullDisk(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full")
	}
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	s := newServer(t, consumerConfig(k), "AUDIT_LOG=audit.jsonl")
	name := filepath.Join(s.dir, "audit.jsonl")
	if err := os.Symlink("/dev/full", name); err != nil {
		t.Fatal(err)
	}
	s.start()
	url := s.await(topic)
	sse := subscribe(t, url)
	k.Produce(values(topic, 0, "v")...)
	sse.wantData("v")
	eventually(t, "a line is missing", func() (bool, string) {
		return s.metric("spillway_audit_dropped_total") > 0, s.log.String()
	})
	if log := s.log.String(); strings.Count(log, "audit log not written") != 1 || !strings.Contains(log, "no space left") {
		t.Errorf("the log says %s, want once that there is no space left", log)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	s.signal(syscall.SIGHUP)
	eventually(t, "a new file", func() (bool, string) {
		info, err := os.Stat(name)
		return err == nil && info.Mode().IsRegular(), fmt.Sprint(err)
	})
	sse.cancel()
	eventually(t, "the end of the stream, and what is missing", func() (bool, string) {
		lines, text := auditLines(t, name)
		return slices.ContainsFunc(lines, func(l auditLine) bool { return l.Event == "close" }) && strings.Contains(text, `"event":"dropped","reason":"room","lines":`), text
	})
}
