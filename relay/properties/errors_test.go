package properties

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestProblems is every way in which a configuration can be wrong. The JSON
// is completed with bootstrap.servers unless it holds that.
func TestProblems(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.pem")
	for _, tt := range []struct{ name, json, want string }{
		// The object itself.
		{"not JSON", `{"group.id"`, `KAFKA_CONSUMER_CONFIG: not JSON: unexpected end of JSON input; write {"bootstrap.servers":"localhost:9092"}`},
		{"not an object", `["a"]`, `KAFKA_CONSUMER_CONFIG: not a JSON object; write {"bootstrap.servers":"localhost:9092"}`},
		{"just a string", `"bootstrap.servers=x"`, `KAFKA_CONSUMER_CONFIG: not a JSON object; write {"bootstrap.servers":"localhost:9092"}`},
		{"null", `null`, `KAFKA_CONSUMER_CONFIG: not a JSON object; write {"bootstrap.servers":"localhost:9092"}`},
		{"two objects", `{} {}`, `KAFKA_CONSUMER_CONFIG: not JSON: invalid character '{' after top-level value; write {"bootstrap.servers":"localhost:9092"}`},
		{"a name twice", `{"group.id":"a","group.id":"b"}`, `group.id: given twice; keep one`},
		{"no brokers", `{"bootstrap.servers":null}`, `bootstrap.servers: missing; write {"bootstrap.servers":"localhost:9092"}`},
		{"no brokers but blanks", `{"bootstrap.servers":" , "}`, `bootstrap.servers: missing; write {"bootstrap.servers":"localhost:9092"}`},

		// Names.
		{"a misspelt name", `{"enable.auto.comit":true}`, `enable.auto.comit: unknown property; did you mean enable.auto.commit`},
		{"a misspelt name without a value", `{"enable.auto.comit":null}`, `enable.auto.comit: unknown property; did you mean enable.auto.commit`},
		{"a misspelt password is not shown", `{"sasl.pasword":"hunter2"}`, `sasl.pasword: unknown property; did you mean sasl.password`},
		{"an empty name", `{"":1}`, `"": unknown property; did you mean debug`},
		{"a name that breaks the line", `{"a\nb":1}`, `"a\nb": unknown property; did you mean debug`},
		{"upper case", `{"Group.Id":"a"}`, `Group.Id: unknown property; did you mean group.id`},
		{"a callback", `{"rebalance_cb":true}`, `rebalance_cb: a function or pointer, which JSON cannot hold; remove it`},
		{"a pointer", `{"opaque":1}`, `opaque: a function or pointer, which JSON cannot hold; remove it`},
		{"share groups", `{"share.acknowledgement.mode":"explicit"}`, `share.acknowledgement.mode: share groups give each record to one member, which is the opposite of fan-out; remove it and use group.id`},
		{"two names of one thing", `{"sasl.mechanism":"PLAIN","sasl.mechanisms":"SCRAM-SHA-256","security.protocol":"plaintext"}`,
			`sasl.mechanism and sasl.mechanisms: two names of one property with different values; keep sasl.mechanism`},
		{"native code", `{"plugin.library.paths":"monitoring"}`, `plugin.library.paths: native plugins cannot be loaded; remove it`},

		// Values.
		{"an object", `{"group.id":{"a":1}}`, `group.id: an object; only default.topic.config may be one, write a string, number or boolean`},
		{"an array of objects", `{"debug":[{}]}`, `debug: an array that holds more than strings, numbers and booleans; write ["a","b"] or "a,b"`},
		{"an array where one value belongs", `{"group.id":["a","b"]}`, `group.id=a,b: an array; must be one value`},
		{"default.topic.config is not an object", `{"default.topic.config":"earliest"}`, `default.topic.config: not an object; write {"auto.offset.reset":"earliest"}`},
		{"default.topic.config in itself", `{"default.topic.config":{"default.topic.config":{}}}`, `default.topic.config: an object; only default.topic.config may be one, write a string, number or boolean`},
		{"a misspelt name in default.topic.config", `{"default.topic.config":{"auto.ofset.reset":"earliest"}}`, `auto.ofset.reset: unknown property; did you mean auto.offset.reset`},
		{"too small", `{"fetch.min.bytes":0}`, `fetch.min.bytes=0: must be from 1 to 100000000`},
		{"too large", `{"session.timeout.ms":3600001}`, `session.timeout.ms=3600001: must be from 1 to 3600000 milliseconds`},
		{"beyond every integer", `{"fetch.max.bytes":99999999999999999999}`, `fetch.max.bytes=99999999999999999999: must be a whole number from 0 to 2147483135`},
		{"a fraction", `{"fetch.min.bytes":1.5}`, `fetch.min.bytes=1.5: must be a whole number from 1 to 100000000`},
		{"a number with a unit", `{"session.timeout.ms":"30s"}`, `session.timeout.ms=30s: must be a whole number from 1 to 3600000 milliseconds`},
		{"a boolean for a number", `{"fetch.min.bytes":true}`, `fetch.min.bytes=true: must be a whole number from 1 to 100000000`},
		{"an empty number", `{"fetch.min.bytes":""}`, `fetch.min.bytes="": must be a whole number from 1 to 100000000`},
		{"not a boolean", `{"enable.auto.commit":"yes"}`, `enable.auto.commit=yes: must be true or false`},
		{"not one of the words", `{"isolation.level":"serializable"}`, `isolation.level=serializable: must be read_uncommitted or read_committed`},
		{"an ignored property is checked too", `{"statistics.interval.ms":-1}`, `statistics.interval.ms=-1: must be from 0 to 86400000 milliseconds`},
		{"too long", `{"client.id":"` + strings.Repeat("x", 225) + `"}`, `client.id=` + strings.Repeat("x", 80) + `…: 225 bytes; must be at most 224`},
		{"a zero byte", `{"group.id":"a\u0000b"}`, `group.id="a\x00b": holds a zero byte; must be text`},

		// Connection.
		{"a port that is none", `{"bootstrap.servers":"kafka:http"}`, `bootstrap.servers=kafka:http: the port is not a number from 1 to 65535; write host:9092`},
		{"port 0", `{"bootstrap.servers":"kafka:0"}`, `bootstrap.servers=kafka:0: the port is not a number from 1 to 65535; write host:9092`},
		{"a path", `{"bootstrap.servers":"kafka:9092,kafka/x"}`, `bootstrap.servers=kafka/x: not a host name; write host:9092`},
		{"no host", `{"bootstrap.servers":":9092"}`, `bootstrap.servers=:9092: not a host name; write host:9092`},
		{"too many colons", `{"bootstrap.servers":"kafka:9092:9093"}`, `bootstrap.servers=kafka:9092:9093: not an address; write host:9092`},
		{"a prefix that promises more than there is", `{"bootstrap.servers":"SASL_SSL://kafka:9092"}`, `bootstrap.servers=SASL_SSL://kafka:9092: the prefix contradicts security.protocol, which is plaintext; write kafka:9092`},
		{"canonical names", `{"client.dns.lookup":"resolve_canonical_bootstrap_servers_only"}`, `client.dns.lookup=resolve_canonical_bootstrap_servers_only: serves Kerberos only, which is not built in; use use_all_dns_ips`},
		{"very old brokers", `{"api.version.request":false}`, `api.version.request=false: brokers before 0.10 are not supported; remove it`},
		{"a feature that is not there", `{"builtin.features":"ssl,sasl_gssapi"}`, `builtin.features=sasl_gssapi: not built in; must be among gzip, http, lz4, oidc, regex, sasl, sasl_oauthbearer, sasl_plain, sasl_scram, snappy, ssl, zstd`},
		{"a pattern that is none", `{"topic.blacklist":"^a,("}`, "topic.blacklist=(: error parsing regexp: missing closing ): `(`; must be a regular expression, with a comma written \\,"},
		{"a debug context that is none", `{"debug":"all,everything"}`, `debug=everything: unknown context; must be among all, admin, assignor, broker, cgrp, conf, consumer, eos, feature, fetch, generic, interceptor, metadata, mock, msg, plugin, protocol, queue, security, telemetry, topic`},
		{"backoff upside down", `{"reconnect.backoff.ms":20000}`, `reconnect.backoff.ms=20000: more than reconnect.backoff.max.ms, which is 10000; must be at most that`},

		// The group.
		{"eager and cooperative", `{"partition.assignment.strategy":"range,cooperative-sticky"}`, `partition.assignment.strategy=range,cooperative-sticky: cooperative and eager strategies cannot be mixed; use cooperative-sticky alone, or range,roundrobin`},
		{"an unknown strategy", `{"partition.assignment.strategy":["com.example.Mine"]}`, `partition.assignment.strategy=com.example.Mine: unknown strategy; must be range, roundrobin, sticky or cooperative-sticky`},
		{"no strategy", `{"partition.assignment.strategy":","}`, `partition.assignment.strategy: empty; must be range, roundrobin, sticky or cooperative-sticky`},
		{"heartbeats too slow", `{"heartbeat.interval.ms":45000}`, `heartbeat.interval.ms=45000: not less than session.timeout.ms, which is 45000; must be, by a third or less`},
		{"rebalancing too fast", `{"max.poll.interval.ms":30000}`, `max.poll.interval.ms=30000: less than session.timeout.ms, which is 45000; must be at least that`},
		{"an instance that brokers refuse", `{"group.instance.id":"a/b"}`, `group.instance.id=a/b: must hold only letters, digits, dots, underscores and hyphens, and {hostname} or {pod}`},
		{"offsets in files", `{"offset.store.method":"file"}`, `offset.store.method=file: offsets are stored by the brokers; use broker`},

		// Security that cannot be honoured.
		{"a revocation list", `{"ssl.crl.location":"/x"}`, `ssl.crl.location: revocation lists are not read; remove it, and rotate the certificate authority instead`},
		{"signature algorithms", `{"ssl.sigalgs.list":"x"}`, `ssl.sigalgs.list: signature algorithms cannot be chosen; remove it`},
		{"an engine", `{"ssl.engine.location":"x"}`, `ssl.engine.location: OpenSSL engines cannot be loaded; use ssl.key.location`},
		{"a provider", `{"ssl.providers":"legacy"}`, `ssl.providers: OpenSSL providers cannot be loaded; remove it`},
		{"an authority without TLS", `{"ssl.ca.pem":"x"}`, `ssl.ca.pem: would have no effect, since security.protocol is plaintext unless it is given; set security.protocol to ssl or sasl_ssl`},
		{"a password without SASL", `{"sasl.username":"a","sasl.password":"hunter2"}`, `sasl.password, sasl.username: would have no effect, since security.protocol is plaintext unless it is given; set security.protocol to sasl_ssl or sasl_plaintext`},
		{"an unknown protocol", `{"security.protocol":"tls"}`, `security.protocol=tls: must be plaintext, ssl, sasl_plaintext or sasl_ssl`},

		// TLS.
		{"a file that is not there", `{"security.protocol":"ssl","ssl.ca.location":"` + missing + `"}`, `ssl.ca.location: stat ` + missing + `: no such file or directory; must be a file that can be read`},
		{"a device", `{"security.protocol":"ssl","ssl.ca.location":"/dev/null"}`, `ssl.ca.location: /dev/null is not a regular file; must be one`},
		{"an authority that is none", `{"security.protocol":"ssl","ssl.ca.pem":"hello"}`, `ssl.ca.pem: no certificate in it; must be PEM that begins with -----BEGIN CERTIFICATE-----`},
		{"two authorities", `{"security.protocol":"ssl","ssl.ca.pem":"x","ssl.ca.location":"y"}`, `ssl.ca.location and ssl.ca.pem: both given; keep one`},
		{"a key without a certificate", `{"security.protocol":"ssl","ssl.key.location":"` + missing + `"}`, `ssl.key.location: a key without a certificate; add ssl.certificate.location`},
		{"a password without a key", `{"security.protocol":"ssl","ssl.key.password":"hunter2"}`, `ssl.key.password: there is no key to open with it; add ssl.key.location or remove this`},
		{"a password without a keystore", `{"security.protocol":"ssl","ssl.keystore.password":"hunter2"}`, `ssl.keystore.password: there is no ssl.keystore.location to open with it; add that or remove this`},
		{"a password without a truststore", `{"security.protocol":"ssl","ssl.truststore.password":"hunter2"}`, `ssl.truststore.password: there is no ssl.truststore.location to open with it; add that or remove this`},
		{"OpenSSL's groups of suites", `{"security.protocol":"ssl","ssl.cipher.suites":"HIGH:!aNULL"}`, `ssl.cipher.suites=HIGH,!aNULL: unknown or not built in; must be names of single suites, such as ECDHE-RSA-AES256-GCM-SHA384`},
		{"some suites of TLS 1.3", `{"security.protocol":"ssl","ssl.cipher.suites":"TLS_AES_256_GCM_SHA384"}`, `ssl.cipher.suites=TLS_AES_256_GCM_SHA384: the suites of TLS 1.3 cannot be chosen among; name all of TLS_AES_128_GCM_SHA256,TLS_AES_256_GCM_SHA384,TLS_CHACHA20_POLY1305_SHA256, or none of them`},
		{"an unknown curve", `{"security.protocol":"ssl","ssl.curves.list":"X25519:brainpoolP256r1"}`, `ssl.curves.list=brainpoolP256r1: unknown or not built in; must be among P-256, P-384, P-521, X25519, X25519MLKEM768`},

		// SASL.
		{"no mechanism", `{"security.protocol":"sasl_ssl"}`, `sasl.mechanism: missing, and security.protocol is sasl_ssl; must be PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER or AWS_MSK_IAM`},
		{"Kerberos", `{"security.protocol":"sasl_ssl","sasl.mechanism":"GSSAPI"}`, `sasl.mechanism=GSSAPI: Kerberos is not built in; must be PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER or AWS_MSK_IAM`},
		{"an unknown mechanism", `{"security.protocol":"sasl_ssl","sasl.mechanism":"SCRAM"}`, `sasl.mechanism=SCRAM: must be PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, AWS_MSK_IAM or GSSAPI`},
		{"no password", `{"security.protocol":"sasl_ssl","sasl.mechanism":"PLAIN","sasl.username":"a"}`, `sasl.password: missing; PLAIN needs one`},
		{"no user", `{"security.protocol":"sasl_ssl","sasl.mechanism":"SCRAM-SHA-256","sasl.password":"hunter2"}`, `sasl.username: missing; SCRAM-SHA-256 needs one`},
		{"a login module that contradicts", `{"security.protocol":"sasl_ssl","sasl.mechanism":"PLAIN","sasl.username":"b","sasl.jaas.config":"a.PlainLoginModule required username=\"a\" password=\"hunter2\";"}`,
			`sasl.jaas.config: contradicts sasl.username or sasl.password; keep one of the two ways`},
		{"a login module for OAuth", `{"security.protocol":"sasl_ssl","sasl.mechanism":"OAUTHBEARER","enable.sasl.oauthbearer.unsecure.jwt":true,"sasl.oauthbearer.config":"principal=a","sasl.jaas.config":"x"}`,
			`sasl.jaas.config: not understood for OAUTHBEARER; use sasl.oauthbearer.method=oidc and the properties beside it`},
		{"a token from nowhere", `{"security.protocol":"sasl_ssl","sasl.mechanism":"OAUTHBEARER"}`, `sasl.oauthbearer.method: default needs a function of the program's own; set it to oidc`},
		{"a token without a client", `{"security.protocol":"sasl_ssl","sasl.mechanism":"OAUTHBEARER","sasl.oauthbearer.method":"oidc","sasl.oauthbearer.client.secret":"hunter2","sasl.oauthbearer.token.endpoint.url":"https://idp/token"}`,
			`sasl.oauthbearer.client.id: missing; sasl.oauthbearer.method=oidc needs it`},
		{"a token endpoint that is none", oidc(`"sasl.oauthbearer.token.endpoint.url":"idp.example.com/token"`), `sasl.oauthbearer.token.endpoint.url: not an http or https URL; must be one such as https://idp.example.com/oauth/token`},
		{"a token endpoint with a password", oidc(`"sasl.oauthbearer.token.endpoint.url":"https://a:hunter2@idp/token"`), `sasl.oauthbearer.token.endpoint.url: holds a user name; must be without, the client id and secret are properties of their own`},
		{"another grant", oidc(`"sasl.oauthbearer.token.endpoint.url":"https://idp/token","sasl.oauthbearer.grant.type":"urn:ietf:params:oauth:grant-type:jwt-bearer"`), `sasl.oauthbearer.grant.type: ` + assertionNote},
		{"an assertion", `{"sasl.oauthbearer.assertion.private.key.pem":"hunter2"}`, `sasl.oauthbearer.assertion.private.key.pem: ` + assertionNote},
		{"Azure", `{"security.protocol":"sasl_ssl","sasl.mechanism":"OAUTHBEARER","sasl.oauthbearer.metadata.authentication.type":"azure_imds"}`,
			`sasl.oauthbearer.metadata.authentication.type=azure_imds: not built in; use sasl.oauthbearer.method=oidc with a client id and secret`},
		{"an extension that is none", oidc(`"sasl.oauthbearer.token.endpoint.url":"https://idp/token","sasl.oauthbearer.extensions":"a=1,auth=2"`), `sasl.oauthbearer.extensions: "auth" is no extension; must be key=value, the key of letters only and not auth`},
		{"an extension twice", oidc(`"sasl.oauthbearer.token.endpoint.url":"https://idp/token","sasl.oauthbearer.extensions":"a=1,a=2"`), `sasl.oauthbearer.extensions: "a" is there twice; keep one`},
		{"unsecured, but who", unsecured("scope=a"), `sasl.oauthbearer.config: no principal; must hold principal=NAME`},
		{"unsecured for ever", unsecured("principal=a lifeSeconds=x"), `sasl.oauthbearer.config: lifeSeconds must be from 1 to 86400`},
		{"unsecured with something else", unsecured("principal=a color=red"), `sasl.oauthbearer.config: "color" is not understood; must be principal, principalClaimName, scope, scopeClaimName, lifeSeconds or extension_NAME`},
		{"signed messages in the clear", `{"security.protocol":"sasl_plaintext","sasl.mechanism":"AWS_MSK_IAM"}`, `security.protocol=sasl_plaintext: a signed message read on the way is good for five minutes to anybody; AWS_MSK_IAM needs sasl_ssl`},
		{"a role that is none", `{"security.protocol":"sasl_ssl","sasl.mechanism":"AWS_MSK_IAM","aws.role.arn":"reader"}`, `aws.role.arn=reader: not the ARN of a role; must be like arn:aws:iam::123456789012:role/name`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := tt.json
			if !strings.Contains(config, "bootstrap.servers") && strings.HasSuffix(config, "}") && !strings.HasPrefix(config, "{}") {
				config = strings.TrimSuffix(config, "}") + `,"bootstrap.servers":"k"}`
			}
			_, err := Parse(nil, []byte(config), false)
			if err == nil {
				t.Fatalf("got no problem, want %q", tt.want)
			}
			for got := range strings.SplitSeq(err.Error(), "\n") {
				if got == tt.want {
					if strings.Contains(err.Error(), "hunter2") {
						t.Errorf("a secret is shown: %v", err)
					}
					return
				}
			}
			t.Errorf("got\n%v\nwant\n%s", err, tt.want)
		})
	}
}

