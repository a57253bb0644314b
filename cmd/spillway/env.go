package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/kelseyhightower/envconfig"

	"spillway/grip/secret"
)

// maxFileBytes bounds the .env file and the file of a _FILE variable. A
// ConfigMap or Secret holds at most 1 MiB.
const maxFileBytes = 1 << 20

// environ turns "NAME=value" lines, as os.Environ returns them, into a map.
func environ(lines []string) map[string]string {
	env := make(map[string]string, len(lines))
	for _, line := range lines {
		if name, value, ok := strings.Cut(line, "="); ok {
			env[name] = value
		}
	}
	return env
}

// readDotEnv adds the variables of the .env file to the environment, which
// wins. It is fine if there is no such file.
func (p *process) readDotEnv() error {
	text, err := p.readFile(".env")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	vars, err := parseDotEnv(string(text))
	if err != nil {
		return fmt.Errorf(".env: %w", err)
	}
	for name, value := range vars {
		if _, ok := p.env[name]; ok {
			continue
		}
		p.env[name] = value
		if p.setenv != nil {
			if err := p.setenv(name, value); err != nil {
				return fmt.Errorf(".env: set %s: %w", name, err)
			}
		}
	}
	return nil
}

// parseDotEnv reads the text of a .env file:
//
//	# a comment, on a line of its own
//	NAME=value, to the end of the line; blanks around it are dropped
//	NAME='value # no comment, $NO expansion'
//	NAME="several
//	lines"
//	export NAME=value
//
// Quotes are optional, and there are no escapes in them: a value ends at the
// next quote of its kind. Of a name that stands twice the last wins. All
// errors are reported together, by line.
func parseDotEnv(text string) (map[string]string, error) {
	vars := make(map[string]string)
	var errs []error
	text = strings.TrimPrefix(text, "\ufeff")
	for n := 1; text != ""; n++ {
		bad := func(format string, a ...any) {
			errs = append(errs, fmt.Errorf("line %d: %w", n, fmt.Errorf(format, a...)))
		}
		var line string
		line, text, _ = strings.Cut(text, "\n")
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name = strings.TrimSpace(strings.TrimPrefix(name, "export "))
		if !ok {
			bad("no = after %q; write NAME=value", name)
			continue
		}
		if !isName(name) {
			bad("%q is not a name; use letters, digits and _", name)
			continue
		}
		value = strings.TrimSpace(value)
		if value != "" && (value[0] == '"' || value[0] == '\'') {
			quote := value[:1]
			body, tail, closed := strings.Cut(value[1:], quote)
			if !closed { // goes on in the lines below
				var more string
				more, text, closed = strings.Cut(text, quote)
				if !closed {
					bad("%s: no closing %s", name, quote)
					break
				}
				body += "\n" + strings.ReplaceAll(more, "\r\n", "\n")
				n += 1 + strings.Count(more, "\n")
				tail, text, _ = strings.Cut(text, "\n")
			}
			if tail = strings.TrimSpace(tail); tail != "" && tail[0] != '#' {
				bad("%s: text after the closing %s; a value with such quotes inside needs the other kind around it, or none", name, quote)
				continue
			}
			value = body
		}
		if strings.ContainsRune(value, 0) {
			bad("%s: NUL in the value", name)
			continue
		}
		vars[name] = value
	}
	return vars, errors.Join(errs...)
}

