// Package charts tests how Spillway is shipped: the binary, the image, and the
// commands that people type. The chart has tests of its own, which make chart
// runs.
package charts

import (
	"bufio"
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"spillway/relay/kafkatest"
)

const root = ".."

// readFile returns a file of the repository.
func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// run returns the stdout of a command in dir, with env added to ours.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}

// build makes the binary as make build does and returns its path.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "spillway")
	run(t, root, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "./cmd/spillway")
	return bin
}

// The image has nothing but the binary, so that must need nothing else.
func TestBinaryIsStatic(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skipf("the image is for linux, this is %s", runtime.GOOS)
	}
	bin := build(t)
	f, err := elf.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the binary asks for a dynamic linker")
		}
	}
	libs, err := f.ImportedLibraries()
	if err != nil || len(libs) > 0 {
		t.Errorf("got libraries %v, %v, want none", libs, err)
	}

	info, err := buildinfo.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	var roots bool
	for _, m := range info.Deps {
		roots = roots || m.Path == "golang.org/x/crypto/x509roots/fallback"
	}
	if !roots {
		t.Error("the binary has no CA roots inside, and the image has none either")
	}
	content, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	if home, err := os.UserHomeDir(); err == nil && len(home) > 1 && bytes.Contains(content, []byte(home+"/")) {
		t.Errorf("the binary names a folder of who built it, %s: -trimpath", home)
	}
}

// A stage is one stage of a Dockerfile.
type stage struct {
	from, name string
	lines      []string // INSTRUCTION rest, blanks single, without FROM
}

// stages parses a Dockerfile as far as ours goes: comments, continued lines,
// no heredocs. Arguments before the first FROM are put into the FROMs.
func stages(t *testing.T, dockerfile string) []stage {
	t.Helper()
	var all []stage
	args := map[string]string{}
	line := ""
	sc := bufio.NewScanner(strings.NewReader(dockerfile))
	for sc.Scan() {
		if strings.HasPrefix(strings.TrimSpace(sc.Text()), "#") {
			continue
		}
		part, more := strings.CutSuffix(strings.TrimSpace(sc.Text()), `\`)
		line = strings.Join(strings.Fields(line+" "+part), " ")
		if more || line == "" {
			continue
		}
		instruction, rest, _ := strings.Cut(line, " ")
		switch {
		case strings.Contains(rest, "<<"):
			t.Fatalf("a heredoc: teach this test to read it: %s", line)
		case instruction == "FROM":
			f := slices.DeleteFunc(strings.Fields(rest), func(s string) bool { return strings.HasPrefix(s, "--") })
			s := stage{from: os.Expand(f[0], func(name string) string { return args[name] })}
			if len(f) == 3 {
				s.name = f[2]
			}
			all = append(all, s)
		case len(all) == 0:
			name, value, _ := strings.Cut(rest, "=")
			args[name] = value
		default:
			s := &all[len(all)-1]
			s.lines = append(s.lines, line)
		}
		line = ""
	}
	return all
}

func TestDockerfile(t *testing.T) {
	all := stages(t, readFile(t, "Dockerfile"))
	byName := map[string]stage{}
	for _, s := range all {
		byName[s.name] = s
	}
	last := all[len(all)-1]

	base := byName["base"]
	if base.from != "scratch" {
		t.Errorf("the base comes from %q, want scratch", base.from)
	}
	for _, want := range []string{"USER 65532:65532", "EXPOSE 7999", `ENTRYPOINT ["/spillway"]`, `CMD ["serve"]`} {
		if !slices.Contains(base.lines, want) {
			t.Errorf("the base has no %q:\n%s", want, strings.Join(base.lines, "\n"))
		}
	}
	for _, s := range []struct {
		what  string
		stage stage
		want  string
	}{
		{"the image", last, "COPY --from=build /spillway /spillway"},
		{"the prebuilt image", byName["prebuilt"], "COPY bin/spillway /spillway"},
	} {
		if s.stage.from != "base" {
			t.Errorf("%s comes from %q, want base", s.what, s.stage.from)
		}
		if got := strings.Join(s.stage.lines, "\n"); got != s.want {
			t.Errorf("%s adds %q, want only %q", s.what, got, s.want)
		}
	}

	mod := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(readFile(t, "go.mod"))
	if got, want := byName["build"].from, "golang:"+mod[1]; got != want {
		t.Errorf("built by %s, want %s as go.mod says", got, want)
	}
	compile := strings.Join(byName["build"].lines, "\n")
	for _, want := range []string{"CGO_ENABLED=0", "-trimpath", "-X main.version=$VERSION", "./cmd/spillway"} {
		if !strings.Contains(compile, want) {
			t.Errorf("the build has no %q:\n%s", want, compile)
		}
	}
}

// .dockerignore lets in what it names; a new folder must not be forgotten.
func TestDockerContextHasEverySource(t *testing.T) {
	var allowed []string
	for line := range strings.Lines(readFile(t, ".dockerignore")) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "!"); ok {
			allowed = append(allowed, name)
		}
	}
	out := run(t, root, []string{"CGO_ENABLED=0", "GOOS=linux"}, "go", "list", "-deps", "-f",
		`{{if .Module}}{{if .Module.Main}}{{.ImportPath}}{{range .EmbedFiles}} {{.}}{{end}}{{end}}{{end}}`, "./cmd/spillway")
	if strings.TrimSpace(out) == "" {
		t.Fatal("go list named no package")
	}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		folder := strings.TrimPrefix(f[0], "spillway/")
		top, _, _ := strings.Cut(folder, "/")
		if !slices.Contains(allowed, top) {
			t.Errorf("%s is compiled, but .dockerignore keeps %s/ out", f[0], top)
		}
		for _, embedded := range f[1:] {
			if strings.Contains(folder+"/"+embedded, "testdata/") {
				t.Errorf("%s embeds %s, which .dockerignore keeps out", f[0], embedded)
			}
		}
	}
}

// Bare make lists every target that a person may type.
func TestMakeListsItsTargets(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		kafkatest.Skip(t, "needs make: apt-get install make")
	}
	listed := map[string]bool{}
	for line := range strings.Lines(run(t, root, []string{"MAKEFLAGS=", "MAKELEVEL="}, "make", "--no-print-directory")) {
		if m := regexp.MustCompile(`^  ([a-z-]+) +\S`).FindStringSubmatch(line); m != nil {
			listed[m[1]] = true
		}
	}
	for _, name := range strings.Fields("build run test unit race fuzz kafka bench lint chart check generate clean") {
		if !listed[name] {
			t.Errorf("make does not list %s, only %v", name, slices.Sorted(maps.Keys(listed)))
		}
	}
	if len(listed) > 22 {
		t.Errorf("make lists %d targets, more than fit a screen", len(listed))
	}
}

// What CI runs is what make check runs, target by target so that its log says
// how long each takes.
func TestCIRunsMakeCheck(t *testing.T) {
	m := regexp.MustCompile(`(?m)^check: (.*?) *##`).FindStringSubmatch(readFile(t, "Makefile"))
	if m == nil {
		t.Fatal("the Makefile has no target check")
	}
	var steps []string
	for _, step := range regexp.MustCompile(`(?m)^step make (\S+)$`).FindAllStringSubmatch(readFile(t, ".ci/run"), -1) {
		steps = append(steps, step[1])
	}
	if got := strings.Join(steps, " "); got != m[1] {
		t.Errorf(".ci/run makes %q, want %q as make check does", got, m[1])
	}
}