// oidc is a configuration with a client that gets its tokens from a provider.
func oidc(more string) string {
	return `{"security.protocol":"sasl_ssl","sasl.mechanism":"OAUTHBEARER","sasl.oauthbearer.method":"oidc",` +
		`"sasl.oauthbearer.client.id":"me","sasl.oauthbearer.client.secret":"s",` + more + `}`
}

// unsecured is a configuration with tokens that nobody signed.
func unsecured(config string) string {
	return `{"security.protocol":"sasl_plaintext","sasl.mechanism":"OAUTHBEARER","enable.sasl.oauthbearer.unsecure.jwt":"true",` +
		`"sasl.oauthbearer.config":"` + config + `"}`
}

// TestEveryProblemAtOnce has one mistake of each kind, in file and
// environment, and wants all of them in one answer and nothing else.
func TestEveryProblemAtOnce(t *testing.T) {
	file := `{"enable.auto.comit":true,"fetch.min.bytes":0,"ssl.crl.location":"/x","security.protocol":"sasl_ssl","sasl.mechanism":"GSSAPI"}`
	env := `{"rebalance_cb":1,"isolation.level":"x","linger.ms":5,"heartbeat.interval.ms":60000}`
	_, err := Parse([]byte(file), []byte(env), true)
	if err == nil {
		t.Fatal("no problem found")
	}
	var got []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		name, _, _ := strings.Cut(line, ":")
		got = append(got, name)
	}
	want := `bootstrap.servers enable.auto.comit fetch.min.bytes=0 group.id heartbeat.interval.ms=60000 isolation.level=x rebalance_cb sasl.mechanism=GSSAPI ssl.crl.location`
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s\n%v", strings.Join(got, " "), want, err)
	}
}

