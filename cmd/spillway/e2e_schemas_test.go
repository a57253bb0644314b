package main_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"spillway/relay/kafkatest"
)

// schemas is a schema registry with the Avro schema 7, of payments, for those
// who know the password.
func schemas(t *testing.T, user, password string) (url string) {
	t.Helper()
	fake := srfake.NewRegistry()
	fake.SeedSchema("payments-value", 1, 7, sr.Schema{Schema: `{"type":"record","name":"Payment","fields":[
		{"name":"amount","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
		{"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}}]}`})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fake.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// payment is a record with schema id: 12.50 at half past one on 1 May 2026.
func payment(topic string, id uint32) *kgo.Record {
	value := binary.BigEndian.AppendUint32([]byte{0}, id)
	value = append(value, "\x04\x04\xe2"...) // two bytes: 1250
	value = binary.AppendVarint(value, 1777642200123)
	return &kgo.Record{Topic: topic, Key: []byte("k"), Value: value}
}

func TestSchemaRegistry(t *testing.T) {
	const password = "a secret that nobody logs"
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	k.Produce(payment(topic, 7))
	file := filepath.Join(t.TempDir(), "auth")
	if err := os.WriteFile(file, []byte("spillway:"+password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, k, "SCHEMA_REGISTRY_URL="+schemas(t, "spillway", password), "SCHEMA_REGISTRY_AUTH_FILE="+file)
	url := s.url + "/events/" + topic + "/"
	const value = `{"amount":"12.50","at":"2026-05-01T13:30:00.123Z"}`
	plain := subscribe(t, url+"?from=earliest")
	chosen := subscribe(t, url+"?from=earliest&fields=amount&filter=value.amount=='12.50'")
	envelopes := ndjson(t, url+"?from=earliest&schema=1")
	ws := dial(t, url, "spillway.v1.json")
	ws.send(`{"type":"subscribe","topics":["` + topic + `"],"from":"earliest","schema":true,"ref":1}`)
	const envelope = `{"value":` + value + `,"schema":{"id":7}}`
	check := func() {
		t.Helper()
		plain.wantData(value)
		chosen.wantData(`{"amount":"12.50"}`)
		wantJSON(t, envelopes.nextFull(), envelope)
	}
	check()
	wantJSON(t, ws.message(func(m string) bool { return strings.Contains(m, `"schema"`) }), envelope)
	k.Produce(payment(topic, 7))
	check()

	k.Produce(payment(topic, 8))
	plain.wantEvent("undecodable", fmt.Sprintf(`{"topic":%q,"partition":0,"offset":2,"reason":"unknown-schema"}`, topic))
	binarySocket := dial(t, url+"?last=1")
	binarySocket.want(websocket.MessageText, fmt.Sprintf(`{"topic":%q,"partition":0,"offset":2,"reason":"unknown-schema"}`, topic))
	resp := get(t, t.Context(), s.ops+"/metrics")
	metrics, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`spillway_events_total{kind="undecodable"}`, `spillway_schema_undecodable_total{reason="unknown-schema"}`, "spillway_schema_cache_entries 1", "spillway_schema_waiting_bytes 0"} {
		if !strings.Contains(string(metrics), want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	if strings.Contains(s.log.String()+string(metrics), password) {
		t.Error("the password can be read")
	}
}
