// Configdoc writes down the environment variables: it reads the Config structs
// of the program's parts, whose comments and tags are the documentation, and
// writes cmd/spillway/config_table.go and the table of README.md, between two
// markers:
//
//	<!-- config:begin -->
//	<!-- config:end -->
//
// It runs by go generate ./cmd/spillway. A test here fails when the files are
// not what it would write.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"log"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	begin = "<!-- config:begin -->"
	end   = "<!-- config:end -->"
)

// sources are the packages that have a Config struct, in the order of the
// table. A field that is itself a struct of another package of this module
// belongs to the part that holds it.
var sources = []struct{ part, dir string }{
	{"Kafka and events", "relay"},
	{"Gateway", "gateway"},
	{"Program", "cmd/spillway"},
}

func main() {
	log.SetFlags(0)
	root, err := moduleRoot()
	if err != nil {
		log.Fatalf("configdoc: %v", err)
	}
	files, err := generate(root)
	if err != nil {
		log.Fatalf("configdoc: %v", err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), text, 0o644); err != nil {
			log.Fatalf("configdoc: %v", err)
		}
	}
}

// moduleRoot is the nearest folder upwards that has a go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod in any folder above")
		}
		dir = up
	}
}

// A setting is one variable.
type setting struct {
	part, name, deflt, doc string
	twin                   bool // NAME_FILE may name a file instead
}

// generate returns the files to write, by name relative to root.
func generate(root string) (map[string][]byte, error) {
	var all []setting
	byName := make(map[string]setting)
	for _, src := range sources {
		list, err := settings(root, src.dir, "Config")
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			s.part = src.part
			if other, ok := byName[s.name]; ok { // two parts read it: once is enough
				if other.deflt != s.deflt {
					return nil, fmt.Errorf("%s has two defaults: %q and %q", s.name, other.deflt, s.deflt)
				}
				continue
			}
			byName[s.name] = s
			all = append(all, s)
		}
	}
	// A variable that has a field of its own is nobody's twin.
	for i := range all {
		if _, ok := byName[all[i].name+"_FILE"]; ok {
			all[i].twin = false
		}
	}

	table, err := goTable(all)
	if err != nil {
		return nil, err
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		return nil, err
	}
	readme, err = splice(readme, markdown(all))
	if err != nil {
		return nil, fmt.Errorf("README.md: %w", err)
	}
	return map[string][]byte{"cmd/spillway/config_table.go": table, "README.md": readme}, nil
}

// settings reads the variables of a struct in the package in dir, in the order
// of its fields.
func settings(root, dir, typeName string) ([]setting, error) {
	pkg, err := parseDir(filepath.Join(root, dir))
	if err != nil {
		return nil, err
	}
	for _, file := range pkg {
		for _, decl := range file.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.TYPE {
				continue
			}
			for _, spec := range gen.Specs {
				spec := spec.(*ast.TypeSpec)
				if body, ok := spec.Type.(*ast.StructType); ok && spec.Name.Name == typeName {
					return fields(root, dir, file, body)
				}
			}
		}
	}
	return nil, fmt.Errorf("%s: no struct %s", dir, typeName)
}

