package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"spillway/grip"
)

// A controlAPI keeps what is published to it.
type controlAPI struct {
	*httptest.Server
	mu     sync.Mutex
	items  []grip.Item // guarded by mu
	auth   string      // guarded by mu; of the last request
	status int         // what it answers
}

func newControlAPI(t *testing.T, status int) *controlAPI {
	t.Helper()
	api := &controlAPI{status: status}
	api.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/publish/" {
			http.Error(w, "not a publish request", http.StatusBadRequest)
			return
		}
		items, err := grip.ParseItems(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		api.mu.Lock()
		defer api.mu.Unlock()
		api.items = append(api.items, items...)
		api.auth = r.Header.Get("Authorization")
		w.WriteHeader(api.status)
		_, _ = io.WriteString(w, "Published\n")
	}))
	t.Cleanup(api.Close)
	return api
}

func TestPublish(t *testing.T) {
	for _, tt := range []struct {
		name  string
		args  []string
		stdin string
		want  grip.Item
	}{
		{"an argument, in all formats", []string{"test", "hello there"}, "", grip.Item{
			Channel:      "test",
			HTTPStream:   &grip.HTTPStream{Content: []byte("hello there\n")},
			HTTPResponse: &grip.HTTPResponse{Code: 200, Body: []byte("hello there\n")},
			WSMessage:    &grip.WSMessage{Content: []byte("hello there")},
		}},
		{"standard input, as echo writes it", []string{"test"}, "hello\n", grip.Item{
			Channel:      "test",
			HTTPStream:   &grip.HTTPStream{Content: []byte("hello\n")},
			HTTPResponse: &grip.HTTPResponse{Code: 200, Body: []byte("hello\n")},
			WSMessage:    &grip.WSMessage{Content: []byte("hello")},
		}},
		{"options", []string{"test", "-id", "2", "-prev-id=1", "-sender", "bob", "-M", "a=b=c", "-code", "201", "-H", "X-A: b: c", "-no-seq", "-no-eol", "hi"}, "", grip.Item{
			Channel: "test", ID: "2", PrevID: "1", NoSeq: true, Meta: map[string]string{"sender": "bob", "a": "b=c"},
			HTTPStream:   &grip.HTTPStream{Content: []byte("hi")},
			HTTPResponse: &grip.HTTPResponse{Code: 201, Headers: []grip.Header{{Name: "X-A", Value: "b: c"}}, Body: []byte("hi")},
			WSMessage:    &grip.WSMessage{Content: []byte("hi")},
		}},
		{"an event, which a line cannot forge", []string{"test", "-sse", "a\r\nid: 9\rb\n"}, "", grip.Item{
			Channel:      "test",
			HTTPStream:   &grip.HTTPStream{Content: []byte("event: message\ndata: a\ndata: id: 9\ndata: b\ndata: \n\n")},
			HTTPResponse: &grip.HTTPResponse{Code: 200, Body: []byte("a\r\nid: 9\rb\n\n")},
			WSMessage:    &grip.WSMessage{Content: []byte("a\r\nid: 9\rb\n")},
		}},
		{"an event with a name", []string{"test", "-event", "news", "a"}, "", grip.Item{
			Channel:      "test",
			HTTPStream:   &grip.HTTPStream{Content: []byte("event: news\ndata: a\n\n")},
			HTTPResponse: &grip.HTTPResponse{Code: 200, Body: []byte("a\n")},
			WSMessage:    &grip.WSMessage{Content: []byte("a")},
		}},
		{"bytes", []string{"test", "-no-eol", "\xff\x00"}, "", grip.Item{
			Channel:      "test",
			HTTPStream:   &grip.HTTPStream{Content: []byte("\xff\x00")},
			HTTPResponse: &grip.HTTPResponse{Code: 200, Body: []byte("\xff\x00")},
			WSMessage:    &grip.WSMessage{Type: grip.BinaryMessage, Content: []byte("\xff\x00")},
		}},
		{"close", []string{"test", "-close"}, "", grip.Item{
			Channel:      "test",
			HTTPStream:   &grip.HTTPStream{Action: grip.ActionClose},
			HTTPResponse: &grip.HTTPResponse{Action: grip.ActionClose, Code: 200},
			WSMessage:    &grip.WSMessage{Action: grip.ActionClose},
		}},
		{"hint", []string{"-hint", "test"}, "", grip.Item{
			Channel:      "test",
			HTTPStream:   &grip.HTTPStream{Action: grip.ActionHint},
			HTTPResponse: &grip.HTTPResponse{Action: grip.ActionHint, Code: 200},
			WSMessage:    &grip.WSMessage{Action: grip.ActionHint},
		}},
		{"refresh", []string{"-refresh", "test"}, "", grip.Item{Channel: "test", WSMessage: &grip.WSMessage{Action: grip.ActionRefresh}}},
		{"close with a code", []string{"-close", "-code", "4001", "-reason", "bye", "-f", "ws-message", "test"}, "", grip.Item{
			Channel: "test", WSMessage: &grip.WSMessage{Action: grip.ActionClose, Code: 4001, Reason: "bye"},
		}},
		{"hint with an id", []string{"-hint", "-id", "8", "-f", "http-stream", "test"}, "", grip.Item{
			Channel: "test", ID: "8", HTTPStream: &grip.HTTPStream{Action: grip.ActionHint},
		}},
		{"some formats, long names", []string{"--f", "http-response,ws-message", "--header", "A: 1", "--header=B: 2", "--meta", "a=b", "--code=404", "--reason", "No", "test", "x"}, "", grip.Item{
			Channel: "test", Meta: map[string]string{"a": "b"},
			HTTPResponse: &grip.HTTPResponse{Code: 404, Reason: "No", Headers: []grip.Header{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}}, Body: []byte("x\n")},
			WSMessage:    &grip.WSMessage{Content: []byte("x")},
		}},
		{"patch with a status", []string{"-patch", "-code", "201", "-H", "A: 1", "test", `[]`}, "", grip.Item{
			Channel: "test", HTTPResponse: &grip.HTTPResponse{Code: 201, Headers: []grip.Header{{Name: "A", Value: "1"}}, BodyPatch: []byte(`[]`)},
		}},
		{"patch", []string{"-patch", "test", `[{"op":"remove","path":"/a"}]`}, "", grip.Item{
			Channel:      "test",
			HTTPResponse: &grip.HTTPResponse{Code: 200, BodyPatch: []byte(`[{"op":"remove","path":"/a"}]`)},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			api := newControlAPI(t, http.StatusOK)
			p := newProcess(t, "GRIP_URL="+api.URL+"/")
			p.stdin = strings.NewReader(tt.stdin)
			if code := p.run(t.Context(), append([]string{"publish"}, tt.args...)...); code != exitOK {
				t.Fatalf("exit code %d: %s", code, p.stderr)
			}
			if got, want := p.stdout.String(), "Published\n"; got != want {
				t.Errorf("stdout: got %q, want %q", got, want)
			}
			if len(api.items) != 1 {
				t.Fatalf("got %d items, want 1", len(api.items))
			}
			// The parser sets a 200 that was not said, and no more.
			got := api.items[0]
			if got.HTTPResponse != nil && got.HTTPResponse.Code == 0 {
				got.HTTPResponse.Code = 200
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %s\nwant %s", grip.AppendItems(nil, got), grip.AppendItems(nil, tt.want))
			}
		})
	}
}

