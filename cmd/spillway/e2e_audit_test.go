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
	Time                                                  time.Time
	Event, ID, Transport, Address, Subject, Reason, Route string
	Topics                                                []string
	Seconds                                               *float64
	Bytes                                                 *uint64
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
	s := serve(t, k, "JWT_KEY="+tokenKey, "AUDIT_LOG=audit.jsonl", "TRUSTED_PROXIES=127.0.0.1")
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
	for _, refused := range []string{url, url + "?access_token=" + tokenFor(t, "mallory", "nothing", time.Hour), url + "?filter=%28&access_token=" + token} {
		resp := get(t, t.Context(), refused, "Accept: text/event-stream")
		resp.Body.Close()
	}

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
	_ = ws.conn.Close(websocket.StatusNormalClosure, "")
	await(name, "close", "websocket")

	// What is open at the end is closed before the file is.
	last := get(t, t.Context(), url, "Accept: text/event-stream", "Authorization: Bearer "+token)
	defer last.Body.Close()
	await(name, "open", "stream")
	s.stop()
	if got := find(name, "close", "stream"); got == nil || got.Reason != "draining" {
		t.Errorf("at the end: got %+v, want the stream closed by draining", got)
	}

	_, text := auditLines(t, name)
	_, before := auditLines(t, name+".1")
	for _, hidden := range []string{"payload", "confidential", token, strings.Split(token, ".")[2], "mallory", "missing", "?"} {
		if strings.Contains(before+text, hidden) {
			t.Errorf("the audit log shows %q:\n%s%s", hidden, before, text)
		}
	}
}
