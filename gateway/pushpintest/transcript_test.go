package pushpintest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// What stands in for values that are never the same twice, and for what would
// be in every transcript.

// longBody is the longest that is printed whole.
const longBody = 400

// print writes the entries of a client or publisher, and how the connection
// ended.
func (a *actor) print(out *bytes.Buffer, name string, w *world) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.list {
		e.print(out, name+": ", w)
	}
	if a.closed && !a.gone && name != strings.TrimSpace(publisherName) {
		fmt.Fprintf(out, "%s: closed\n", name)
	}
}

func (e *entry) print(out *bytes.Buffer, name string, w *world) {
	if e.message {
		parts := []string{strings.TrimSpace(e.head.line)}
		if e.body != nil {
			parts = append(parts, quoted(w, e.body))
		}
		if e.state != "" {
			parts = append(parts, e.state)
		}
		fmt.Fprintln(out, strings.TrimSpace(name+strings.TrimSpace(strings.Join(parts, " "))))
		return
	}
	fields := slices.DeleteFunc(e.fields(w), func(f string) bool { return isEverywhere(name, f) })
	fmt.Fprint(out, name, w.nominal(e.head.line))
	if strings.HasPrefix(name, "origin") {
		for _, u := range usual {
			kept := slices.DeleteFunc(slices.Clone(fields), func(f string) bool { return slices.Contains(u.fields, f) })
			if len(kept)+len(u.fields) == len(fields) {
				fields = kept
				fmt.Fprintf(out, " (%s)", u.name)
			}
		}
	}
	fmt.Fprintln(out)
	for _, f := range fields {
		fmt.Fprintln(out, "  "+f)
	}
	if len(e.body) > 0 || e.state != "" {
		fmt.Fprintln(out, strings.TrimRight("  "+quoted(w, e.body)+" "+e.state, " "))
	}
}

// quoted is a body or message on one line.
func quoted(w *world, body []byte) string {
	text := w.nominal(string(body))
	if len(text) > longBody {
		return fmt.Sprintf("%q… %d bytes, crc32 %08x", text[:30], len(text), crc32.ChecksumIEEE([]byte(text)))
	}
	return fmt.Sprintf("%q", text)
}

// everywhere are fields that are in no transcript, and why. Without a value: with
// any.
var everywhere = []struct {
	from   string // who got it
	field  string
	reason string
}{
	{"origin: ", "Accept: */*", "Pushpin's HTTP client adds it where the client sent none"},
	{"origin: ", "Accept-Encoding: deflate, gzip, br, zstd", "Pushpin's HTTP client adds it, and undoes the encoding"},
	{"client ", "Connection: Transfer-Encoding", "Pushpin says so with chunks; it is not a field that connections have of their own"},
	{"client ", "Date: (now)", "we add it where the origin sent none, as servers with a clock should"},
	{"publisher", "Date: (now)", "the same"},
	{"publisher", "Connection: close", "we leave publishers their connection, for the next request"},
	{"publisher", "Spillway-Receivers:", "we say how many got the items"},
	{"publisher", "Spillway-Dropped:", "and how many items nobody needs"},
}

func isEverywhere(name, field string) bool {
	for _, e := range everywhere {
		if strings.HasPrefix(name, e.from) && (field == e.field || strings.HasSuffix(e.field, ":") && strings.HasPrefix(field, e.field)) {
			return true
		}
	}
	return false
}

// usual are fields that an origin gets again and again. Where all of a kind are
// there, its name stands for them.
var usual = []struct {
	name   string
	fields []string
}{
	{"as usual", []string{
		"Grip-Feature: " + features,
		"Grip-Sig: HS256 by changeme, iss=pushpin exp=+3600",
		"Host: fruit.test",
	}},
	{"events", []string{
		"Accept: application/websocket-events",
		"Content-Type: application/websocket-events",
		"Sec-Websocket-Extensions: grip",
		"Sec-Websocket-Key: " + sampleKey,
		"Sec-Websocket-Version: 13",
	}},
	{"handshake", []string{
		"Connection: Upgrade",
		"Sec-Websocket-Extensions: grip",
		"Sec-Websocket-Key: (a key)",
		"Sec-Websocket-Version: 13",
		"Upgrade: websocket",
	}},
}

// fields are header fields, sorted by name: their order says nothing, except
// for those of one name.
func (e *entry) fields(w *world) []string {
	var out []string
	for _, f := range e.head.fields {
		name := http.CanonicalHeaderKey(f[0])
		out = append(out, strings.TrimRight(name+": "+w.nominal(w.value(name, f[1])), " "))
	}
	slices.SortStableFunc(out, func(a, b string) int {
		an, _, _ := strings.Cut(a, ":")
		bn, _, _ := strings.Cut(b, ":")
		return strings.Compare(an, bn)
	})
	return out
}

func (w *world) value(name, value string) string {
	switch name {
	case "Grip-Sig":
		return signature(value)
	case "Grip-Feature":
		return w.features(value)
	case "Connection-Id", "Grip-Session-Id":
		return w.numbered(value)
	case "Sec-Websocket-Key":
		if value != sampleKey {
			return "(a key)"
		}
	case "Sec-Websocket-Accept":
		if value != acceptKey(sampleKey) {
			return "(wrong)"
		}
	case "Date":
		if at, err := http.ParseTime(value); err == nil && time.Since(at).Abs() < time.Minute {
			return "(now)"
		}
	}
	return value
}

// numbered makes the first id of a transcript id-1.
func (w *world) numbered(id string) string {
	i := slices.Index(w.ids, id)
	if i < 0 {
		w.ids = append(w.ids, id)
		i = len(w.ids) - 1
	}
	return fmt.Sprintf("id-%d", i+1)
}

const features = "(features)"

// features are compared where a scenario asks for that; a proxy may have more
// than 1.36 has.
func (w *world) features(value string) string {
	if !w.showFeatures {
		return features
	}
	var known []string
	for f := range strings.SplitSeq(value, ",") {
		if f = strings.TrimSpace(f); f != "link:gone" && f != "filter:http-check" && f != "filter:http-modify" {
			known = append(known, f)
		}
	}
	return strings.Join(known, ", ")
}

// signature says what a Grip-Sig claims and who made it.
func signature(token string) string {
	claims := jwt.MapClaims{}
	t, _, err := jwt.NewParser(jwt.WithJSONNumber()).ParseUnverified(token, claims)
	if err != nil {
		return "not a token: " + token
	}
	by := "unknown"
	for _, key := range []string{"changeme", "upstream", "other", "\x01\x02\x03"} {
		if _, err := jwt.Parse(token, func(*jwt.Token) (any, error) { return []byte(key), nil }, jwt.WithoutClaimsValidation()); err == nil {
			by = strings.Trim(fmt.Sprintf("%q", key), `"`)
		}
	}
	var parts []string
	for name, v := range claims {
		if n, ok := v.(json.Number); ok && name == "exp" {
			if at, err := n.Int64(); err == nil {
				v = fmt.Sprintf("%+d", (at-time.Now().Unix()+60)/120*120)
			}
		}
		parts = append(parts, fmt.Sprintf("%s=%v", name, v))
	}
	slices.Sort(parts)
	slices.Reverse(parts)
	return fmt.Sprintf("%s by %s, %s", t.Method.Alg(), by, strings.Join(parts, " "))
}
