package auth

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func patterns(t *testing.T, texts ...string) Patterns {
	t.Helper()
	p, _, err := newPatterns(texts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPatternsOfBoth(t *testing.T) {
	ab, bc := patterns(t, "a", "b.*"), patterns(t, "b", "c")
	for _, tt := range []struct {
		name string
		p    Patterns
		text string
		may  string // of the topics below
	}{
		{"none", Patterns{}, `[]`, ""},
		{"an empty list", patterns(t), `[[]]`, ""},
		{"everything", Everything(), `[[".*"]]`, "a b bb c"},
		{"everything and more", patterns(t, "a", ".*"), `[["a",".*"]]`, "a b bb c"},
		{"both", ab.and(bc), `[["a","b.*"],["b","c"]]`, "b"},
		{"all of one", ab.and(Everything()), `[["a","b.*"]]`, "a b bb"},
		{"all of the other", Everything().and(bc), `[["b","c"]]`, "b c"},
		{"everything of both", Everything().and(Everything()), `[[".*"]]`, "a b bb c"},
		{"none of one", Patterns{}.and(Everything()), `[]`, ""},
		{"none of the other", Everything().and(Patterns{}), `[]`, ""},
		{"an empty list of one", Everything().and(patterns(t)), `[[]]`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.p.String(); got != tt.text {
				t.Errorf("got %s, want %s", got, tt.text)
			}
			var again Patterns
			if err := json.Unmarshal([]byte(tt.text), &again); err != nil {
				t.Fatal(err)
			}
			for _, p := range []Patterns{tt.p, again} {
				var may []string
				for _, topic := range []string{"a", "b", "bb", "c"} {
					if p.Match(topic) {
						may = append(may, topic)
					}
				}
				if got := strings.Join(may, " "); got != tt.may {
					t.Errorf("matches %q, want %q", got, tt.may)
				}
			}
		})
	}
	var p Patterns
	for _, broken := range []string{`"a"`, `["a"]`, `[[1]]`, `{}`} {
		if err := json.Unmarshal([]byte(broken), &p); err == nil {
			t.Errorf("%s was read as %s", broken, p)
		}
	}
	if err := json.Unmarshal([]byte("null"), &p); err != nil || p.Match("a") {
		t.Errorf("null: got %s, %v", p, err)
	}
}

// A list matches what its patterns match by themselves, each the whole name,
// and costs no more than it may.
func FuzzPatterns(f *testing.F) {
	f.Add("orders stock.* a|b", "orders")
	f.Add("a)|(b (?i)x ^ $ \\Qa.b \\z", "a.b")
	f.Add("(a{1000}){1000} [[:alpha:]]{3} * (", "abc")
	f.Add("(?m)a$ (?s). \\C", "a\nb")
	f.Fuzz(func(t *testing.T, list, topic string) {
		texts := splitPatterns([]string{list})
		p, broken, err := newPatterns(texts)
		if err != nil {
			return
		}
		want := false
		for _, text := range texts {
			// What is only an expression between parentheses of ours is none.
			if _, err := regexp.Compile(text); err != nil {
				broken--
			} else if re, err := regexp.Compile(`\A(?:` + text + `)\z`); err != nil {
				broken--
			} else {
				want = want || re.MatchString(topic)
			}
		}
		if got := p.Match(topic); got != want && !slices.Contains(texts, everything) {
			t.Errorf("%q matches %q: got %v, want %v", list, topic, got, want)
		}
		if broken != 0 {
			t.Errorf("%q: %d more are broken than should be", list, broken)
		}
	})
}