// A wrong value is one problem, not also the consequences of its absence.
func TestNoConsequentialProblems(t *testing.T) {
	for _, config := range []string{
		`{"bootstrap.servers":["a",{}]}`,
		`{"bootstrap.servers":"k","security.protocol":"tls","sasl.mechanism":"PLAIN","ssl.ca.pem":"x"}`,
		`{"bootstrap.servers":"k","security.protocol":"sasl_ssl","sasl.mechanism":"x"}`,
		`{"bootstrap.servers":"k","group.id":["a"]}`,
		`{"bootstrap.servers":"k","session.timeout.ms":"x","heartbeat.interval.ms":50000}`,
		`{"bootstrap.servers":"k","security.protocol":"sasl_ssl","sasl.mechanism":"PLAIN","sasl.username":"a","sasl.password":[1]}`,
		`{"bootstrap.servers":"k","retry.backoff.max.ms":"x","retry.backoff.ms":2000}`,
		`{"bootstrap.servers":"k","security.protocol":"ssl","ssl.ca.location":["x"]}`,
		`{"bootstrap.servers":"k","partition.assignment.strategy":[null]}`,
	} {
		_, err := Parse(nil, []byte(config), true)
		var got []string
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "group.id: missing") {
					got = append(got, line)
				}
			}
		}
		if len(got) != 1 {
			t.Errorf("%s: got %d problems, want 1:\n%s", config, len(got), strings.Join(got, "\n"))
		}
	}
}
