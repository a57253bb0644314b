package properties

import "math"

// A kind says how a property's value is read.
type kind int

const (
	text     kind = iota // any string of at most max bytes, when max is not 0
	list                 // comma separated; a JSON array is the same
	patterns             // list of regular expressions; a comma inside one is written \,
	number               // integer between min and max
	millis               // the same, in milliseconds
	flag                 // true or false
	word                 // one of words
)

// A Status says what becomes of a property.
type Status string

// Refused properties never appear in an effective configuration: Parse
// answers them with an error.
const (
	Supported    Status = "supported"    // does what librdkafka's documentation says
	Approximated Status = "approximated" // near to it; the table's note says where it differs
	Ignored      Status = "ignored"      // accepted without effect; nothing is lost by it
	Warned       Status = "not used"     // accepted without effect, and whoever set it should know
	refused      Status = "refused"      // an error, with the note as what to do
)

// A user is what a property configures. A property whose user does not exist
// in a configuration has no effect in it.
type user int

const (
	anyone  user = iota // every client
	reader              // clients that read records
	member              // the consumer group's member
	viaTLS              // connections to brokers over TLS
	viaSASL             // connections to brokers over SASL
)

// A property is one row of the table: a name that a configuration may hold.
type property struct {
	name    string
	aliases []string
	old     []string // aliases that still work but warn
	kind    kind
	min     int64
	max     int64
	words   [][]string // of a word: canonical spelling first, then its synonyms
	def     string     // value when not given, as text
	status  Status
	user    user
	secret  bool   // its value is shown nowhere
	pem     bool   // its value is shown as a size
	note    string // where it differs, why it is not used, or what to do instead
}

const (
	day     = 86_400_000 // ms
	int32ms = math.MaxInt32
)

// table holds every property that a configuration may name, by the sections
// of librdkafka's documentation. Ranges and defaults are librdkafka's
// (CONFIGURATION.md), except where Spillway's differ and the note says so.
// Names that belong to producers are in producerOnly.
var table = [][]property{connecting, encrypting, authenticating, grouping, fetching}