func parseDir(dir string) ([]*ast.File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []*ast.File
	fset := token.NewFileSet()
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, filepath.Join(dir, e.Name()), nil, parser.ParseComments|parser.SkipObjectResolution)
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone since ReadDir
		}
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func fields(root, dir string, file *ast.File, body *ast.StructType) ([]setting, error) {
	var list []setting
	for _, f := range body.Fields.List {
		var tag reflect.StructTag
		if f.Tag != nil {
			text, err := strconv.Unquote(f.Tag.Value)
			if err != nil {
				return nil, fmt.Errorf("%s: tag %s: %w", dir, f.Tag.Value, err)
			}
			tag = reflect.StructTag(text)
		}
		name := tag.Get("envconfig")
		if tag.Get("ignored") == "true" {
			continue
		}
		if name == "" {
			nested, err := nestedSettings(root, dir, file, f)
			if err != nil {
				return nil, err
			}
			list = append(list, nested...)
			continue
		}
		if len(f.Names) != 1 {
			return nil, fmt.Errorf("%s: %s stands at %d fields", dir, name, len(f.Names))
		}
		doc := sentence(f.Names[0].Name, f.Doc.Text())
		if doc == "" {
			return nil, fmt.Errorf("%s: %s has no comment, which is its documentation", dir, name)
		}
		list = append(list, setting{
			name:  name,
			deflt: tag.Get("default"),
			doc:   doc,
			twin:  tag.Get("secret") == "true" || tag.Get("file") == "true",
		})
	}
	return list, nil
}

// nestedSettings follows a field of a struct type: T or other.T, where other
// is a package of this module.
func nestedSettings(root, dir string, file *ast.File, f *ast.Field) ([]setting, error) {
	switch t := f.Type.(type) {
	case *ast.Ident:
		if t.IsExported() {
			return settings(root, dir, t.Name)
		}
	case *ast.SelectorExpr:
		pkg, ok := t.X.(*ast.Ident)
		if !ok {
			break
		}
		for _, imp := range file.Imports {
			p, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return nil, err
			}
			if sub, ours := strings.CutPrefix(p, "spillway/"); ours && path.Base(p) == pkg.Name {
				return settings(root, sub, t.Sel.Name)
			}
		}
	}
	return nil, fmt.Errorf("%s: a field of Config has neither envconfig nor ignored:\"true\"", dir)
}

// sentence turns a field's comment into one paragraph that does not speak of
// the field: "OpsAddr serves /metrics" becomes "Serves /metrics", and
// "Topics are the patterns" becomes "The patterns".
func sentence(field, comment string) string {
	text := strings.Join(strings.Fields(comment), " ")
	if rest, ok := strings.CutPrefix(text, field+" "); ok {
		verb, object, _ := strings.Cut(rest, " ")
		switch {
		case verb == "is" || verb == "are":
			text = object
		case strings.HasSuffix(verb, "s"):
			text = rest
		}
	}
	r, n := utf8.DecodeRuneInString(text)
	if n == 0 {
		return ""
	}
	return string(unicode.ToUpper(r)) + text[n:]
}

func goTable(all []setting) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("// Code generated by internal/configdoc; DO NOT EDIT.\n\npackage main\n\n")
	b.WriteString("// configTable is every variable that the program reads. The comments of the\n")
	b.WriteString("// Config structs are its source.\nvar configTable = []setting{\n")
	for _, s := range all {
		fmt.Fprintf(&b, "{part: %q, name: %q, deflt: %q, twin: %v,\ndoc: %s},\n", s.part, s.name, s.deflt, s.twin, strconv.Quote(s.doc))
	}
	b.WriteString("}\n")
	return format.Source(b.Bytes())
}

func markdown(all []setting) []byte {
	escape := strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;", "*", `\*`).Replace
	var b bytes.Buffer
	part := ""
	for _, s := range all {
		if s.part != part {
			part = s.part
			fmt.Fprintf(&b, "\n### %s\n\n| name | default | meaning |\n| --- | --- | --- |\n", part)
		}
		name, deflt := "`"+s.name+"`", "–"
		if s.twin {
			name += " (`_FILE`)"
		}
		if s.deflt != "" {
			deflt = "`" + strings.ReplaceAll(s.deflt, "|", `\|`) + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, deflt, escape(s.doc))
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// splice replaces what stands between the markers.
func splice(text, table []byte) ([]byte, error) {
	before, rest, ok := bytes.Cut(text, []byte(begin))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return nil, fmt.Errorf("no %s followed by %s", begin, end)
	}
	return bytes.Join([][]byte{before, []byte(begin + "\n"), table, []byte(end), after}, nil), nil
}