func isName(s string) bool {
	for i, r := range s {
		letter := r == '_' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// A validator checks a Config struct after it was filled. It reports all
// problems, joined with errors.Join.
type validator interface{ Validate() error }

// load fills specs, pointers to Config structs, from the environment and the
// .env file, and validates them. Fields carry the tags of envconfig:
//
//	envconfig:"NAME"   the variable
//	default:"15s"      its value when not set
//	ignored:"true"     not from the environment
//	secret:"true"      never shown; NAME_FILE may name a file that holds it
//	file:"true"        NAME_FILE may name a file that holds it
//
// A field without them that is a struct has such fields itself. One that is a
// *secret.Source tells of secrets whose files change (secret.Follow).
//
// The error is a usageError with every problem there is. The warnings are for
// the log: names in the environment that look like a slip.
func (p *process) load(specs ...any) (warnings []string, err error) {
	var problems []error
	if err := p.readDotEnv(); err != nil {
		problems = append(problems, flatten(err)...)
	}
	for _, spec := range specs {
		errs := append(p.fill(spec), p.complete(spec)...)
		problems = append(problems, errs...)
		if v, ok := spec.(validator); ok {
			for _, err := range flatten(v.Validate()) {
				// A variable that could not be read has its default now, or
				// nothing, and was reported already.
				if !slices.ContainsFunc(errs, func(e error) bool { return sameVariable(e, err) }) {
					problems = append(problems, err)
				}
			}
		}
	}
	if len(problems) > 0 {
		return nil, usageError{configError(problems)}
	}
	return misspelt(p.env), nil
}

// fill sets the fields of one Config struct, and returns what is wrong.
func (p *process) fill(spec any) (problems []error) {
	v := reflect.ValueOf(spec).Elem()
	for i := range v.NumField() {
		field, f := v.Type().Field(i), v.Field(i)
		name := field.Tag.Get("envconfig")
		if s, ok := f.Addr().Interface().(**secret.Source); ok { // of all parts the same
			*s = p.secretSource()
			continue
		}
		if field.Tag.Get("ignored") == "true" {
			continue
		}
		if name == "" {
			if field.Type.Kind() == reflect.Struct { // of a package that the part is made of
				problems = append(problems, p.fill(f.Addr().Interface())...)
			}
			continue
		}
		isSecret := field.Tag.Get("secret") == "true"
		value, set := p.env[name]
		if hasTwin(v.Type(), field) {
			fromFile, ok, err := p.twin(name)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			if ok {
				value, set = fromFile, true
				if isSecret {
					p.secretSource().Add(name, value, func() (string, error) { return p.readTwin(name) })
				}
			}
		}
		if !set {
			value = field.Tag.Get("default")
		}
		if err := decode(f, value, set); err != nil {
			if isSecret || !set { // no value to show: hidden, or not theirs
				err = fmt.Errorf("%s: %w", name, err)
			} else {
				err = fmt.Errorf("%s=%s: %w", name, value, err)
			}
			problems = append(problems, err)
			// What follows may look at it: it gets the default.
			_ = decode(f, field.Tag.Get("default"), false)
		}
	}
	return problems
}

// hasTwin reports whether field's value may come from a file that NAME_FILE
// names. A struct that has a field for NAME_FILE reads that file by itself.
func hasTwin(spec reflect.Type, field reflect.StructField) bool {
	if field.Tag.Get("secret") != "true" && field.Tag.Get("file") != "true" {
		return false
	}
	for i := range spec.NumField() {
		if spec.Field(i).Tag.Get("envconfig") == field.Tag.Get("envconfig")+"_FILE" {
			return false
		}
	}
	return true
}

// twin reads the file that NAME_FILE names. ok is false when there is none.
func (p *process) twin(name string) (value string, ok bool, err error) {
	path := p.env[name+"_FILE"]
	if path == "" {
		return "", false, nil
	}
	if p.env[name] != "" {
		return "", false, fmt.Errorf("%s_FILE: %s is set too; unset one of them", name, name)
	}
	if value, err = p.readTwin(name); err != nil {
		return "", false, err
	}
	return value, true, nil
}

// readTwin reads the file that NAME_FILE names, as it is now.
func (p *process) readTwin(name string) (string, error) {
	b, err := p.readFile(p.env[name+"_FILE"])
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", name, err)
	}
	// Editors and echo end a file with a line break that is no part of a key.
	return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"), nil
}

// secretSource is where all parts of this process ask for their secrets.
func (p *process) secretSource() *secret.Source {
	if p.secrets == nil {
		p.secrets = secret.NewSource()
	}
	return p.secrets
}

// readFile reads a file of at most maxFileBytes.
func (p *process) readFile(path string) ([]byte, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(p.dir, path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a file", path)
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("%s: %d bytes; at most %d are read", path, info.Size(), maxFileBytes)
	}
	return os.ReadFile(path)
}

// decode sets f to value. An empty value is a text or a list without content,
// and otherwise an error if it was set, or the zero value if not.
//
// envconfig does the work, on a struct of this one field: on a whole Config
// it would stop at the first error, and it would read the environment of the
// process and no other.
func decode(f reflect.Value, value string, set bool) error {
	kind := f.Kind()
	if value == "" {
		f.SetZero()
		if set && kind != reflect.String && kind != reflect.Slice && kind != reflect.Map {
			return errors.New("empty; write a value, or do not set it")
		}
		return nil
	}
	if kind != reflect.String {
		value = strings.TrimSpace(value)
	}
	// No variable can have a "=" in its name, so envconfig takes the default.
	one := reflect.New(reflect.StructOf([]reflect.StructField{{
		Name: "Value",
		Type: f.Type(),
		Tag:  reflect.StructTag(`envconfig:"=" default:` + strconv.Quote(value)),
	}}))
	if err := envconfig.Process("", one.Interface()); err != nil {
		return explain(f, value, err)
	}
	f.Set(one.Elem().Field(0))
	if list, ok := f.Addr().Interface().(*[]string); ok {
		*list = trimList(*list)
	}
	return nil
}

// trimList drops blanks around items, and items that are nothing else.
func trimList(list []string) []string {
	kept := list[:0]
	for _, s := range list {
		if s = strings.TrimSpace(s); s != "" {
			kept = append(kept, s)
		}
	}
	return kept
}

// explain says what would be right.
func explain(f reflect.Value, value string, err error) error {
	var parse *envconfig.ParseError
	if errors.As(err, &parse) {
		err = parse.Err
	}
	if _, ok := f.Addr().Interface().(*time.Duration); ok {
		if _, err := strconv.ParseFloat(value, 64); err == nil {
			return fmt.Errorf("add a unit, such as %ss", value)
		}
		return errors.New("not a duration; write a number and ms, s, m or h, such as 30s or 1h30m")
	}
	if _, ok := f.Addr().Interface().(*slog.Level); ok {
		return errors.New("must be debug, info, warn or error")
	}
	var number *strconv.NumError
	if errors.As(err, &number) {
		switch {
		case f.Kind() == reflect.Bool:
			return errors.New("write true or false")
		case errors.Is(err, strconv.ErrRange):
			return fmt.Errorf("too large for %d bits", f.Type().Bits())
		case f.CanInt() || f.CanUint():
			return errors.New("not a whole number")
		}
		return errors.New("not a number")
	}
	return err
}

// A configError is all that is wrong with the configuration.
type configError []error

func (e configError) Error() string {
	var b strings.Builder
	if len(e) == 1 {
		b.WriteString("1 problem in the configuration:\n")
	} else {
		fmt.Fprintf(&b, "%d problems in the configuration:\n", len(e))
	}
	for _, err := range e {
		b.WriteString("  " + strings.ReplaceAll(err.Error(), "\n", "\n    ") + "\n")
	}
	b.WriteString("See spillway help config for every variable.")
	return b.String()
}

func (e configError) Unwrap() []error { return e }

// flatten takes joined errors apart.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, err := range joined.Unwrap() {
			all = append(all, flatten(err)...)
		}
		return all
	}
	return []error{err}
}