var connecting = []property{
	{name: "bootstrap.servers", aliases: []string{"metadata.broker.list"}, kind: list, status: Supported},
	// kgo allows 256 bytes; the rest is for the role that ClientOpts appends.
	{name: "client.id", max: 224, def: "spillway", status: Supported},
	{name: "client.rack", max: 512, status: Supported},
	{name: "client.dns.lookup", kind: word, def: "use_all_dns_ips", status: Approximated,
		words: [][]string{{"use_all_dns_ips", "default"}, {"resolve_canonical_bootstrap_servers_only"}},
		note:  "every address of a name is tried in turn"},
	{name: "broker.address.family", kind: word, def: "any", status: Supported, words: [][]string{{"any"}, {"v4"}, {"v6"}}},
	{name: "broker.address.ttl", kind: millis, max: day, def: "1000", status: Ignored, note: "names are resolved for each connection"},
	{name: "socket.timeout.ms", kind: millis, min: 10, max: 300_000, def: "60000", status: Supported},
	{name: "request.timeout.ms", kind: millis, min: 1, max: int32ms, status: Supported},
	{name: "socket.connection.setup.timeout.ms", kind: millis, min: 1000, max: int32ms, def: "30000", status: Supported},
	{name: "connections.max.idle.ms", kind: millis, max: int32ms, def: "0", status: Approximated, note: "at most 15 minutes"},
	{name: "socket.keepalive.enable", kind: flag, def: "true", status: Supported},
	{name: "socket.nagle.disable", kind: flag, def: "true", status: Supported},
	{name: "socket.send.buffer.bytes", kind: number, max: 100_000_000, def: "0", status: Supported},
	{name: "socket.receive.buffer.bytes", kind: number, max: 100_000_000, def: "0", status: Supported},
	{name: "socket.max.fails", kind: number, max: 1_000_000, def: "1", status: Ignored, note: "a connection is replaced at its first failure"},
	{name: "socket.blocking.max.ms", kind: millis, min: 1, max: 60_000, status: Ignored, note: "librdkafka no longer uses it either"},
	{name: "reconnect.backoff.ms", kind: millis, max: 3_600_000, def: "100", status: Approximated, note: "one backoff for reconnecting and retrying, the longer of the two"},
	{name: "reconnect.backoff.max.ms", kind: millis, max: 3_600_000, def: "10000", status: Approximated, note: "one backoff for reconnecting and retrying, the longer of the two"},
	{name: "reconnect.backoff.jitter.ms", kind: millis, max: 3_600_000, status: Ignored, note: "librdkafka no longer uses it either"},
	{name: "retry.backoff.ms", kind: millis, min: 1, max: 300_000, def: "100", status: Approximated, note: "one backoff for reconnecting and retrying, the longer of the two"},
	{name: "retry.backoff.max.ms", kind: millis, min: 1, max: 300_000, def: "1000", status: Approximated, note: "one backoff for reconnecting and retrying, the longer of the two"},
	{name: "metadata.recovery.strategy", kind: word, def: "rebootstrap", status: Approximated, words: [][]string{{"none"}, {"rebootstrap"}},
		note: "the bootstrap servers are also asked without it"},
	{name: "metadata.recovery.rebootstrap.trigger.ms", kind: millis, max: int32ms, def: "300000", status: Approximated,
		note: "the bootstrap servers are asked whenever no other broker answers"},
	{name: "topic.metadata.refresh.interval.ms", kind: millis, min: -1, max: 3_600_000, def: "300000", status: Supported},
	{name: "metadata.max.age.ms", kind: millis, min: 1, max: day, def: "900000", status: Approximated, note: "the shorter of this and topic.metadata.refresh.interval.ms"},
	{name: "topic.metadata.refresh.fast.interval.ms", kind: millis, min: 1, max: 60_000, status: Approximated, note: "constant, not growing"},
	{name: "topic.metadata.refresh.fast.cnt", kind: number, max: 1000, status: Ignored, note: "librdkafka no longer uses it either"},
	{name: "topic.metadata.refresh.sparse", kind: flag, def: "true", status: Ignored, note: "only what is needed is asked for"},
	{name: "topic.metadata.propagation.max.ms", kind: millis, max: 3_600_000, def: "30000", status: Approximated,
		note: "how long a topic that was there may be missing before it counts as deleted"},
	{name: "topic.blacklist", kind: patterns, status: Supported},
	{name: "allow.auto.create.topics", kind: flag, def: "false", status: Supported},
	{name: "receive.message.max.bytes", kind: number, min: 1000, max: math.MaxInt32, def: "100000000", status: Supported},
	{name: "message.max.bytes", kind: number, min: 1000, max: 1_000_000_000, status: Ignored, note: "concerns producing"},
	{name: "message.copy.max.bytes", kind: number, max: 1_000_000_000, status: Ignored, note: "concerns producing"},
	{name: "max.in.flight.requests.per.connection", aliases: []string{"max.in.flight"}, kind: number, min: 1, max: 1_000_000, status: Ignored, note: "concerns producing"},
	{name: "api.version.request", kind: flag, def: "true", status: Ignored, note: "versions are always negotiated"},
	{name: "api.version.request.timeout.ms", kind: millis, min: 1, max: 300_000, status: Ignored, note: "versions are always negotiated"},
	{name: "api.version.fallback.ms", kind: millis, max: 604_800_000, status: Ignored, note: "versions are always negotiated"},
	{name: "broker.version.fallback", status: Ignored, note: "versions are always negotiated"},
	{name: "enable.metrics.push", kind: flag, def: "true", status: Supported},
	{name: "statistics.interval.ms", kind: millis, max: day, status: Ignored, note: "the metrics endpoint replaces it"},
	{name: "debug", kind: list, status: Supported},
	{name: "log_level", kind: number, max: 7, def: "6", status: Supported},
	{name: "log.connection.close", kind: flag, status: Ignored, note: "the log has levels instead"},
	{name: "log.thread.name", kind: flag, status: Ignored, note: "there are no threads to name"},
	{name: "log.queue", kind: flag, status: Ignored, note: "concerns librdkafka's own interface"},
	{name: "enable.random.seed", kind: flag, status: Ignored, note: "concerns librdkafka's own interface"},
	{name: "internal.termination.signal", kind: number, max: 128, status: Ignored, note: "concerns librdkafka's own interface"},
	{name: "enabled_events", kind: number, max: math.MaxInt32, status: Ignored, note: "concerns librdkafka's own interface"},
	{name: "builtin.features", kind: list, status: Approximated, note: "checked against what is built in"},
	{name: "plugin.library.paths", status: refused, note: "native plugins cannot be loaded; remove it"},
}

