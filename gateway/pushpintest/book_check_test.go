package pushpintest

import "testing"

func TestDiff(t *testing.T) {
	for _, tt := range []struct{ name, was, is, want string }{
		{"equal", "a\nb\n", "a\nb\n", ""},
		{"both empty", "", "", ""},
		{"changed", "a\nb\nc\n", "a\nx\nc\n", "- b\n+ x\n"},
		{"gone", "a\nb\n", "b\n", "- a\n"},
		{"new at the end", "a\n", "a\nb\n", "+ b\n"},
		{"all new", "", "a\n", "+ a\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := diff(tt.was, tt.is); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestParseBook(t *testing.T) {
	b, err := parseBook("x.txt", "# why\n\n== 1/a\none\n  two\n\n== 1/b\n")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := b["1/a"], "one\n  two\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := len(b), 2; got != want {
		t.Errorf("names: got %d, want %d", got, want)
	}
	for name, text := range map[string]string{"a name twice": "== a\n== a\n", "text before a name": "one\n"} {
		if _, err := parseBook("x.txt", text); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestChanges(t *testing.T) {
	if got, want := changes("Because.\n- a\n+ b\n"), "- a\n+ b\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
