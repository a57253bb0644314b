package properties

import (
	"math"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// resolve turns values into settings and checks what they mean together. The
// result is of use only when no problem was found.
func (p *parser) resolve(requireGroup bool) *Properties {
	out := &Properties{}
	p.refuse()
	p.resolveConnection(out)
	p.resolveTimes(out)
	p.resolveFetch(out)
	p.resolveGroup(out, requireGroup)
	p.resolveLog(out)
	protocol := p.text("security.protocol")
	encrypted, authenticated := strings.HasSuffix(protocol, "ssl"), strings.HasPrefix(protocol, "sasl")
	if p.sound("security.protocol") {
		p.misplaced(encrypted, authenticated)
		if encrypted {
			out.tls = p.resolveTLS()
		}
		if authenticated {
			out.auth = p.resolveSASL(encrypted)
		}
	}
	return out
}

// refuse reports the properties that cannot be honoured, and warns of those
// that have no effect though whoever set them expects one.
func (p *parser) refuse() {
	for _, section := range table {
		for _, prop := range section {
			v := p.values[prop.name]
			switch {
			case v == nil || v.text == "":
			case prop.status == refused:
				p.problem("%s: %s", v.as, prop.note)
			case prop.status == Warned:
				p.warn("%s: not used; %s", v.as, prop.note)
			}
		}
	}
}

// misplaced reports properties of TLS and SASL in a configuration whose
// security.protocol has neither. Without security.protocol that is how a
// password or a record travels in the clear by oversight: a problem. With it,
// it is a choice: a warning.
func (p *parser) misplaced(encrypted, authenticated bool) {
	for _, c := range []struct {
		user    user
		active  bool
		instead string
	}{
		{viaTLS, encrypted, "ssl or sasl_ssl"},
		{viaSASL, authenticated, "sasl_ssl or sasl_plaintext"},
	} {
		if c.active {
			continue
		}
		var given []string
		for name, v := range p.values {
			if v.prop.user == c.user && v.text != "" && v.text != v.prop.def && v.status != Ignored && v.status != Warned && v.status != refused {
				given = append(given, name)
			}
		}
		slices.Sort(given)
		switch {
		case len(given) == 0:
		case p.has("security.protocol"):
			p.warn("%s: not used, since security.protocol is %s", strings.Join(given, ", "), p.text("security.protocol"))
			for _, name := range given {
				p.values[name].status = Warned
				p.values[name].effective = "– (security.protocol is " + p.text("security.protocol") + ")"
			}
		default:
			p.problem("%s: would have no effect, since security.protocol is plaintext unless it is given; set security.protocol to %s",
				strings.Join(given, ", "), c.instead)
		}
	}
}

func (p *parser) resolveConnection(out *Properties) {
	out.brokers = p.brokers()
	out.clientID = p.text("client.id")
	if out.clientID == "" {
		out.clientID = known["client.id"].def
	}
	out.rack = p.text("client.rack")
	out.network = map[string]string{"any": "tcp", "v4": "tcp4", "v6": "tcp6"}[p.text("broker.address.family")]
	if p.text("client.dns.lookup") == "resolve_canonical_bootstrap_servers_only" {
		p.problem("client.dns.lookup=resolve_canonical_bootstrap_servers_only: serves Kerberos only, which is not built in; use use_all_dns_ips")
	}
	out.dial = dialSettings{
		timeout:       p.millis("socket.connection.setup.timeout.ms"),
		keepAlive:     p.on("socket.keepalive.enable"),
		noDelay:       p.on("socket.nagle.disable"),
		sendBuffer:    int(p.num("socket.send.buffer.bytes")),
		receiveBuffer: int(p.num("socket.receive.buffer.bytes")),
	}
	out.rebootstrap = p.text("metadata.recovery.strategy") == "rebootstrap"
	out.pushMetrics = p.on("enable.metrics.push")
	if out.autoCreate = p.on("allow.auto.create.topics"); out.autoCreate {
		p.warn("allow.auto.create.topics=true: whoever asks for a topic can create it; set it to false")
	}
	if p.has("api.version.request") && !p.on("api.version.request") {
		p.problem("api.version.request=false: brokers before 0.10 are not supported; remove it")
	}
	for _, f := range p.items("builtin.features") {
		if !slices.Contains(features, f) {
			p.problem("builtin.features=%s: not built in; must be among %s", cut(f), strings.Join(features, ", "))
		}
	}
	for _, expr := range p.items("topic.blacklist") {
		re, err := regexp.Compile(expr)
		if err != nil {
			p.problem("topic.blacklist=%s: %w; must be a regular expression, with a comma written \\,", cut(expr), err)
			continue
		}
		out.blacklist = append(out.blacklist, re)
	}
}

// features are the names of builtin.features that this program has.
var features = []string{"gzip", "http", "lz4", "oidc", "regex", "sasl", "sasl_oauthbearer", "sasl_plain", "sasl_scram", "snappy", "ssl", "zstd"}

// brokers reads bootstrap.servers: host, host:port or protocol://host:port.
func (p *parser) brokers() []string {
	const name = "bootstrap.servers"
	if !p.sound(name) {
		return nil
	}
	servers := p.items(name)
	if len(servers) == 0 {
		p.problem(`%s: missing; write {"bootstrap.servers":"localhost:9092"}`, name)
	}
	var out []string
	for _, s := range servers {
		protocol, address, prefixed := strings.Cut(s, "://")
		if !prefixed {
			address = s
		} else if has := p.text("security.protocol"); p.sound("security.protocol") && !strings.EqualFold(protocol, has) {
			p.problem("%s=%s: the prefix contradicts security.protocol, which is %s; write %s", name, cut(s), has, cut(address))
			continue
		}
		hostPort, why := broker(address)
		if why != "" {
			p.problem("%s=%s: %s; write host:9092", name, cut(s), why)
			continue
		}
		out = append(out, hostPort)
	}
	if len(out) > 0 {
		p.says(name, strings.Join(out, ","))
	}
	return out
}

// broker completes an address with Kafka's port, or says why it is none.
func broker(s string) (hostPort, why string) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		// No port, or an IPv6 address with or without its brackets.
		host, port = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), "9092"
		if _, err := netip.ParseAddr(host); strings.Contains(host, ":") && err != nil {
			return "", "not an address"
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "the port is not a number from 1 to 65535"
	}
	notInName := func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune("/@[]?#,", r) }
	if host == "" || strings.ContainsFunc(host, notInName) {
		return "", "not a host name"
	}
	return net.JoinHostPort(host, port), ""
}