var encrypting = []property{
	{name: "security.protocol", kind: word, def: "plaintext", status: Supported, words: [][]string{{"plaintext"}, {"ssl"}, {"sasl_plaintext"}, {"sasl_ssl"}}},
	{name: "ssl.ca.location", status: Supported, user: viaTLS},
	{name: "ssl.ca.pem", status: Supported, user: viaTLS, pem: true},
	{name: "ssl.certificate.location", status: Supported, user: viaTLS},
	{name: "ssl.certificate.pem", status: Supported, user: viaTLS, pem: true},
	{name: "ssl.key.location", status: Supported, user: viaTLS},
	{name: "ssl.key.pem", status: Supported, user: viaTLS, secret: true},
	{name: "ssl.key.password", status: Supported, user: viaTLS, secret: true},
	{name: "ssl.keystore.location", status: Supported, user: viaTLS},
	{name: "ssl.keystore.password", status: Supported, user: viaTLS, secret: true},
	{name: "ssl.keystore.type", kind: word, status: Approximated, user: viaTLS, words: storeTypes, note: "PKCS12 or PEM"},
	{name: "ssl.truststore.location", status: Approximated, user: viaTLS, note: "PKCS12 or PEM"},
	{name: "ssl.truststore.password", status: Approximated, user: viaTLS, secret: true},
	{name: "ssl.truststore.type", kind: word, status: Approximated, user: viaTLS, words: storeTypes, note: "PKCS12 or PEM"},
	{name: "enable.ssl.certificate.verification", kind: flag, def: "true", status: Supported, user: viaTLS},
	{name: "ssl.endpoint.identification.algorithm", kind: word, def: "https", status: Supported, user: viaTLS, words: [][]string{{"none", ""}, {"https"}}},
	{name: "ssl.cipher.suites", kind: list, status: Approximated, user: viaTLS, note: "TLS 1.2; the suites of TLS 1.3 are fixed"},
	{name: "ssl.curves.list", kind: list, status: Approximated, user: viaTLS, note: "a set, without order"},
	{name: "ssl.sigalgs.list", status: refused, user: viaTLS, note: "signature algorithms cannot be chosen; remove it"},
	{name: "ssl.crl.location", status: refused, user: viaTLS, note: "revocation lists are not read; remove it, and rotate the certificate authority instead"},
	{name: "ssl.engine.location", status: refused, user: viaTLS, note: "OpenSSL engines cannot be loaded; use ssl.key.location"},
	{name: "ssl.engine.id", status: refused, user: viaTLS, note: "OpenSSL engines cannot be loaded; use ssl.key.location"},
	{name: "ssl.providers", status: refused, user: viaTLS, note: "OpenSSL providers cannot be loaded; remove it"},
	{name: "ssl.ca.certificate.stores", kind: list, status: Ignored, note: "concerns Windows only"},
	{name: "https.ca.location", status: Supported, user: viaSASL},
	{name: "https.ca.pem", status: Supported, user: viaSASL, pem: true},
}

var storeTypes = [][]string{{"PKCS12"}, {"PEM"}, {"JKS"}}

