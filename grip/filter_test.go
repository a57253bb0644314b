package grip

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestContentFilters(t *testing.T) {
	got := ContentFilters([]string{"var-subst", "skip-self", "own", "build-id", "http-check", "http-modify"})
	if want := []string{"var-subst", "build-id", "http-modify"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSkips(t *testing.T) {
	bob := map[string]string{"user": "bob"}
	for _, tt := range []struct {
		name      string
		filter    string
		sub, item map[string]string
		want      bool
	}{
		{"own item", FilterSkipSelf, bob, map[string]string{"sender": "bob"}, true},
		{"of somebody else", FilterSkipSelf, bob, map[string]string{"sender": "alice"}, false},
		{"nobody's", FilterSkipSelf, bob, nil, false},
		{"two without a name are not the same", FilterSkipSelf, nil, nil, false},
		{"an unknown filter", "own", bob, map[string]string{"sender": "bob", "skip_users": "bob"}, false},
		{"named among others", FilterSkipUsers, bob, map[string]string{"skip_users": "alice, bob ,carol"}, true},
		{"part of a name", FilterSkipUsers, bob, map[string]string{"skip_users": "alice,bobby"}, false},
		{"without a name", FilterSkipUsers, nil, map[string]string{"skip_users": ","}, false},
		{"subscribed", FilterRequireSub, nil, map[string]string{"require_sub": "a"}, false},
		{"not subscribed", FilterRequireSub, nil, map[string]string{"require_sub": "b"}, true},
		{"no subscription required", FilterRequireSub, nil, map[string]string{"require_sub": ""}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			on := func(channel string) bool { return channel == "a" }
			if got := Skips([]string{tt.filter}, tt.sub, tt.item, on); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}

func TestSubstituteVars(t *testing.T) {
	meta := map[string]string{"user": "bob", "a)b": "x", "empty": "", "long": strings.Repeat("y", 1000)}
	for _, tt := range []struct{ content, want, err string }{
		{"", "", ""},
		{"plain", "plain", ""},
		{"hi %(user)s, 100%%", "hi bob, 100%", ""},
		{`%(us\er)s%(a\)b)s`, "bobx", ""},
		{"<%(empty)s>", "<>", ""},
		{"%(other)s", "", `%(other)s: there is no "other"`},
		{"%s", "", "%s: a directive that is not known"},
		{"%(user)I", "", "%(user)I: a directive that is not known"},
		{"%(user)%", "", "%(user)%: a directive that is not known"},
		{"50%", "", "a directive without end"},
		{"%(user", "", "a directive without end"},
		{`%(user\`, "", "a directive without end"},
		{"%(user)", "", "a directive without end"},
		{strings.Repeat("%(long)s", 1001), "", "the result is more than 1000000 bytes"},
	} {
		t.Run(tt.content[:min(len(tt.content), 20)], func(t *testing.T) {
			got, err := SubstituteVars([]byte(tt.content), meta)
			if string(got) != tt.want || errorText(err) != tt.err {
				t.Errorf("got %q, error %q, want %q, error %q", got, errorText(err), tt.want, tt.err)
			}
		})
	}
}

func lastOf(channel string) (string, bool) {
	id, ok := map[string]string{"a": "5", "b": "7", "new": ""}[channel]
	return id, ok
}

func TestIDBuilder(t *testing.T) {
	for _, tt := range []struct{ name, format, encoding, content, want, err string }{
		{"id", "%(a)s,%(b)s", "", "id: %I\n", "id: 5,7\n", ""},
		{"text", "%(a)s", "", "%(te\\)xt)I", "te)xt", ""},
		{"percent", "%(a)s%%", "", "%I 100%%", "5% 100%", ""},
		{"hexadecimal, text too", "%(a)s", "hex", "%I %(:)I", "35 3a", ""},
		{"another encoding is none", "%(a)s", "base64", "%I", "5", ""},
		{"one that is not known yet is empty", "%(a)s,%(new)s", "", "%I", "5,", ""},
		{"none is known", "%(new)s", "", "%I", "", "build-id: %I: no id is known"},
		{"none is known, and none is asked for", "%(new)s", "", "%(x)I", "x", ""},
		{"no format", "", "", "%I", "", "build-id: there is no id_format"},
		{"another channel", "%(c)s", "", "", "", `build-id: id_format: %(c)s: "c" is no channel of the subscription`},
		{"another directive in the format", "%(a)I", "", "", "", "build-id: id_format: %(a)I: a directive that is not known"},
		{"another directive", "%(a)s", "", "%(user)s", "", "build-id: %(user)s: a directive that is not known"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []byte
			b, err := NewIDBuilder(map[string]string{"id_format": tt.format, "id_encoding": tt.encoding}, lastOf)
			if err == nil {
				got, err = b.Append(nil, []byte(tt.content), true)
			}
			if string(got) != tt.want || errorText(err) != tt.err {
				t.Errorf("got %q, error %q, want %q, error %q", got, errorText(err), tt.want, tt.err)
			}
		})
	}
}

// Content may come in pieces, divided anywhere.
func FuzzIDBuilder(f *testing.F) {
	f.Add([]byte("id: %I\ndata: %(te\\)xt)I %% \n"), "%(a)s-%(b)s", uint(7), uint(9))
	f.Add([]byte("%"), "%%", uint(0), uint(1))
	f.Add([]byte(`%(\`), `%(\a)s`, uint(2), uint(3))
	f.Fuzz(func(t *testing.T, content []byte, format string, i, j uint) {
		meta := map[string]string{"id_format": format}
		whole, err := NewIDBuilder(meta, lastOf)
		if err != nil {
			return
		}
		want, wantErr := whole.Append(nil, content, true)
		pieces, _ := NewIDBuilder(meta, lastOf)
		i, j = min(i, uint(len(content))), min(j, uint(len(content)))
		i, j = min(i, j), max(i, j)
		got, err := pieces.Append(nil, content[:i], false)
		if err == nil {
			got, err = pieces.Append(got, content[i:j], false)
		}
		if err == nil {
			got, err = pieces.Append(got, content[j:], true)
		}
		if err != nil && wantErr == nil && len(content) > maxDirective {
			return // a directive that long can only come in one piece
		}
		if (err == nil) != (wantErr == nil) || wantErr == nil && !bytes.Equal(got, want) {
			t.Errorf("in pieces: got %q, %v, want %q, %v", got, err, want, wantErr)
		}
	})
}

func FuzzSubstituteVars(f *testing.F) {
	f.Add([]byte("hi %(user)s, 100%%"), "user", "bob")
	f.Add([]byte(`%(us\er)s %(`), "us", "")
	f.Fuzz(func(t *testing.T, content []byte, name, value string) {
		meta := map[string]string{name: value}
		got, err := SubstituteVars(content, meta)
		if err == nil && !bytes.Contains(content, []byte("%")) && !bytes.Equal(got, content) {
			t.Errorf("got %q, want %q", got, content)
		}
		if got, err := SubstituteVars(EscapeContent(content), meta); err != nil || !bytes.Equal(got, content) {
			t.Errorf("escaped: got %q, %v, want %q", got, err, content)
		}
	})
}