func (p *parser) resolveTimes(out *Properties) {
	// 100 ms to 15 min is what kgo allows for both.
	const low, high = 100 * time.Millisecond, 15 * time.Minute
	timeout := "socket.timeout.ms"
	if p.has("request.timeout.ms") {
		if p.has(timeout) {
			p.becomes("request.timeout.ms", "– (socket.timeout.ms wins)")
		} else {
			timeout = "request.timeout.ms"
		}
	}
	out.overhead = p.clampMillis(timeout, low, high)

	out.connIdle = high
	if p.num("connections.max.idle.ms") != 0 {
		out.connIdle = p.clampMillis("connections.max.idle.ms", low, high)
	} else {
		p.becomes("connections.max.idle.ms", strconv.FormatInt(high.Milliseconds(), 10))
	}

	for _, kind := range []string{"reconnect.backoff", "retry.backoff"} {
		low, high := kind+".ms", kind+".max.ms"
		if p.sound(low, high) && p.num(low) > p.num(high) {
			p.problem("%s=%d: more than %s, which is %d; must be at most that", low, p.num(low), high, p.num(high))
		}
	}
	out.backoffMin = max(p.millis("reconnect.backoff.ms"), p.millis("retry.backoff.ms"))
	out.backoffMax = max(p.millis("reconnect.backoff.max.ms"), p.millis("retry.backoff.max.ms"))

	const refresh, age, fast = "topic.metadata.refresh.interval.ms", "metadata.max.age.ms", "topic.metadata.refresh.fast.interval.ms"
	if p.num(refresh) == -1 {
		out.metadataMax = time.Hour
		p.becomes(refresh, "3600000")
		p.warn("%s=-1: the list of topics is refreshed every hour all the same, since new topics would never be seen", refresh)
	} else {
		out.metadataMax = p.clampMillis(refresh, 10*time.Millisecond, time.Hour)
	}
	if p.has(age) {
		// Only when given: librdkafka's default is three times the other.
		out.metadataMax = min(out.metadataMax, p.clampMillis(age, 10*time.Millisecond, time.Hour))
	}
	// librdkafka begins with retry.backoff.ms and doubles up to
	// retry.backoff.max.ms. kgo does not grow it, so the end of that is our
	// default: a broker that is gone for long is not asked ten times a second.
	out.metadataMin = p.millis("retry.backoff.max.ms")
	if p.has(fast) {
		out.metadataMin = p.clampMillis(fast, 10*time.Millisecond, time.Minute)
	}
	out.metadataMin = min(max(out.metadataMin, 10*time.Millisecond), out.metadataMax)
	out.missingTopic = p.millis("topic.metadata.propagation.max.ms")
}