var authenticating = []property{
	{name: "sasl.mechanism", aliases: []string{"sasl.mechanisms"}, kind: word, status: Supported, user: viaSASL,
		words: [][]string{{plainName}, {scram256Name}, {scram512Name}, {oauthName}, {mskName}, {gssapiName}}},
	{name: "sasl.username", status: Supported, user: viaSASL},
	{name: "sasl.password", status: Supported, user: viaSASL, secret: true},
	{name: "sasl.jaas.config", status: Approximated, user: viaSASL, secret: true, note: "user name and password of PlainLoginModule and ScramLoginModule"},
	{name: "sasl.oauthbearer.method", kind: word, def: "default", status: Supported, user: viaSASL, words: [][]string{{"default"}, {"oidc"}}},
	{name: "sasl.oauthbearer.token.endpoint.url", status: Supported, user: viaSASL},
	{name: "sasl.oauthbearer.client.id", aliases: []string{"sasl.oauthbearer.client.credentials.client.id"}, status: Supported, user: viaSASL},
	{name: "sasl.oauthbearer.client.secret", aliases: []string{"sasl.oauthbearer.client.credentials.client.secret"}, status: Supported, user: viaSASL, secret: true},
	{name: "sasl.oauthbearer.scope", status: Supported, user: viaSASL},
	{name: "sasl.oauthbearer.extensions", kind: list, status: Supported, user: viaSASL},
	{name: "sasl.oauthbearer.grant.type", kind: word, def: "client_credentials", status: Supported, user: viaSASL,
		words: [][]string{{"client_credentials"}, {"urn:ietf:params:oauth:grant-type:jwt-bearer"}}},
	{name: "sasl.oauthbearer.assertion.algorithm", status: refused, user: viaSASL, note: assertionNote},
	{name: "sasl.oauthbearer.assertion.private.key.file", status: refused, user: viaSASL, note: assertionNote},
	{name: "sasl.oauthbearer.assertion.private.key.passphrase", status: refused, user: viaSASL, secret: true, note: assertionNote},
	{name: "sasl.oauthbearer.assertion.private.key.pem", status: refused, user: viaSASL, secret: true, note: assertionNote},
	{name: "sasl.oauthbearer.assertion.file", status: refused, user: viaSASL, note: assertionNote},
	{name: "sasl.oauthbearer.assertion.claim.aud", status: refused, user: viaSASL, note: assertionNote},
	{name: "sasl.oauthbearer.assertion.claim.exp.seconds", status: refused, user: viaSASL, note: assertionNote},
	{name: "sasl.oauthbearer.assertion.claim.iss", status: refused, user: viaSASL, note: assertionNote},
	{name: "sasl.oauthbearer.assertion.claim.jti.include", status: refused, user: viaSASL, note: assertionNote},
	{name: "sasl.oauthbearer.assertion.claim.nbf.seconds", status: refused, user: viaSASL, note: assertionNote},
	{name: "sasl.oauthbearer.assertion.claim.sub", status: refused, user: viaSASL, note: assertionNote},
	{name: "sasl.oauthbearer.assertion.jwt.template.file", status: refused, user: viaSASL, note: assertionNote},
	{name: "sasl.oauthbearer.metadata.authentication.type", kind: word, def: "none", status: Approximated, user: viaSASL,
		words: [][]string{{"none"}, {"aws_iam"}, {"azure_imds"}}, note: "aws_iam becomes the mechanism AWS_MSK_IAM"},
	{name: "sasl.oauthbearer.config", status: Supported, user: viaSASL, secret: true},
	{name: "enable.sasl.oauthbearer.unsecure.jwt", kind: flag, def: "false", status: Supported, user: viaSASL},
	{name: "sasl.oauthbearer.sub.claim.name", status: Ignored, user: viaSASL, note: "the broker reads the claim, not the client"},
	{name: "aws.region", status: Supported, user: viaSASL},
	{name: "aws.role.arn", status: Supported, user: viaSASL},
	{name: "aws.profile", status: Supported, user: viaSASL},
	{name: "sasl.kerberos.service.name", status: Warned, user: viaSASL, note: kerberosNote},
	{name: "sasl.kerberos.principal", status: Warned, user: viaSASL, note: kerberosNote},
	{name: "sasl.kerberos.keytab", status: Warned, user: viaSASL, note: kerberosNote},
	{name: "sasl.kerberos.kinit.cmd", status: Warned, user: viaSASL, note: kerberosNote},
	{name: "sasl.kerberos.min.time.before.relogin", kind: millis, max: day, status: Warned, user: viaSASL, note: kerberosNote},
}

const (
	assertionNote = "the JWT bearer grant is not built in; use sasl.oauthbearer.client.id and sasl.oauthbearer.client.secret"
	kerberosNote  = "Kerberos is not built in"
)

var grouping = []property{
	{name: "group.id", max: 16_382, status: Supported, user: member},
	{name: "group.instance.id", max: 249, status: Supported, user: member},
	{name: "partition.assignment.strategy", kind: list, def: "range,roundrobin", status: Supported, user: member},
	{name: "session.timeout.ms", kind: millis, min: 1, max: 3_600_000, def: "45000", status: Supported, user: member},
	{name: "heartbeat.interval.ms", kind: millis, min: 1, max: 3_600_000, def: "3000", status: Supported, user: member},
	{name: "max.poll.interval.ms", kind: millis, min: 1, max: day, def: "300000", status: Approximated, user: member,
		note: "sent as the rebalance timeout; readiness covers a stuck reader"},
	{name: "group.protocol", kind: word, def: "classic", status: Approximated, user: member, words: [][]string{{"classic"}, {"consumer"}}, note: "always classic"},
	{name: "group.remote.assignor", status: Warned, user: member, note: "it belongs to group.protocol=consumer; use partition.assignment.strategy"},
	{name: "group.protocol.type", status: Ignored, user: member, note: "always consumer"},
	{name: "coordinator.query.interval.ms", kind: millis, min: 1, max: 3_600_000, status: Ignored, user: member, note: "the coordinator is looked up when it moves"},
	{name: "enable.auto.commit", old: []string{"auto.commit.enable"}, kind: flag, def: "true", status: Supported, user: member},
	{name: "auto.commit.interval.ms", kind: millis, max: day, def: "5000", status: Supported, user: member},
	{name: "enable.auto.offset.store", kind: flag, status: Ignored, user: member, note: "a position counts once its record is published"},
	{name: "auto.offset.reset", kind: word, def: "latest", status: Supported, user: member,
		words: [][]string{{"earliest", "smallest", "beginning"}, {"latest", "largest", "end"}, {"error", "none"}}},
	{name: "offset.store.method", kind: word, def: "broker", status: Supported, user: member, words: [][]string{{"broker"}, {"none"}, {"file"}}},
	{name: "offset.store.path", status: Warned, user: member, note: "offsets are stored by the brokers"},
	{name: "offset.store.sync.interval.ms", kind: millis, min: -1, max: day, status: Warned, user: member, note: "offsets are stored by the brokers"},
}

