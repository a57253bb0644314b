package properties

import (
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// quiet drops what clients under test say.
var quiet = slog.New(slog.DiscardHandler)

// parse completes a configuration with bootstrap.servers and wants it to be
// right.
func parse(t *testing.T, config string) *Properties {
	t.Helper()
	if !strings.Contains(config, "bootstrap.servers") {
		config = strings.TrimSuffix(strings.TrimSuffix(config, "}"), ",") + `,"bootstrap.servers":"k"}`
		config = strings.Replace(config, "{,", "{", 1)
	}
	p, err := Parse(nil, []byte(config), false)
	if err != nil {
		t.Fatalf("%s:\n%v", config, err)
	}
	return p
}

// client builds a client, which checks the options, and never connects.
func client(t *testing.T, opts []kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestQuickstartConfiguration(t *testing.T) {
	p, err := Parse(nil, []byte(`{"bootstrap.servers":"localhost:9092","group.id":"mygroup"}`), true)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Brokers(); !slices.Equal(got, []string{"localhost:9092"}) {
		t.Errorf("brokers: got %v", got)
	}
	if got := p.Group(); got != "mygroup" {
		t.Errorf("group: got %s", got)
	}
	if got := p.Warnings(); len(got) != 0 {
		t.Errorf("warnings: got %v", got)
	}
	if enabled, every := p.AutoCommit(); !enabled || every != 5*time.Second {
		t.Errorf("auto commit: got %v, %v", enabled, every)
	}
	want := FetchSettings{MaxWait: 500 * time.Millisecond, MinBytes: 1, MaxBytes: 52428800, MaxPartitionBytes: 1048576, ReadCommitted: true, CheckCRCs: true}
	if got := p.FetchSettings(); got != want {
		t.Errorf("fetch: got %+v, want %+v", got, want)
	}
	got := fmt.Sprint(p.OffsetReset(), p.MetadataMaxAge(), p.QueuedMaxBytes(), p.QueuedMaxRecords(), p.MaxPollRecords(), p.AllowAutoCreate(), p.IsolationReadCommitted(), p.TLS())
	if got != "latest 5m0s 67108864 100000 500 false true false" {
		t.Errorf("got %s", got)
	}

	// The options: librdkafka's defaults, not the library's.
	reader := client(t, append(p.ClientOpts("read", quiet), p.ReadOpts()...))
	groupMember := client(t, append(p.ClientOpts("grp", quiet), p.GroupOpts("host")...))
	for _, tt := range []struct {
		name   string
		client *kgo.Client
		opt    any
		want   any
	}{
		{"client id", reader, kgo.ClientID, "spillway-read"},
		{"client id", groupMember, kgo.ClientID, "spillway-grp"},
		{"idle", reader, kgo.ConnIdleTimeout, 15 * time.Minute},
		{"request timeout", reader, kgo.RequestTimeoutOverhead, time.Minute},
		{"metadata max age", reader, kgo.MetadataMaxAge, 5 * time.Minute},
		{"metadata min age", reader, kgo.MetadataMinAge, time.Second},
		{"missing topic", reader, kgo.ConsiderMissingTopicDeletedAfter, 30 * time.Second},
		{"read bytes", reader, kgo.BrokerMaxReadBytes, int32(100_000_000)},
		{"fetch wait", reader, kgo.FetchMaxWait, 500 * time.Millisecond},
		{"fetch bytes", reader, kgo.FetchMaxBytes, int32(52428800)},
		{"isolation", reader, kgo.FetchIsolationLevel, int8(1)},
		{"reset", reader, kgo.ConsumeResetOffset, kgo.NoResetOffset()},
		{"control records", reader, kgo.KeepControlRecords, true},
		{"auto create", reader, kgo.AllowAutoTopicCreation, false},
		{"crc", reader, kgo.DisableFetchCRCValidation, false},
		{"metrics", reader, kgo.DisableClientMetrics, false},
		{"group", groupMember, kgo.ConsumerGroup, "mygroup"},
		{"no commits of its own", groupMember, kgo.DisableAutoCommit, true},
		{"session", groupMember, kgo.SessionTimeout, 45 * time.Second},
		{"heartbeat", groupMember, kgo.HeartbeatInterval, 3 * time.Second},
		{"rebalance", groupMember, kgo.RebalanceTimeout, 5 * time.Minute},
		{"start", groupMember, kgo.ConsumeStartOffset, kgo.NewOffset().AtEnd()},
	} {
		if got := tt.client.OptValue(tt.opt); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	var strategies []string
	for _, b := range groupMember.OptValue(kgo.Balancers).([]kgo.GroupBalancer) {
		strategies = append(strategies, b.ProtocolName())
	}
	if !slices.Equal(strategies, []string{"range", "roundrobin"}) {
		t.Errorf("strategies: got %v", strategies)
	}
}

func TestEveryValueInEverySpelling(t *testing.T) {
	base := parse(t, `{"group.id":"7","fetch.min.bytes":500,"enable.auto.commit":false,"session.timeout.ms":6000,"debug":["broker","fetch"],"socket.nagle.disable":true}`)
	for _, config := range []string{
		`{"group.id":7,"fetch.min.bytes":"500","enable.auto.commit":"false","session.timeout.ms":"6000","debug":"broker,fetch","socket.nagle.disable":"true"}`,
		`{"group.id":"7","fetch.min.bytes":5e2,"enable.auto.commit":"f","session.timeout.ms":6000.0,"debug":" broker , fetch,","socket.nagle.disable":"t"}`,
		`{"group.id":"7","fetch.min.bytes":" 500 ","enable.auto.commit":0,"session.timeout.ms":"6e3","debug":["broker,fetch"],"socket.nagle.disable":1}`,
		`{"group.id":"7","fetch.min.bytes":500,"enable.auto.commit":"False","session.timeout.ms":6000,"debug":"broker,fetch","socket.nagle.disable":"TRUE"}`,
	} {
		p := parse(t, config)
		got, want := p.Effective(), base.Effective()
		for i := range got {
			got[i].Given, want[i].Given = "", ""
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\ngot  %v\nwant %v", config, got, want)
		}
	}
}

func TestSourcesMerge(t *testing.T) {
	for _, tt := range []struct{ name, file, env, want string }{
		{"the file alone", `{"bootstrap.servers":"f","group.id":"f"}`, ``, "f:9092 f latest"},
		{"the environment alone", ``, `{"bootstrap.servers":"e","group.id":"e"}`, "e:9092 e latest"},
		{"key by key", `{"bootstrap.servers":"f","group.id":"f"}`, `{"group.id":"e"}`, "f:9092 e latest"},
		{"by another name", `{"bootstrap.servers":"f","group.id":"f"}`, `{"metadata.broker.list":"e"}`, "e:9092 f latest"},
		{"null takes it away", `{"bootstrap.servers":"f","group.id":"f"}`, `{"group.id":null}`, "f:9092  latest"},
		{"null beside its alias does not", `{"bootstrap.servers":null,"metadata.broker.list":"f"}`, `{}`, "f:9092  latest"},
		{"of topics", `{"bootstrap.servers":"f","default.topic.config":{"auto.offset.reset":"smallest"}}`, ``, "f:9092  earliest"},
		{"of topics, the other name", `{"bootstrap.servers":"f","default_topic_config":{"auto.offset.reset":"none"}}`, ``, "f:9092  error"},
		{"of topics, but the top wins", `{"bootstrap.servers":"f","auto.offset.reset":"end","default.topic.config":{"auto.offset.reset":"smallest"}}`, ``, "f:9092  latest"},
		{"of topics, in the environment", `{"bootstrap.servers":"f","auto.offset.reset":"end"}`, `{"default.topic.config":{"auto.offset.reset":"beginning"}}`, "f:9092  earliest"},
		{"of topics, null", `{"bootstrap.servers":"f","default.topic.config":null}`, ``, "f:9092  latest"},
		{"two names, one value", `{"bootstrap.servers":"f","metadata.broker.list":"f"}`, ``, "f:9092  latest"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Parse([]byte(tt.file), []byte(tt.env), false)
			if err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprint(strings.Join(p.Brokers(), ","), " ", p.Group(), " ", p.OffsetReset())
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	_, err := Parse([]byte(`{"bootstrap.servers":"f"`), []byte(`{"group.id":"e"}`), false)
	if err == nil || !strings.HasPrefix(err.Error(), "KAFKA_CONSUMER_CONFIG_FILE: not JSON") {
		t.Errorf("a broken file: got %v", err)
	}
	if _, err = Parse(nil, nil, false); err == nil || err.Error() != `bootstrap.servers: missing; write {"bootstrap.servers":"localhost:9092"}` {
		t.Errorf("nothing: got %v", err)
	}
}

func TestBrokers(t *testing.T) {
	for _, tt := range []struct{ config, want string }{
		{`"bootstrap.servers":"a,b:1, c:9093 ,"`, "a:9092 b:1 c:9093"},
		{`"bootstrap.servers":["a","b:1"]`, "a:9092 b:1"},
		{`"bootstrap.servers":"PLAINTEXT://a:9,plaintext://b"`, "a:9 b:9092"},
		{`"bootstrap.servers":"SSL://a","security.protocol":"SSL"`, "a:9092"},
		{`"bootstrap.servers":"[::1],[::1]:9,::1,10.0.0.1,fe80::1%eth0"`, "[::1]:9092 [::1]:9 [::1]:9092 10.0.0.1:9092 [fe80::1%eth0]:9092"},
	} {
		if got := strings.Join(parse(t, "{"+tt.config+"}").Brokers(), " "); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.config, got, tt.want)
		}
	}
}

// TestSettings is what single properties and their combinations come to.
func TestSettings(t *testing.T) {
	commit := func(p *Properties) any {
		enabled, every := p.AutoCommit()
		return fmt.Sprint(enabled, " ", every)
	}
	opt := func(o any) func(*Properties) any {
		return func(p *Properties) any {
			c, err := kgo.NewClient(slices.Concat(p.ClientOpts("x", quiet), p.ReadOpts(), p.GroupOpts("suffix"))...)
			if err != nil {
				return err
			}
			defer c.Close()
			return c.OptValue(o)
		}
	}
	for _, tt := range []struct {
		json string
		get  func(*Properties) any
		want any
	}{
		{`"enable.auto.commit":false`, commit, "false 5s"},
		{`"auto.commit.enable":false`, commit, "false 5s"},
		{`"offset.store.method":"none"`, commit, "false 5s"},
		{`"auto.commit.interval.ms":0`, commit, "true 0s"},
		{`"auto.offset.reset":"error"`, opt(kgo.ConsumeStartOffset), kgo.NewOffset().AtCommitted()},
		{`"auto.offset.reset":"Earliest"`, opt(kgo.ConsumeStartOffset), kgo.NewOffset().AtStart()},
		{`"auto.offset.reset":"earliest"`, opt(kgo.ConsumeResetOffset), kgo.NoResetOffset()},
		{`"group.instance.id":"x"`, opt(kgo.InstanceID), "x-suffix"},
		{`"client.rack":"zone-a"`, opt(kgo.Rack), "zone-a"},
		{`"client.id":"web"`, opt(kgo.ClientID), "web-x"},
		{`"client.id":""`, opt(kgo.ClientID), "spillway-x"},
		{`"isolation.level":"read_uncommitted"`, opt(kgo.FetchIsolationLevel), int8(0)},
		{`"check.crcs":false`, opt(kgo.DisableFetchCRCValidation), true},
		{`"check.crcs":true`, opt(kgo.DisableFetchCRCValidation), false},
		{`"enable.metrics.push":false`, opt(kgo.DisableClientMetrics), true},
		{`"allow.auto.create.topics":"t"`, opt(kgo.AllowAutoTopicCreation), true},
		{`"socket.timeout.ms":10`, opt(kgo.RequestTimeoutOverhead), 100 * time.Millisecond},
		{`"request.timeout.ms":30000`, opt(kgo.RequestTimeoutOverhead), 30 * time.Second},
		{`"request.timeout.ms":2147483647`, opt(kgo.RequestTimeoutOverhead), 15 * time.Minute},
		{`"request.timeout.ms":30000,"socket.timeout.ms":20000`, opt(kgo.RequestTimeoutOverhead), 20 * time.Second},
		{`"connections.max.idle.ms":0`, opt(kgo.ConnIdleTimeout), 15 * time.Minute},
		{`"connections.max.idle.ms":540000`, opt(kgo.ConnIdleTimeout), 9 * time.Minute},
		{`"connections.max.idle.ms":3600000`, opt(kgo.ConnIdleTimeout), 15 * time.Minute},
		{`"topic.metadata.refresh.interval.ms":-1`, opt(kgo.MetadataMaxAge), time.Hour},
		{`"topic.metadata.refresh.interval.ms":0`, opt(kgo.MetadataMaxAge), 10 * time.Millisecond},
		{`"topic.metadata.refresh.interval.ms":30000`, opt(kgo.MetadataMaxAge), 30 * time.Second},
		{`"metadata.max.age.ms":60000`, opt(kgo.MetadataMaxAge), time.Minute},
		{`"metadata.max.age.ms":900000`, opt(kgo.MetadataMaxAge), 5 * time.Minute},
		{`"topic.metadata.refresh.fast.interval.ms":250`, opt(kgo.MetadataMinAge), 250 * time.Millisecond},
		{`"topic.metadata.refresh.fast.interval.ms":1`, opt(kgo.MetadataMinAge), 10 * time.Millisecond},
		{`"topic.metadata.refresh.interval.ms":20,"topic.metadata.refresh.fast.interval.ms":250`, opt(kgo.MetadataMinAge), 20 * time.Millisecond},
		{`"fetch.max.wait.ms":0`, opt(kgo.FetchMaxWait), 10 * time.Millisecond},
		{`"fetch.max.bytes":1000`, opt(kgo.FetchMaxPartitionBytes), int32(1000)},
		{`"fetch.max.bytes":2147483135`, opt(kgo.BrokerMaxReadBytes), int32(1 << 30)},
		{`"fetch.max.bytes":2147483135`, opt(kgo.FetchMaxBytes), int32(1<<30 - 512)},
		{`"receive.message.max.bytes":1000`, opt(kgo.BrokerMaxReadBytes), int32(52428800 + 512)},
		{`"max.poll.interval.ms":86400000`, opt(kgo.RebalanceTimeout), 24 * time.Hour},
		{`"session.timeout.ms":1,"heartbeat.interval.ms":1`, opt(kgo.SessionTimeout), 100 * time.Millisecond},
		{`"queued.max.messages.kbytes":2097151`, func(p *Properties) any { return p.QueuedMaxBytes() }, int64(2097151) * 1024},
		{`"max.poll.records":1`, func(p *Properties) any { return p.MaxPollRecords() }, 1},
		{`"topic.blacklist":"^a{1\\,2}$,b"`, func(p *Properties) any { return fmt.Sprint(p.TopicBlacklist()) }, "[^a{1,2}$ b]"},
		{`"topic.blacklist":["^a{1,2}$","b"]`, func(p *Properties) any { return fmt.Sprint(p.TopicBlacklist()) }, "[^a{1,2}$ b]"},
		{`"log_level":3`, func(p *Properties) any { return p.logLevel }, kgo.LogLevelError},
		{`"log_level":"4"`, func(p *Properties) any { return p.logLevel }, kgo.LogLevelWarn},
		{`"log_level":5`, func(p *Properties) any { return p.logLevel }, kgo.LogLevelInfo},
		{`"log_level":7`, func(p *Properties) any { return p.logLevel }, kgo.LogLevelDebug},
		{`"log_level":0,"debug":"broker"`, func(p *Properties) any { return p.logLevel }, kgo.LogLevelDebug},
		{`"broker.address.family":"v6"`, func(p *Properties) any { return p.network }, "tcp6"},
		{`"metadata.recovery.strategy":"none"`, func(p *Properties) any { return p.rebootstrap }, false},
		{`"partition.assignment.strategy":"org.apache.kafka.clients.consumer.CooperativeStickyAssignor"`, func(p *Properties) any { return p.balancers[0].ProtocolName() }, "cooperative-sticky"},
		{`"partition.assignment.strategy":["sticky","org.apache.kafka.clients.consumer.RangeAssignor","range"]`, func(p *Properties) any { return len(p.balancers) }, 2},
	} {
		t.Run(tt.json, func(t *testing.T) {
			p := parse(t, `{"group.id":"g",`+tt.json+`}`)
			if got := tt.get(p); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	for _, tt := range []struct{ json, want string }{
		{`"linger.ms":5,"acks":"all"`, "acks, linger.ms: ignored, since only producers use it"},
		{`"fetch.min.bytes":1000`, "fetch.min.bytes=1000: every browser waits up to 500ms longer for its records; 1 sends them at once"},
		{`"allow.auto.create.topics":true`, "allow.auto.create.topics=true: whoever asks for a topic can create it; set it to false"},
		{`"topic.metadata.refresh.interval.ms":-1`, "topic.metadata.refresh.interval.ms=-1: the list of topics is refreshed every hour all the same, since new topics would never be seen"},
		{`"socket.timeout.ms":50`, "socket.timeout.ms=50: 100 is used, since the range here is 100 to 900000"},
		{`"receive.message.max.bytes":5000`, "receive.message.max.bytes=5000: 52429312 is used, since a response of fetch.max.bytes must fit"},
		{`"group.protocol":"consumer"`, "group.protocol=consumer: classic is used"},
		{`"group.remote.assignor":"uniform"`, "group.remote.assignor: not used; it belongs to group.protocol=consumer; use partition.assignment.strategy"},
		{`"auto.commit.enable":true`, "auto.commit.enable: an old name; write enable.auto.commit"},
		{`"offset.store.path":"/tmp"`, "offset.store.path: not used; offsets are stored by the brokers"},
		{`"value.deserializer":"x"`, "value.deserializer: not used; codecs are chosen per topic in TOPIC_RULES"},
		{`"sasl.kerberos.keytab":"/x"`, "sasl.kerberos.keytab: not used; Kerberos is not built in"},
		{`"group.id":null,"session.timeout.ms":6000`, "session.timeout.ms: not used, since there is no group.id"},
		{`"security.protocol":"plaintext","ssl.ca.location":"/nowhere","sasl.password":"x"`, "sasl.password: not used, since security.protocol is plaintext"},
		{`"security.protocol":"ssl","enable.ssl.certificate.verification":false`, "enable.ssl.certificate.verification=false: ANYONE ON THE NETWORK CAN POSE AS KAFKA, read the credentials and forge records; remove it"},
		{`"security.protocol":"ssl","ssl.endpoint.identification.algorithm":""`, "ssl.endpoint.identification.algorithm=none: any certificate of the authority passes for any broker; use https"},
		{`"security.protocol":"ssl","ssl.cipher.suites":"AES128-SHA,ECDHE-RSA-AES128-GCM-SHA256"`, "ssl.cipher.suites=AES128-SHA: known to be weak; remove it as soon as the brokers allow"},
		{`"security.protocol":"sasl_plaintext","sasl.mechanism":"plain","sasl.username":"a","sasl.password":"b"`, "security.protocol=sasl_plaintext: with PLAIN the password travels readable for everybody on the way; use sasl_ssl"},
		{`"security.protocol":"sasl_ssl","sasl.mechanism":"AWS_MSK_IAM","sasl.username":"a"`, "sasl.username: not used by the mechanism AWS_MSK_IAM"},
		{`"security.protocol":"sasl_ssl","sasl.mechanism":"PLAIN","sasl.username":"a","sasl.password":"b","aws.region":"c"`, "aws.region: not used by the mechanism PLAIN"},
		{`"security.protocol":"sasl_ssl","sasl.mechanism":"OAUTHBEARER","sasl.oauthbearer.method":"oidc","sasl.oauthbearer.client.id":"a","sasl.oauthbearer.client.secret":"b","sasl.oauthbearer.token.endpoint.url":"http://idp/token"`,
			"sasl.oauthbearer.token.endpoint.url=http://idp/token: the client secret travels readable for everybody on the way; use https"},
		{`"security.protocol":"sasl_ssl","sasl.mechanism":"OAUTHBEARER","enable.sasl.oauthbearer.unsecure.jwt":true,"sasl.oauthbearer.config":"principal=a"`,
			"enable.sasl.oauthbearer.unsecure.jwt=true: ANYONE CAN POSE AS ANYONE at a broker that accepts such tokens; for development only"},
	} {
		config := `{` + tt.json + `}`
		if !strings.Contains(config, "group.id") {
			config = `{"group.id":"g",` + tt.json + `}`
		}
		if got := parse(t, config).Warnings(); !slices.Contains(got, tt.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", tt.json, got, tt.want)
		}
	}
	// What people paste most should say nothing.
	for _, config := range []string{
		`{"group.id":"g","enable.auto.commit":"true","auto.offset.reset":"latest","session.timeout.ms":"45000","ssl.endpoint.identification.algorithm":"https"}`,
		`{"security.protocol":"SASL_SSL","sasl.mechanisms":"PLAIN","sasl.username":"KEY","sasl.password":"SECRET","session.timeout.ms":null}`,
	} {
		if got := parse(t, config).Warnings(); len(got) != 0 {
			t.Errorf("%s: got %q", config, got)
		}
	}
}

func TestEffective(t *testing.T) {
	p := parse(t, `{"bootstrap.servers":"a, b:1","metadata.broker.list":null,"sasl.mechanisms":"plain","sasl.username":"me","sasl.password":"hunter2",
		"security.protocol":"SASL_PLAINTEXT","linger.ms":5,"statistics.interval.ms":1000,"connections.max.idle.ms":0,"auto.offset.reset":"smallest",
		"fetch.wait.max.ms":"5","group.id":"g","group.protocol":"consumer","ssl.ca.pem":"whatever","ssl.key.pem":"hunter2","group.remote.assignor":"range"}`)
	want := []Line{
		{"auto.offset.reset", "smallest", "earliest", Supported},
		{"bootstrap.servers", "a, b:1", "a:9092,b:1", Supported},
		{"connections.max.idle.ms", "0", "900000", Approximated},
		{"fetch.wait.max.ms", "5", "10", Approximated},
		{"group.id", "g", "g", Supported},
		{"group.protocol", "consumer", "classic", Approximated},
		{"group.remote.assignor", "range", "– (it belongs to group.protocol=consumer; use partition.assignment.strategy)", Warned},
		{"linger.ms", "‹hidden›", "– (only producers use it)", Ignored},
		{"sasl.mechanism", "plain", "PLAIN", Supported},
		{"sasl.password", "‹hidden›", "‹hidden›", Supported},
		{"sasl.username", "me", "me", Supported},
		{"security.protocol", "SASL_PLAINTEXT", "sasl_plaintext", Supported},
		{"ssl.ca.pem", "‹PEM, 8 bytes›", "– (security.protocol is sasl_plaintext)", Warned},
		{"ssl.key.pem", "‹hidden›", "– (security.protocol is sasl_plaintext)", Warned},
		{"statistics.interval.ms", "1000", "– (the metrics endpoint replaces it)", Ignored},
	}
	got := p.Effective()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("missing %v", want[i])
		case i >= len(want):
			t.Errorf("too many: %v", got[i])
		case got[i] != want[i]:
			t.Errorf("got  %v\nwant %v", got[i], want[i])
		}
	}
}

// Nothing that is secret may be seen in any way of printing.
func TestSecretsAreHidden(t *testing.T) {
	const secret = "hunter2"
	config := `{"security.protocol":"plaintext","group.id":"g","fetch.min.bytes":2`
	for _, section := range table {
		for _, prop := range section {
			if prop.secret && prop.status != refused {
				config += `,"` + prop.name + `":"` + secret + `"`
			}
		}
	}
	config += `,"transactional.id":"` + secret + `","sasl.oauthbearer.token.endpoint.url":"https://a:` + secret + `@b/c"}`
	p := parse(t, config)
	if all := fmt.Sprint(p.Effective(), p.Warnings()); strings.Contains(all, secret) {
		t.Errorf("a secret is shown: %s", all)
	}
	// And in errors about them: arrays are wrong for each.
	_, err := Parse(nil, []byte(strings.ReplaceAll(config, `"`+secret+`"`, `["`+secret+`"]`)), false)
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("got %v", err)
	}
}

func TestGroupOptsWithoutGroup(t *testing.T) {
	if got := parse(t, `{}`).GroupOpts("x"); got != nil {
		t.Errorf("got %d options", len(got))
	}
}

func TestInstanceID(t *testing.T) {
	long := strings.Repeat("x", 249)
	for _, tt := range []struct{ id, suffix, want string }{
		{"x", "node-1-ab12", "x-node-1-ab12"},
		{"x", "-node-1", "x-node-1"},
		{"x", "", "x"},
		{"x-{hostname}", "node-1", "x-host.example"},
		{"{pod}", "node-1", "pod-0"},
		{"{pod}.{hostname}", "", "pod-0.host.example"},
		{"x", "[::]:7999", "x-----:7999"},
	} {
		want := strings.ReplaceAll(tt.want, ":", "-")
		if got := instanceID(tt.id, "host.example", "pod-0", tt.suffix); got != want {
			t.Errorf("%s, %s: got %s, want %s", tt.id, tt.suffix, got, want)
		}
	}
	a, b := instanceID(long, "h", "p", "one"), instanceID(long, "h", "p", "two")
	if len(a) != maxInstanceBytes || a == b {
		t.Errorf("too long: got %d bytes %s and %s", len(a), a, b)
	}
}

func TestBackoff(t *testing.T) {
	wait := backoff(100*time.Millisecond, time.Second)
	for fails, ms := range map[int]int{0: 100, 1: 100, 2: 200, 3: 400, 4: 800, 5: 1000, 50: 1000, 1 << 40: 1000} {
		want := time.Duration(ms) * time.Millisecond
		for range 20 {
			if got := wait(fails); got < want*79/100 || got > min(want*121/100, time.Second) {
				t.Fatalf("after %d failures: got %v, want about %v", fails, got, want)
			}
		}
	}
}

func TestLogger(t *testing.T) {
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))
	l := &logger{log: log, most: kgo.LogLevelDebug}
	if got := l.Level(); got != kgo.LogLevelWarn {
		t.Errorf("slog lets warnings through: got %v", got)
	}
	if got := (&logger{log: log, most: kgo.LogLevelError}).Level(); got != kgo.LogLevelError {
		t.Errorf("log_level allows errors only: got %v", got)
	}
	if got := (&logger{log: quiet, most: kgo.LogLevelDebug}).Level(); got != kgo.LogLevelNone {
		t.Errorf("nobody listens: got %v", got)
	}
	l.Log(kgo.LogLevelError, "unable to read", "broker", 3)
	if got := out.String(); !strings.Contains(got, `level=ERROR msg="unable to read" broker=3`) {
		t.Errorf("got %s", got)
	}
}