func (p *parser) resolveFetch(out *Properties) {
	const most = "fetch.max.bytes"
	const envelope = 512 // what librdkafka allows for a response around its records
	f := &out.fetch
	f.MaxWait = p.clampMillis("fetch.wait.max.ms", 10*time.Millisecond, 5*time.Minute)
	f.MinBytes = int32(p.num("fetch.min.bytes"))
	if f.MinBytes > 1 {
		p.warn("fetch.min.bytes=%d: every browser waits up to %s longer for its records; 1 sends them at once", f.MinBytes, f.MaxWait)
	}
	// kgo reads responses of at most 1 GiB.
	f.MaxBytes = int32(p.clamp(most, 0, 1<<30-envelope))
	f.MaxPartitionBytes = int32(p.num("max.partition.fetch.bytes"))
	if f.MaxPartitionBytes > f.MaxBytes {
		f.MaxPartitionBytes = f.MaxBytes
		p.becomes("max.partition.fetch.bytes", strconv.Itoa(int(f.MaxBytes)))
	}
	f.ReadCommitted = p.text("isolation.level") == "read_committed"
	f.CheckCRCs = p.on("check.crcs")

	const receive = "receive.message.max.bytes"
	out.maxReadBytes = int32(p.clamp(receive, 1<<10, 1<<30))
	if least := f.MaxBytes + envelope; out.maxReadBytes < least {
		out.maxReadBytes = least
		if p.has(receive) {
			p.becomes(receive, strconv.Itoa(int(least)))
			p.warn("%s=%d: %d is used, since a response of fetch.max.bytes must fit", receive, p.num(receive), least)
		}
	}
	out.queuedBytes = p.num("queued.max.messages.kbytes") << 10
	out.queuedRecords = int(p.num("queued.min.messages"))
	out.pollRecords = int(p.num("max.poll.records"))
}

func (p *parser) resolveLog(out *Properties) {
	switch n := p.num("log_level"); {
	case n <= 3:
		out.logLevel = kgo.LogLevelError
	case n == 4:
		out.logLevel = kgo.LogLevelWarn
	case n <= 6:
		out.logLevel = kgo.LogLevelInfo
	default:
		out.logLevel = kgo.LogLevelDebug
	}
	for _, context := range p.items("debug") {
		if !slices.Contains(debugContexts, context) {
			p.problem("debug=%s: unknown context; must be among %s", cut(context), strings.Join(debugContexts, ", "))
		}
		out.logLevel = kgo.LogLevelDebug
	}
}

// debugContexts are librdkafka's. Here any of them means everything.
var debugContexts = []string{"all", "admin", "assignor", "broker", "cgrp", "conf", "consumer", "eos", "feature", "fetch", "generic",
	"interceptor", "metadata", "mock", "msg", "plugin", "protocol", "queue", "security", "telemetry", "topic"}