var fetching = []property{
	{name: "fetch.wait.max.ms", aliases: []string{"fetch.max.wait.ms"}, kind: millis, max: 300_000, def: "500", status: Supported, user: reader},
	{name: "fetch.min.bytes", kind: number, min: 1, max: 100_000_000, def: "1", status: Supported, user: reader},
	{name: "fetch.max.bytes", kind: number, max: 2_147_483_135, def: "52428800", status: Supported, user: reader},
	{name: "max.partition.fetch.bytes", aliases: []string{"fetch.message.max.bytes"}, kind: number, min: 1, max: 1_000_000_000, def: "1048576", status: Supported, user: reader},
	{name: "queued.max.messages.kbytes", kind: number, min: 1, max: 2_097_151, def: "65536", status: Approximated, user: reader,
		note: "bound of what is read and not yet published, all partitions together"},
	{name: "queued.min.messages", kind: number, min: 1, max: 10_000_000, def: "100000", status: Approximated, user: reader,
		note: "bound of records read and not yet published"},
	{name: "fetch.queue.backoff.ms", kind: millis, max: 300_000, status: Ignored, user: reader, note: "reading resumes as soon as there is room"},
	{name: "fetch.error.backoff.ms", kind: millis, max: 300_000, status: Ignored, user: reader, note: "retry.backoff.ms covers it"},
	{name: "max.poll.records", kind: number, min: 1, max: math.MaxInt32, def: "500", status: Supported, user: reader},
	{name: "isolation.level", kind: word, def: "read_committed", status: Supported, user: reader, words: [][]string{{"read_uncommitted"}, {"read_committed"}}},
	{name: "check.crcs", kind: flag, def: "true", status: Approximated, user: reader, note: "checked unless it says false"},
	{name: "enable.partition.eof", kind: flag, status: Ignored, user: reader, note: "Spillway always knows when it has caught up"},
	{name: "consume.callback.max.messages", kind: number, max: 1_000_000, status: Ignored, user: reader, note: "concerns librdkafka's own interface"},
	{name: "key.deserializer", status: Warned, user: reader, note: "codecs are chosen per topic in TOPIC_RULES"},
	{name: "value.deserializer", status: Warned, user: reader, note: "codecs are chosen per topic in TOPIC_RULES"},
}

// producerOnly are librdkafka's and the Java client's names that configure
// producers. One configuration is often shared by both sides, so they pass.
var producerOnly = []string{
	"acks", "batch.num.messages", "batch.size", "buffer.memory", "compression.codec", "compression.gzip.level",
	"compression.level", "compression.lz4.level", "compression.type", "compression.zstd.level",
	"delivery.report.only.error", "delivery.timeout.ms", "enable.gapless.guarantee", "enable.idempotence",
	"key.serializer", "linger.ms", "max.block.ms", "max.request.size", "message.send.max.retries",
	"message.timeout.ms", "msg_order_cmp", "partitioner", "partitioner.class", "produce.offset.report",
	"queue.buffering.backpressure.threshold", "queue.buffering.max.kbytes", "queue.buffering.max.messages",
	"queue.buffering.max.ms", "queuing.strategy", "request.required.acks", "retries",
	"sticky.partitioning.linger.ms", "transaction.timeout.ms", "transactional.id", "value.serializer",
}

// fromCode are names whose value only a program can give: functions and
// pointers. Every other name that ends in _cb is one too.
var fromCode = []string{
	"default_topic_conf", "interceptors", "interceptor.classes", "opaque",
	"ssl_ca", "ssl_certificate", "ssl_engine_callback_data", "ssl_key",
}

// topicConfig are the names under which old clients nest properties of topics.
// Their content is read as if it stood beside them.
var topicConfig = []string{"default.topic.config", "default_topic_config"}
