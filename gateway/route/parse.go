package route

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"spillway/grip"
)

// A Source is a text with routes.
type Source struct {
	Name string // for errors: a file's name, or that of a variable; may be empty
	Text string

	// Semicolons says that ";" ends a line too, as in a variable, where a
	// newline is hard to write. In a file it is plain text.
	Semicolons bool
}

// Parse reads routes, one a line:
//
//	CONDITION[,param[=value]]… TARGET[,param[=value]]… [TARGET…]
//
// A line ends at a newline. "#" at the start of a word begins a comment, which
// goes to the newline. Between quotes both, commas and blanks are plain text,
// with \" and \\ for a quote and a backslash.
//
// The error joins one error for each mistake. Each names the line, says what is
// wrong and what would be right, and holds no value of sig_key or header.
func Parse(sources ...Source) (*Table, error) {
	t := &Table{byHost: map[string][]*Route{}, byID: map[string]*Route{}}
	var errs []error
	conditions := map[string]*Route{}
	for _, src := range sources {
		for _, ln := range src.lines() {
			r, bad := parseLine(ln)
			r.Source = src.Name
			if len(bad) == 0 {
				if other, ok := conditions[r.condition()]; ok && r.Host != "" {
					bad = append(bad, fmt.Errorf("same condition as %s; put all targets on one line", other.where()))
				} else if other, ok := t.byID[r.ID]; ok {
					bad = append(bad, fmt.Errorf("id=%s: taken by %s", r.ID, other.where()))
				}
			}
			if len(bad) > 0 {
				for _, err := range bad {
					errs = append(errs, fmt.Errorf("%s (%s): %w", r.where(), ln.subject(), err))
				}
				continue
			}
			conditions[r.condition()] = r
			t.routes = append(t.routes, r)
			if r.Host != "" {
				t.byHost[r.Host] = append(t.byHost[r.Host], r)
			}
			if r.ID != "" {
				t.byID[r.ID] = r
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return t, nil
}

// where names the route's line as compilers do.
func (r *Route) where() string {
	if r.Source == "" {
		return fmt.Sprintf("line %d", r.Line)
	}
	return fmt.Sprintf("%s:%d", r.Source, r.Line)
}

// condition is what no two lines may have in common.
func (r *Route) condition() string {
	ssl := "any"
	if r.SSL != nil {
		ssl = strconv.FormatBool(*r.SSL)
	}
	return strings.Join([]string{r.Host, string(r.Proto), ssl, r.PathBeg}, "\x00")
}

type line struct {
	number int
	text   string // without comment and surrounding blanks
}

// lines returns those that hold more than blanks and comments. A quote does not
// reach over a newline: the line is returned as it is, and sections reports it.
func (src Source) lines() []line {
	var lines []line
	text := strings.TrimPrefix(src.Text, "\ufeff") // some editors begin files with it
	number, start, quoted, wordStart := 1, 0, false, true
	end := -1 // where a comment begins, -1: none
	flush := func(at int) {
		if end >= 0 {
			at = end
		}
		if s := strings.TrimSpace(text[start:at]); s != "" {
			lines = append(lines, line{number, s})
		}
		number++
		quoted, wordStart, end = false, true, -1
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\n':
			flush(i)
			start = i + 1
			continue
		case end >= 0: // in a comment
		case quoted && c == '\\' && i+1 < len(text) && text[i+1] != '\n':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == ';' && src.Semicolons:
			flush(i)
			start = i + 1
			continue
		case c == '#' && wordStart:
			end = i
		}
		wordStart = !quoted && blank(c)
	}
	flush(len(text))
	return lines
}

func blank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' }

// A param is one comma-separated part of a section. The first of a section is
// its subject: a host or a target.
type param struct {
	name     string
	value    string
	hasValue bool // "a=" has one, "a" has none
}

func (p param) String() string {
	switch {
	case !p.hasValue:
		return p.name
	case p.name == "sig_key" || p.name == "header":
		return p.name + "=" + hidden
	default:
		return p.name + "=" + p.value
	}
}

// sections splits a line into its sections and those into their params, with
// the quotes taken off.
func sections(text string) ([][]param, error) {
	var (
		all     [][]param
		section []param
		p       param
		word    []byte // the name or value being read
		quoted  bool
		open    bool // a section has begun
	)
	endParam := func() {
		if p.hasValue {
			p.value = string(word)
		} else {
			p.name = string(word)
		}
		section = append(section, p)
		p, word = param{}, nil
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quoted && c == '\\':
			i++
			if i == len(text) || text[i] != '"' && text[i] != '\\' {
				return nil, errors.New(`\ between quotes: write \\ for a backslash, \" for a quote`)
			}
			word = append(word, text[i])
		case c == '"':
			quoted, open = !quoted, true
		case quoted:
			word = append(word, c)
		case blank(c):
			if open {
				endParam()
				all, section, open = append(all, section), nil, false
			}
		case c == ',':
			endParam()
			open = true
		case c == '=' && !p.hasValue:
			p.name, p.hasValue, word, open = string(word), true, nil, true
		case c == '#':
			return nil, errors.New(`# inside a word: put a blank before a comment, or quotes around the value`)
		case c < ' ' || c == 0x7f:
			return nil, fmt.Errorf("control character %#02x", c)
		default:
			word, open = append(word, c), true
		}
	}
	if quoted {
		return nil, errors.New(`a quote is not closed; end the value with "`)
	}
	if open {
		endParam()
		all = append(all, section)
	}
	return all, nil
}

// parseLine returns everything that is wrong with the line.
func parseLine(ln line) (*Route, []error) {
	r := &Route{Line: ln.number}
	all, err := sections(ln.text)
	if err != nil {
		return r, []error{err}
	}
	errs := r.parseCondition(all[0])
	if len(all) == 1 {
		errs = append(errs, errors.New("no target; write CONDITION TARGET, such as: * localhost:8000"))
	}
	for i, s := range all[1:] {
		t, bad := parseTarget(s)
		errs = append(errs, bad...)
		if t.Test && i+2 < len(all) {
			errs = append(errs, errors.New("test: answers always, so no target can come after it"))
		}
		r.Targets = append(r.Targets, t)
	}
	return r, errs
}

// notCarriedOut names what Pushpin has and this program has not, with the
// reason a person can act on.
var notCarriedOut = map[string]string{
	"session":       "there is no state service for sessions",
	"log_level":     "the level is the same for all routes: LOG_LEVEL",
	"untrusted":     "there is no policy for outbound requests; let the network of this process decide where it may connect",
	"ipc_file_mode": "ZeroMQ is not spoken",
}

var (
	conditionParams = []string{"proto", "ssl", "path_beg", "id", "sig_iss", "sig_key", "prefix",
		"header", "as_host", "path_rem", "replace_beg", "orig_headers", "aco", "jsonp_mode", "jsonp_cb", "jsonp_body",
		"jsonp_defcb", "jsonp_defmethod", "sockjs", "sockjs_as_path", "debug", "no_grip", "cache"}
	targetParams = []string{"ssl", "host", "insecure", "trust_connect_host", "client_cert", "client_key",
		"over_http", "one_event", "sub"}
)

func refused(p param) (error, bool) {
	reason, ok := notCarriedOut[p.name]
	if !ok {
		return nil, false
	}
	return fmt.Errorf("%s: not carried out here: %s; remove it", p.name, reason), true
}

// parseCondition returns everything that is wrong with the section.
func (r *Route) parseCondition(section []param) (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	subject := section[0]
	switch host := subject.name; {
	case subject.hasValue:
		bad("%s: a line begins with a host name or *", subject)
	case host == "":
		if !slices.ContainsFunc(section, func(p param) bool { return p.name == "id" }) {
			bad("no host: write a host name or *, or add id=ID to a route that only Pushpin-Route: ID reaches")
		}
	case host == "*":
		r.Host = host
	case strings.Contains(host, "*"):
		bad("host %s: no partial wildcards; write a whole host name or *", host)
	case !validHost(host):
		bad("host %s: write a host name without scheme, port or path, such as api.example.com", host)
	default:
		r.Host = normalHost(host)
	}

	seen := map[string]bool{}
	for _, p := range section[1:] {
		if err, ok := refused(p); ok {
			errs = append(errs, err)
			continue
		}
		if !slices.Contains(conditionParams, p.name) {
			bad("unknown parameter %q of a condition; known are %s", p.name, strings.Join(conditionParams, ", "))
			continue
		}
		if seen[p.name] && p.name != "header" {
			bad("%s: given twice", p.name)
			continue
		}
		seen[p.name] = true
		if err := r.setParam(p); err != nil {
			errs = append(errs, err)
		}
	}

	if r.ReplaceBeg != "" && r.PathRem > 0 {
		bad("path_rem and replace_beg: use one; replace_beg removes path_beg by itself")
	}
	if r.SockJS == "" && r.SockJSAsPath != "" {
		bad("sockjs_as_path: without effect without sockjs; add sockjs=PATH or remove it")
	}
	if r.NoGrip {
		for _, name := range []string{"sig_iss", "sig_key", "prefix"} {
			if seen[name] {
				bad("%s: without effect on a no_grip route; remove one of them", name)
			}
		}
	}
	return errs
}

func (r *Route) setParam(p param) error {
	switch p.name {
	case "orig_headers", "aco", "debug", "no_grip", "cache":
		if p.hasValue {
			return fmt.Errorf("%s: takes no value; write %s", p, p.name)
		}
		on := map[string]*bool{"orig_headers": &r.OrigHeaders, "aco": &r.CORS, "debug": &r.Debug, "no_grip": &r.NoGrip, "cache": &r.Cache}
		*on[p.name] = true
		return nil
	}
	if p.value == "" {
		return fmt.Errorf("%s: needs a value; write %s=…", p.name, p.name)
	}
	if !httpguts.ValidHeaderFieldValue(p.value) {
		return fmt.Errorf("%s: control character in the value", p.name)
	}

	switch p.name {
	case "proto":
		r.Proto = Proto(p.value)
		if r.Proto != HTTP && r.Proto != WebSocket {
			return fmt.Errorf("%s: must be proto=http or proto=ws", p)
		}
	case "ssl":
		if p.value != "yes" && p.value != "no" {
			return fmt.Errorf("%s: must be ssl=yes or ssl=no", p)
		}
		yes := p.value == "yes"
		r.SSL = &yes
	case "path_beg", "replace_beg", "sockjs", "sockjs_as_path":
		if p.value[0] != '/' || encodePath(p.value) != p.value {
			return fmt.Errorf("%s: must be an encoded path that begins with /, without query", p)
		}
		path := map[string]*string{"path_beg": &r.PathBeg, "replace_beg": &r.ReplaceBeg, "sockjs": &r.SockJS, "sockjs_as_path": &r.SockJSAsPath}
		*path[p.name] = p.value
	case "jsonp_mode":
		if p.value != "basic" && p.value != "extended" {
			return fmt.Errorf("%s: must be jsonp_mode=basic or jsonp_mode=extended", p)
		}
		r.JSONP.Basic = p.value == "basic"
	case "jsonp_cb":
		r.JSONP.Callback = p.value
	case "jsonp_body":
		r.JSONP.Body = p.value
	case "jsonp_defcb":
		r.JSONP.DefaultCallback = p.value
	case "jsonp_defmethod":
		if !httpguts.ValidHeaderFieldName(p.value) { // a method is a token, too
			return fmt.Errorf("%s: must be a method, such as POST", p)
		}
		r.JSONP.DefaultMethod = p.value
	case "id":
		r.ID = p.value
	case "sig_iss":
		r.SigIss = p.value
	case "sig_key":
		key, err := grip.ParseKey(p.value)
		if err != nil {
			return fmt.Errorf("sig_key: %w", err)
		}
		if _, err := key.Sign("", time.Now()); err != nil {
			return fmt.Errorf("sig_key: %w; it must be able to sign", err) // a public key cannot
		}
		r.SigKey = key
	case "prefix":
		r.Prefix = p.value
	case "header":
		return r.addHeader(p.value)
	case "as_host":
		if host, _, err := net.SplitHostPort(p.value); !validHost(p.value) && (err != nil || !validHost(host) || !validAddr(p.value)) {
			return fmt.Errorf("%s: must be HOST or HOST:PORT", p)
		}
		r.AsHost = p.value
	case "path_rem":
		n, err := strconv.Atoi(p.value)
		if err != nil || n < 1 || n > maxPathRem {
			return fmt.Errorf("%s: must be a number of bytes from 1 to %d", p, maxPathRem)
		}
		r.PathRem = n
	}
	return nil
}

// maxPathRem is far beyond any request line that is accepted.
const maxPathRem = 65536

// ownedByConnection are header fields that say how this hop carries the
// message; to set one would break it.
var ownedByConnection = []string{"Connection", "Content-Length", "Expect", "Keep-Alive",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

func (r *Route) addHeader(s string) error {
	name, value, ok := strings.Cut(s, ":")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	if !ok || !httpguts.ValidHeaderFieldName(name) {
		return errors.New(`header: write header="NAME: VALUE", or header=NAME: to remove NAME`)
	}
	if strings.EqualFold(name, "Host") {
		return errors.New("header: Host is set by as_host=HOST, or host=HOST of a target")
	}
	for _, own := range ownedByConnection {
		if strings.EqualFold(name, own) {
			return fmt.Errorf("header: %s belongs to the connection and cannot be set", own)
		}
	}
	for _, h := range r.Header {
		if strings.EqualFold(h.Name, name) {
			return fmt.Errorf("header: %s is given twice", name)
		}
	}
	r.Header = append(r.Header, grip.Header{Name: name, Value: value})
	return nil
}

func parseTarget(section []param) (t Target, errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	subject := section[0]
	switch name := subject.name; {
	case subject.hasValue || name == "":
		bad("target %q: write HOST:PORT, [IPv6]:PORT or test", subject.String())
	case name == "test":
		t.Test = true
	case strings.HasPrefix(name, "zhttp/"), strings.HasPrefix(name, "zhttpreq/"):
		bad("target %s: not carried out here: ZeroMQ is not spoken; write HOST:PORT", name)
	case strings.HasPrefix(name, "http://"):
		bad("target %s: write HOST:PORT without http:// and path", name)
	case strings.HasPrefix(name, "https://"):
		bad("target %s: write HOST:443,ssl instead of https://HOST", name)
	case !validAddr(name):
		bad("target %s: write HOST:PORT, [IPv6]:PORT or test", name)
	default:
		t.Addr = name
	}

	seen := map[string]bool{}
	for _, p := range section[1:] {
		if err, ok := refused(p); ok {
			errs = append(errs, err)
			continue
		}
		if !slices.Contains(targetParams, p.name) {
			bad("unknown parameter %q of a target; known are %s", p.name, strings.Join(targetParams, ", "))
			continue
		}
		if seen[p.name] {
			bad("%s: given twice", p.name)
			continue
		}
		seen[p.name] = p.name != "sub"
		withValue := p.name == "host" || p.name == "client_cert" || p.name == "client_key" || p.name == "sub"
		switch {
		case !withValue && p.hasValue:
			bad("%s: takes no value; write %s", p, p.name)
			continue
		case withValue && p.value == "":
			bad("%s: needs a value; write %s=…", p.name, p.name)
			continue
		case !httpguts.ValidHeaderFieldValue(p.value):
			bad("%s: control character in the value", p.name)
			continue
		}
		switch p.name {
		case "ssl":
			t.TLS = true
		case "host":
			if t.Host = p.value; !validHost(p.value) {
				bad("%s: must be host=HOST, a name or address without port", p)
			}
		case "insecure":
			t.Insecure = true
		case "trust_connect_host":
			t.TrustConnectHost = true
		case "client_cert":
			t.ClientCert = p.value
		case "client_key":
			t.ClientKey = p.value
		case "over_http":
			t.OverHTTP = true
		case "one_event":
			t.OneEvent = true
		case "sub":
			t.Subs = append(t.Subs, p.value)
		}
	}

	switch {
	case t.Test && len(section) > 1:
		bad("test: takes no parameters")
	case !t.TLS && t.Insecure:
		bad("insecure: without effect on a target without ssl; add ssl or remove it")
	case !t.TLS && t.TrustConnectHost:
		bad("trust_connect_host: without effect on a target without ssl; add ssl or remove it")
	case t.Insecure && t.TrustConnectHost:
		bad("trust_connect_host: without effect beside insecure; remove one of them")
	case t.OneEvent && !t.OverHTTP:
		bad("one_event: without effect on a target without over_http; add over_http or remove it")
	}
	switch {
	case (t.ClientCert == "") != (t.ClientKey == ""):
		bad("client_cert and client_key: both are needed")
	case t.ClientCert != "" && !t.TLS:
		bad("client_cert: without effect on a target without ssl; add ssl or remove it")
	case t.ClientCert != "":
		if _, err := tls.LoadX509KeyPair(t.ClientCert, t.ClientKey); err != nil {
			bad("client_cert: %w", err)
		}
	}
	return t, errs
}

// validHost reports whether s is a host name or an IP address, IPv6 with or
// without brackets.
func validHost(s string) bool {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		return ok && err == nil && addr.Is6()
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	return validName(s)
}

// validName is lenient about labels: container and Windows networks have names
// with underscores.
func validName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return strings.Trim(s, ".") != ""
}

func validAddr(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || !validHost(host) {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

const hidden = "‹hidden›"

// subject is what names a line in an error: all up to the first comma or blank.
// The rest may hold secrets, also in a parameter whose name is misspelt.
func (ln line) subject() string {
	if i := strings.IndexAny(ln.text, ", \t\r=\""); i >= 0 {
		return ln.text[:i]
	}
	return ln.text
}

// quote puts quotes around a value that cannot stand without.
func quote(value string) string {
	if value != "" && !strings.ContainsAny(value, " \t\r,;#\"\\") {
		return value
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
}