// sameVariable reports whether two problems begin with the same name.
func sameVariable(a, b error) bool {
	name := func(err error) string {
		s := err.Error()
		return s[:strings.IndexFunc(s+"=", func(r rune) bool { return r == '=' || r == ':' })]
	}
	return name(a) == name(b)
}

// misspelt returns a warning for each name in env that is nearly one of ours.
// Names that are not near to any are someone else's business.
func misspelt(env map[string]string) []string {
	var known []string
	for _, s := range configTable {
		known = append(known, s.name)
		if s.twin {
			known = append(known, s.name+"_FILE")
		}
	}
	var warnings []string
	for name := range env {
		if slices.Contains(known, name) || slices.Contains(foreign, name) || isServiceLink(name) {
			continue
		}
		// One edit per four letters, so that a short name does not resemble
		// everything.
		if near, ok := nearest(name, known, min(2, max(1, len(name)/4))); ok {
			warnings = append(warnings, fmt.Sprintf("%s is not a variable of ours; did you mean %s?", name, near))
		}
	}
	slices.Sort(warnings)
	return warnings
}

// foreign are names near to ours that libraries read.
var foreign = []string{"SSL_CERT_FILE", "SSL_CERT_DIR"}

// isServiceLink reports whether Kubernetes injected the variable for a Service:
// X_SERVICE_HOST, X_SERVICE_PORT[_name], X_PORT[_80_TCP[_ADDR|_PORT|_PROTO]].
func isServiceLink(name string) bool {
	return strings.HasSuffix(name, "_PORT") || strings.HasSuffix(name, "_SERVICE_HOST") ||
		strings.Contains(name, "_SERVICE_PORT_") ||
		strings.Contains(name, "_PORT_") && (strings.Contains(name, "_TCP") || strings.Contains(name, "_UDP"))
}

// nearest returns the name that s was most likely meant to be, at most so many
// edits away.
func nearest(s string, names []string, edits int) (string, bool) {
	best, distance := "", edits+1
	for _, name := range names {
		if d := levenshtein.ComputeDistance(s, name); d < distance {
			best, distance = name, d
		}
	}
	return best, best != "" && best != s
}