func TestPublishFile(t *testing.T) {
	api := newControlAPI(t, http.StatusOK)
	p := newProcess(t)
	writeFile(t, p, "content", "from a file\n")
	if code := p.run(t.Context(), "publish", "-spec", api.URL, "-no-eol", "test", "@"+p.dir+"/content"); code != exitOK {
		t.Fatalf("exit code %d: %s", code, p.stderr)
	}
	if got, want := string(api.items[0].WSMessage.Content), "from a file\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// -spec wins over the environment, which wins over .env.
func TestPublishWhereTo(t *testing.T) {
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte("t0ken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	option, variable, file := newControlAPI(t, 200), newControlAPI(t, 200), newControlAPI(t, 200)
	for _, tt := range []struct {
		name string
		env  []string
		args []string
		want *controlAPI
		auth string
	}{
		{"option", []string{"GRIP_URL=" + variable.URL}, []string{"-spec", option.URL + "?key=s3cret"}, option, "Bearer s3cret"},
		{"environment", []string{"GRIP_URL=" + variable.URL}, nil, variable, ""},
		{".env", nil, nil, file, ""},
		{"basic authentication", nil, []string{"-spec", option.URL + "?iss=x&key=y", "-u", "me:s3:cret"}, option, "Basic bWU6czM6Y3JldA=="},
		{"a token instead of the URL's key", nil, []string{"-spec", option.URL + "?iss=x&key=y", "--bearer", "a.b.c"}, option, "Bearer a.b.c"},
		{"a token in a file", nil, []string{"-spec", option.URL, "-bearer", "file:" + tokenFile}, option, "Bearer t0ken"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProcess(t, tt.env...)
			writeFile(t, p, ".env", "GRIP_URL="+file.URL)
			if code := p.run(t.Context(), append([]string{"publish", "test", "x"}, tt.args...)...); code != exitOK {
				t.Fatalf("exit code %d: %s", code, p.stderr)
			}
			if len(tt.want.items) == 0 || tt.want.auth != tt.auth {
				t.Errorf("got %d items with Authorization %q, want some with %q", len(tt.want.items), tt.want.auth, tt.auth)
			}
		})
	}
}

func TestPublishErrors(t *testing.T) {
	refusing := newControlAPI(t, http.StatusUnauthorized)
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no channel", nil, exitUsage, "takes a channel and at most one content, but got 0 arguments"},
		{"empty channel", []string{"", "x"}, exitUsage, "the channel is empty"},
		{"not a URL", []string{"-spec", "localhost:5561", "test", "x"}, exitUsage, "-spec: "},
		{"ZeroMQ", []string{"-spec", "tcp://localhost:5560", "test", "x"}, exitUsage, "-spec: ZeroMQ is not supported; name the control API, such as http://localhost:5561"},
		{"a password in the clear", []string{"-spec", "http://proxy.example:5561", "-u", "me:s3cret", "test", "x"}, exitUsage, "-u: http://proxy.example:5561 would be sent the password in the clear; use https"},
		{"no password", []string{"-u", "me", "test", "x"}, exitUsage, "-u: write NAME:PASSWORD"},
		{"password and token", []string{"-u", "me:s3cret", "-bearer", "x", "test", "x"}, exitUsage, "-u and -bearer exclude each other"},
		{"no such token", []string{"-bearer", "file:/does/not/exist", "test", "x"}, exitUsage, "-bearer: is not a text, nor a file with one"},
		{"no such format", []string{"-f", "http-stream,sse", "test", "x"}, exitUsage, `-f "sse": is none of http-stream, http-response, ws-message`},
		{"a format without anything", []string{"-f", "http-stream", "-refresh", "test"}, exitUsage, "-f http-stream: nothing is left that these options send"},
		{"content to close", []string{"-close", "test", "x"}, exitUsage, "-hint, -close and -refresh take no content"},
		{"close and hint", []string{"-close", "-hint", "test"}, exitUsage, "-hint, -close and -refresh exclude each other"},
		{"not a patch", []string{"-patch", "test", "{}"}, exitUsage, "-patch: not a JSON array of operations"},
		{"not a header", []string{"-H", "A", "test", "x"}, exitUsage, `-H "A": write 'Name: value'`},
		{"not meta", []string{"-M", "A", "test", "x"}, exitUsage, `-M "A": write NAME=VALUE`},
		{"an event name of two lines", []string{"-event", "a\nb", "test", "x"}, exitUsage, "a name is one line"},
		{"no such file", []string{"test", "@/does/not/exist"}, exitUsage, "open /does/not/exist: no such file or directory"},
		{"refused", []string{"-spec", refusing.URL, "test", "x"}, exitFail, "/publish/ answers 401: Published"},
		{"nobody there", []string{"-spec", "http://127.0.0.1:1", "test", "x"}, exitFail, "connection refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProcess(t)
			if code := p.run(t.Context(), append([]string{"publish"}, tt.args...)...); code != tt.code {
				t.Errorf("exit code: got %d, want %d", code, tt.code)
			}
			if got := p.stderr.String(); !strings.Contains(got, tt.want) {
				t.Errorf("stderr: got %q, want %q in it", got, tt.want)
			}
			if got := p.stdout.String(); got != "" {
				t.Errorf("stdout: got %q", got)
			}
		})
	}
}

func TestPublishInterrupted(t *testing.T) {
	arrived := make(chan struct{})
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that the server notices the client's going
		close(arrived)
		<-r.Context().Done()
	}))
	t.Cleanup(api.Close)
	p := newProcess(t)
	ctx, interrupt := context.WithCancel(t.Context())
	wait := p.start(ctx, t, "publish", "-spec", api.URL, "test", "x")
	<-arrived
	interrupt()
	if code := wait(); code != exitFail {
		t.Errorf("exit code: got %d, want %d", code, exitFail)
	}
	if got, want := p.stderr.String(), "spillway: publish: interrupted; the item may have been published\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