func (p *parser) resolveGroup(out *Properties, required bool) {
	out.group = p.text("group.id")
	if out.group == "" && required && p.sound("group.id") {
		p.problem(`group.id: missing, and relay shares its work by it; write {"group.id":"mygroup"}`)
	}
	out.instance = p.text("group.instance.id")
	if why := instanceProblem(out.instance); why != "" {
		p.problem("group.instance.id=%s: %s", cut(out.instance), why)
	}
	out.balancers = p.strategies()

	out.session = p.clampMillis("session.timeout.ms", 100*time.Millisecond, time.Hour)
	out.heartbeat = p.millis("heartbeat.interval.ms")
	out.rebalance = p.clampMillis("max.poll.interval.ms", 100*time.Millisecond, math.MaxInt32*time.Millisecond)
	if p.sound("heartbeat.interval.ms", "session.timeout.ms") && out.heartbeat >= out.session {
		p.problem("heartbeat.interval.ms=%d: not less than session.timeout.ms, which is %d; must be, by a third or less",
			out.heartbeat.Milliseconds(), out.session.Milliseconds())
	}
	if p.sound("max.poll.interval.ms", "session.timeout.ms") && out.rebalance < out.session {
		p.problem("max.poll.interval.ms=%d: less than session.timeout.ms, which is %d; must be at least that",
			out.rebalance.Milliseconds(), out.session.Milliseconds())
	}
	if p.text("group.protocol") == "consumer" {
		p.becomes("group.protocol", "classic")
		p.warn("group.protocol=consumer: classic is used")
	}

	out.autoCommit = p.on("enable.auto.commit")
	out.autoCommitEvery = p.millis("auto.commit.interval.ms")
	switch p.text("offset.store.method") {
	case "file":
		p.problem("offset.store.method=file: offsets are stored by the brokers; use broker")
	case "none":
		out.autoCommit = false
	}
	switch p.text("auto.offset.reset") {
	case "earliest":
		out.reset = Earliest
	case "latest":
		out.reset = Latest
	default:
		out.reset = Error
	}
	if out.group == "" {
		p.groupless()
	}
}

// groupless says which properties have no effect without group.id.
func (p *parser) groupless() {
	var given []string
	for name, v := range p.values {
		if v.prop.user == member && name != "group.id" && v.text != "" && v.status != Ignored && v.status != Warned {
			given = append(given, name)
			v.status, v.effective = Warned, "– (there is no group.id)"
		}
	}
	if len(given) > 0 {
		slices.Sort(given)
		p.warn("%s: not used, since there is no group.id", strings.Join(given, ", "))
	}
}

// strategies reads partition.assignment.strategy. The eager and the
// cooperative way of rebalancing cannot be mixed: a member that knows only one
// of them would drop the whole group to it.
func (p *parser) strategies() []kgo.GroupBalancer {
	const name = "partition.assignment.strategy"
	all := map[string]func() kgo.GroupBalancer{
		"range":              kgo.RangeBalancer,
		"roundrobin":         kgo.RoundRobinBalancer,
		"sticky":             kgo.StickyBalancer,
		"cooperative-sticky": kgo.CooperativeStickyBalancer,
	}
	if !p.sound(name) {
		return nil
	}
	var (
		out                []kgo.GroupBalancer
		eager, cooperative bool
		spelled            []string
	)
	for _, s := range p.items(name) {
		word := strings.TrimPrefix(s, "org.apache.kafka.clients.consumer.")
		if w, ok := javaAssignors[word]; ok {
			word = w
		}
		balancer := all[word]
		if balancer == nil {
			p.problem("%s=%s: unknown strategy; must be range, roundrobin, sticky or cooperative-sticky", name, cut(s))
			continue
		}
		if slices.Contains(spelled, word) {
			continue
		}
		spelled = append(spelled, word)
		out = append(out, balancer())
		if word == "cooperative-sticky" {
			cooperative = true
		} else {
			eager = true
		}
	}
	if eager && cooperative {
		p.problem("%s=%s: cooperative and eager strategies cannot be mixed; use cooperative-sticky alone, or range,roundrobin", name, strings.Join(spelled, ","))
	}
	if v := p.values[name]; v != nil {
		if len(v.items) == 0 {
			p.problem("%s: empty; must be range, roundrobin, sticky or cooperative-sticky", name)
		}
		p.says(name, strings.Join(spelled, ","))
	}
	return out
}

var javaAssignors = map[string]string{
	"RangeAssignor":             "range",
	"RoundRobinAssignor":        "roundrobin",
	"StickyAssignor":            "sticky",
	"CooperativeStickyAssignor": "cooperative-sticky",
}
