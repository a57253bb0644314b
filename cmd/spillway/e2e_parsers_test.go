package main_test

// What the parsers of others make of an event stream. Their libraries, and the
// programs that print what they see, are in testdata/origins.

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// A parserEvent is what a program prints of an event.
type parserEvent struct {
	Event, ID, Data string
}

// A parser is a library that reads a stream.
type parser struct {
	t       *testing.T
	name    string
	lines   *lineReader
	emptyID string // of the one record whose value is empty
	lastID  string // of what was last printed

	// phantoms are events that nobody sent, by what they were made of: a new id
	// by itself, or something else, such as retry or a comment.
	phantoms phantoms
}

type phantoms struct{ ids, others bool }

// next returns the next event, and notes phantoms before it. An answer that the
// server is not ready yet is none.
func (p *parser) next() parserEvent {
	p.t.Helper()
	for {
		var e parserEvent
		line := p.lines.next()
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			p.t.Fatalf("%s: got %q, want an event: %v", p.name, line, err)
		}
		switch {
		case e.Event == "stream-error":
		case e.Data != "" || e.ID != "" && e.ID == p.emptyID:
			p.lastID = e.ID
			return e
		case e.ID != "" && e.ID != p.lastID:
			p.lastID, p.phantoms.ids = e.ID, true
		default:
			p.phantoms.others = true
		}
	}
}

// wantPhantoms wants these since it was last called.
func (p *parser) wantPhantoms(when string, want phantoms) {
	p.t.Helper()
	if p.phantoms != want {
		p.t.Errorf("%s, %s: got empty events that nobody sent %+v, want %+v", p.name, when, p.phantoms, want)
	}
	p.phantoms = phantoms{}
}

// want wants these events, and ids that are theirs where they are known.
func (p *parser) want(want ...parserEvent) {
	p.t.Helper()
	for _, want := range want {
		got := p.next()
		if want.ID == "" {
			want.ID = got.ID
		}
		if got != want || got.ID == "" {
			p.t.Fatalf("%s: got %+v, want %+v and an id", p.name, got, want)
		}
	}
}

func TestParsers(t *testing.T) {
	t.Parallel()
	if !kafkatest.Full() {
		t.Skip("libraries of others run with SPILLWAY_E2E=full")
	}
	node, python := librariesOf(t, "parsers-node", "node"), librariesOf(t, "parsers-python", "python3")
	jvm := librariesOf(t, "parsers-java", "java")
	jars, classes := filepath.Join(jvm, "target", "*"), t.TempDir()
	compile := exec.Command("java", "-XX:TieredStopAtLevel=1", "-cp", jars, "org.eclipse.jdt.internal.compiler.batch.Main",
		"--release", "17", "-cp", classPath(t, jvm), "-d", classes, filepath.Join(jvm, "Client.java"))
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("compile Client.java: %v: %s", err, out)
	}

	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	produce := func(key string, vs ...string) {
		t.Helper()
		for _, v := range vs {
			k.Produce(&kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(v)})
		}
	}
	s := serve(t, k, "HEARTBEAT_INTERVAL=1s")
	url := s.await(topic) + "?key=k&marks=1"
	commentsURL := url + "&heartbeat=comment"

	// The README tells of those that make events of what a browser fires none for.
	all := []struct {
		name    string
		command []string
		opening phantoms // at the first blank line
		quiet   phantoms
	}{
		{"eventsource", []string{"node", filepath.Join(node, "eventsource.js"), url}, phantoms{}, phantoms{}},
		{"eventsource-parser", []string{"node", filepath.Join(node, "parser.js"), url}, phantoms{}, phantoms{}},
		{"sseclient-py", []string{"python3", filepath.Join(python, "client.py"), "sseclient-py", url}, phantoms{}, phantoms{}},
		{"OkHttp", []string{"java", "-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", classes + ":" + jars, "Client", url}, phantoms{}, phantoms{}},
		{"httpx-sse", []string{"python3", filepath.Join(python, "client.py"), "httpx-sse", url}, phantoms{others: true}, phantoms{ids: true}},
		{"httpx-sse with comments", []string{"python3", filepath.Join(python, "client.py"), "httpx-sse", commentsURL}, phantoms{others: true}, phantoms{}},
		{"sseclient", []string{"python3", filepath.Join(python, "client.py"), "sseclient", url}, phantoms{others: true}, phantoms{ids: true}},
		{"sseclient with comments", []string{"python3", filepath.Join(python, "client.py"), "sseclient", commentsURL}, phantoms{others: true}, phantoms{}},
	}
	plain, comments := subscribe(t, url), subscribe(t, commentsURL)
	plain.wantEvent("live", `{"replayed":0}`)
	var parsers []*parser
	for _, a := range all {
		parsers = append(parsers, &parser{t: t, name: a.name, lines: lines(t, a.command[0], a.command[1:]...)})
	}
	want := func(want ...parserEvent) {
		t.Helper()
		for _, p := range parsers {
			p.want(want...)
		}
	}
	live := func(replayed int) parserEvent {
		return parserEvent{Event: "live", Data: fmt.Sprintf(`{"replayed":%d}`, replayed)}
	}
	// messages produces values, and wants them of everybody.
	messages := func(vs ...string) {
		t.Helper()
		produce("k", vs...)
		var sent []parserEvent
		for _, v := range vs {
			b := plain.next()
			if b.name != "message" || b.data != v {
				t.Fatalf("got %+v, want a message %q", b, v)
			}
			sent = append(sent, parserEvent{"message", b.id, v})
			if v == "" {
				for _, p := range parsers {
					p.emptyID = b.id
				}
			}
		}
		want(sent...)
	}
	want(live(0))
	for i, p := range parsers {
		p.wantPhantoms("at the beginning", all[i].opening)
	}
	messages("one", "two\nlines\n\n and more", "", "größer 😀", " a blank first", ": no comment", "id: none")

	// It is quiet, but for records of others.
	produce("x", "not yours")
	plain.block("an id by itself", func(b block) bool { return b.id != "" && !b.fires })
	plain.block("a comment", func(b block) bool { return b.comment })
	for range 3 {
		comments.block("a comment", func(b block) bool { return b.comment })
	}
	messages("after the quiet")
	for i, p := range parsers {
		p.wantPhantoms("while it was quiet", all[i].quiet)
	}

	// The server is gone for a while, and nothing is missed.
	s.kill()
	produce("k", "while it was away")
	s.start()
	want(parserEvent{Event: "message", Data: "while it was away"}, live(1))
	produce("k", "at last")
	want(parserEvent{Event: "message", Data: "at last"})
}

// classPath names each jar, as the compiler wants it.
func classPath(t *testing.T, home string) string {
	t.Helper()
	jars, err := filepath.Glob(filepath.Join(home, "target", "*.jar"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(jars, ":")
}
