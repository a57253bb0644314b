package properties

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

// FuzzParse wants an answer to anything: a configuration that the client
// library accepts, or an error in lines that begin with something.
func FuzzParse(f *testing.F) {
	for _, seed := range []struct{ file, env string }{
		{``, `{"bootstrap.servers":"localhost:9092","group.id":"mygroup"}`},
		{`{"bootstrap.servers":["a","[::1]:9"],"debug":"all"}`, `{"group.id":null,"default.topic.config":{"auto.offset.reset":"smallest"}}`},
		{`{"bootstrap.servers":"a","security.protocol":"sasl_plaintext","sasl.mechanism":"SCRAM-SHA-512"}`, `{"sasl.username":"a","sasl.password":"b"}`},
		{``, `{"bootstrap.servers":"a","security.protocol":"sasl_ssl","sasl.mechanism":"PLAIN","sasl.jaas.config":"PlainLoginModule required username=\"a\" password=\"b\";"}`},
		{``, `{"bootstrap.servers":"a","security.protocol":"sasl_ssl","sasl.mechanism":"OAUTHBEARER","sasl.oauthbearer.method":"oidc","sasl.oauthbearer.token.endpoint.url":"https://a/b","sasl.oauthbearer.client.id":"a","sasl.oauthbearer.client.secret":"b","sasl.oauthbearer.extensions":"a=b"}`},
		{``, `{"bootstrap.servers":"a","security.protocol":"ssl","ssl.ca.pem":"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----","ssl.cipher.suites":"AES128-SHA"}`},
		{``, `{"bootstrap.servers":"a","topic.blacklist":["a{1,2}","b\\,c"],"fetch.max.bytes":5e2,"connections.max.idle.ms":"0"}`},
		{``, `{"bootstrap.servers":"a","topic.metadata.refresh.interval.ms":1,"topic.metadata.refresh.fast.interval.ms":60000,"fetch.max.bytes":0,"session.timeout.ms":1,"heartbeat.interval.ms":1,"group.id":"g","group.instance.id":"{pod}"}`},
		{`{`, `[]`},
		{`{"a":{"b":1},"a":2}`, `{"enable.auto.comit":1,"rebalance_cb":null,"linger.ms":{}}`},
		{`null`, `{"debug":[1,true,"x"],"group.id":1e400}`},
	} {
		f.Add([]byte(seed.file), []byte(seed.env), true)
		f.Add([]byte(seed.file), []byte(seed.env), false)
	}
	f.Fuzz(func(t *testing.T, file, env []byte, requireGroup bool) {
		for _, data := range [][]byte{file, env} {
			// The files of this machine are none of the fuzzer's business.
			if strings.Contains(string(data), "location") || strings.Contains(string(data), `\u`) {
				t.Skip()
			}
		}
		p, err := Parse(file, env, requireGroup)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if strings.HasPrefix(line, ":") || len(line) > 4000 {
					t.Errorf("got %q", line)
				}
			}
			return
		}
		if requireGroup && p.Group() == "" {
			t.Error("no group")
		}
		for _, l := range p.Effective() {
			if l.Name == "" || l.Status == "" || l.Status == refused {
				t.Errorf("got %+v", l)
			}
		}
		for _, opts := range [][]kgo.Opt{p.ReadOpts(), p.GroupOpts("suffix-1")} {
			c, err := kgo.NewClient(append(p.ClientOpts("fuzz", quiet), opts...)...)
			if err != nil {
				t.Fatalf("%s + %s: %v", file, env, err)
			}
			c.Close()
		}
		again, err := Parse(file, env, requireGroup)
		if err != nil || len(again.Effective()) != len(p.Effective()) {
			t.Errorf("twice the same, two answers: %v", err)
		}
	})
}

// FuzzValues puts any values into any properties, which bytes at random seldom
// do, and wants what passes to be options that the client library accepts.
func FuzzValues(f *testing.F) {
	for i, name := range names {
		f.Add(uint16(i), known[name].def, uint16(i+1), "1")
		f.Add(uint16(i), "2147483647", uint16(i+7), "-1")
	}
	f.Fuzz(func(t *testing.T, a uint16, valueA string, b uint16, valueB string) {
		all := map[string]any{"bootstrap.servers": "a", "group.id": "g"}
		for name, value := range map[string]string{names[int(a)%len(names)]: valueA, names[int(b)%len(names)]: valueB} {
			if !strings.Contains(name, "location") && value != "" {
				all[name] = value
			}
		}
		data, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Parse(nil, data, false)
		if err != nil {
			return
		}
		for _, opts := range [][]kgo.Opt{p.ReadOpts(), p.GroupOpts("suffix-1")} {
			c, err := kgo.NewClient(append(p.ClientOpts("fuzz", quiet), opts...)...)
			if err != nil {
				t.Fatalf("%s: %v", data, err)
			}
			c.Close()
		}
	})
}

// FuzzJAAS reads back what it writes, for any user and password.
func FuzzJAAS(f *testing.F) {
	f.Add("alice", "secret")
	f.Add(`a"b\c`, "; required 'x'=")
	f.Add("\n", "\t")
	f.Fuzz(func(t *testing.T, user, password string) {
		_, _ = parseJAAS(user, password) // anything at all: no panic
		if user == "" || password == "" {
			return
		}
		quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
		got, err := parseJAAS(`x.ScramLoginModule required username="`+quote.Replace(user)+`" password="`+quote.Replace(password)+`";`, scram256Name)
		if err != nil || got != (credentials{user, password}) {
			t.Errorf("got %q, %v, want %q and %q", got, err, user, password)
		}
	})
}

// FuzzReadToken takes what any web server may answer.
func FuzzReadToken(f *testing.F) {
	f.Add(200, "application/json", []byte(`{"access_token":"a","expires_in":3600}`))
	f.Add(400, "", []byte(`{"error":"invalid_client"}`))
	f.Add(200, "text/html", []byte(`<html>`))
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		token, life, err := readToken(status, contentType, body)
		if err == nil && (token == "" || !utf8.ValidString(token) || life < 0 || strings.ContainsAny(token, "\x01 \n")) {
			t.Errorf("got %q, %v", token, life)
		}
		if err != nil && json.Valid(body) && len(err.Error()) > 1000 {
			t.Errorf("got %d bytes of error", len(err.Error()))
		}
	})
}
