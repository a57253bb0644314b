package relay

import (
	"strings"
	"testing"
)

func TestParseRules(t *testing.T) {
	rs, err := parseRules([]byte(`{
		"orders\\.eu": {"redact": ["value.card"]},
		"orders.*": {"filter": "value.public", "headers": ["trace"], "formats": ["plain"], "codec": {"key": "string", "value": "json"},
			"replay": {"records": 10, "bytes": "1MiB", "age": "24h"}},
		".*": {}
	}`), testQueries().compiler)
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]string{
		"orders.eu": `orders\.eu`, "orders.us": "orders.*", "orders": "orders.*", "my.orders": ".*", "orders.eu2": "orders.*",
	} {
		if got := rs.of(topic); got == nil || got.pattern != want {
			t.Errorf("%s: the rule of %v, want %q", topic, got, want)
		}
	}
	if rs, err := parseRules([]byte(" \n"), nil); rs.of("orders") != nil || err != nil {
		t.Errorf("blanks: got %v %v, want no rules", rs, err)
	}
}

func TestBadRules(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"no object", `[]`, "must be one JSON object of rules by pattern"},
		{"no JSON", `orders`, "must be one JSON object"},
		{"cut off", `{"orders": {`, `"orders": unexpected EOF`},
		{"more than one", `{} {}`, "something follows"},
		{"a pattern", `{"orders(": {}}`, `"orders(": not a regular expression`},
		{"a pattern twice", `{"a": {}, "a": {}}`, "there twice"},
		{"a rule that is none", `{"a": null}`, "null is not a rule"},
		{"an unknown member", `{"a": {"fields": ["id"]}}`, `unknown member "fields"; filter, redact,`},
		{"an unknown member below", `{"a": {"replay": {"recods": 1}}}`, `unknown member "recods"`},
		{"a member twice", `{"a": {"redact": ["value.x"], "redact": ["value.y"]}}`, "duplicate"},
		{"redact as a text", `{"a": {"redact": "value.x"}}`, "redact: must be an array of texts, not a JSON string"},
		{"redact of all", `{"a": {"redact": ["value"]}}`, "would leave nothing"},
		{"redact of a key", `{"a": {"redact": ["key"]}}`, "does not begin with value"},
		{"an unknown format", `{"a": {"formats": ["avro"]}}`, `formats: "avro" is none; must be plain or`},
		{"no format", `{"a": {"formats": []}}`, "allows none"},
		{"a codec", `{"a": {"codec": {"value": "xml"}}}`, `"xml" is not a codec`},
		{"records", `{"a": {"replay": {"records": -1}}}`, "replay.records: -1"},
		{"records as a text", `{"a": {"replay": {"records": "many"}}}`, "replay.records: must be a whole number, not a JSON string"},
		{"bytes as a number", `{"a": {"replay": {"bytes": 5}}}`, `must be a text such as "64MiB", not a JSON number`},
		{"age", `{"a": {"replay": {"age": "a day"}}}`, `"a day" is not a duration such as 24h`},
		{"age as a number", `{"a": {"replay": {"age": 5}}}`, `must be a text such as "24h", not a JSON number`},
		{"a filter", `{"a": {"filter": "value.x =="}}`, `"a": filter: `},
		{"a filter's name", `{"a": {"filter": "valeu.x"}}`, "unknown name 'valeu'"},
		{"claims", `{"a": {"filter": "value.tenant == claims.tenant"}}`, "filter: uses claims, and this version does not authenticate"},
		{"claims by brackets", `{"a": {"filter": "value.tenant == claims['tenant']"}}`, "uses claims"},
		{"claims in a loop", `{"a": {"filter": "value.x.all(x, x in claims.xs)"}}`, "uses claims"},
		{"a filter on what is hidden", `{"a": {"filter": "!has(value.card)", "redact": ["value.card"]}}`, "value.card is hidden by redact"},
		{"above it", `{"a": {"filter": "value == null", "redact": ["value.card"]}}`, "value is hidden by redact"},
		{"below it", `{"a": {"filter": "value['card'].no == 1", "redact": ["value.card"]}}`, "value.card.no is hidden by redact"},
		{"by an unknown name", `{"a": {"filter": "value[key] == 1", "redact": ["value.card"]}}`, "value is hidden by redact"},
		{"in a list", `{"a": {"filter": "value.cards[0].no == 1", "redact": ["value.cards.no"]}}`, "value.cards is hidden by redact"},
		{"in a loop", `{"a": {"filter": "value.cards.exists(c, c.no == 1)", "redact": ["value.cards.no"]}}`, "value.cards is hidden by redact"},
		{"a hidden header", `{"a": {"filter": "headers.type == 'x'", "headers": ["trace"]}}`, "headers.type is hidden by headers"},
		{"all headers", `{"a": {"filter": "'x' in headers", "headers": ["x"]}}`, "headers is hidden by headers"},
	} {
		if _, err := parseRules([]byte(tt.text), testQueries().compiler); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	for _, text := range []string{
		`{"a": {"filter": "value.tenant == 'acme' && value.cart.no == 1", "redact": ["value.card", "value.cart.card"]}}`,
		`{"a": {"filter": "headers.trace == 'x' || headers['trace'] == 'y'", "headers": ["trace"]}}`,
		`{"a": {"filter": "value.claims == 'x' && value.exists(value_, value_.headers == 1)", "headers": []}}`,
	} {
		if _, err := parseRules([]byte(text), testQueries().compiler); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzParseRules(f *testing.F) {
	for _, text := range []string{`{"orders.*": {"filter": "value.a == 1", "redact": ["value.b"]}}`, `{"a": {"replay": {"age": "24h"}}}`, `{"a":{},"a":{}}`, `{"(":null}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		rs, err := parseRules(text, testQueries().compiler)
		if err == nil {
			rs.of("orders")
		}
	})
}
