package pushpintest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// books is where transcripts and lists are.
const books = "../../testdata/grip"

// A book is a file of texts under names:
//
//	# a comment
//	== 4.1/stream
//	text
//
// An empty line before a name is not part of a text.
type book map[string]string

func readBook(name string) (book, error) {
	b, err := os.ReadFile(filepath.Join(books, name))
	if os.IsNotExist(err) {
		return book{}, nil
	}
	if err != nil {
		return nil, err
	}
	return parseBook(name, string(b))
}

func parseBook(file, text string) (book, error) {
	out := book{}
	name := ""
	for i, l := range strings.Split(text, "\n") {
		if rest, ok := strings.CutPrefix(l, "== "); ok {
			name = strings.TrimSpace(rest)
			if _, twice := out[name]; twice {
				return nil, fmt.Errorf("%s:%d: %s stands there twice", file, i+1, name)
			}
			out[name] = ""
			continue
		}
		if name == "" {
			if l != "" && !strings.HasPrefix(l, "#") {
				return nil, fmt.Errorf("%s:%d: text before the first name", file, i+1)
			}
			continue
		}
		out[name] += l + "\n"
	}
	for name, text := range out {
		out[name] = strings.TrimRight(text, "\n") + "\n"
	}
	return out, nil
}

// write writes a book in the order of names.
func (b book) write(name, comment string) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "# %s\n", comment)
	for _, n := range b.names() {
		fmt.Fprintf(&out, "\n== %s\n%s", n, b[n])
	}
	if err := os.MkdirAll(books, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(books, name), out.Bytes(), 0o644)
}

func (b book) names() []string {
	var names []string
	for n := range b {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// diff is what has to be taken out of was (-) and put in (+) to get is.
func diff(was, is string) string {
	a, b := lines(was), lines(is)
	// common[i][j] is the length of the longest common part of a[i:] and b[j:].
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out strings.Builder
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			fmt.Fprintf(&out, "- %s\n", a[i])
			i++
		default:
			fmt.Fprintf(&out, "+ %s\n", b[j])
			j++
		}
	}
	return out.String()
}

func lines(text string) []string {
	if text = strings.TrimSuffix(text, "\n"); text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
