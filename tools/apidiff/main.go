// Apidiff compares the exported API of a package with a record of it, so that
// nothing that others may use goes away by accident.
//
//	apidiff RECORD PACKAGE     fail when something of the record is gone or different
//	apidiff -w RECORD PACKAGE  write the record
//
// A record is export data, without the places of declarations, so that it is the
// same wherever it is written. Types of other packages are compared by name alone:
// those may be of another version.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"go/token"
	"go/types"
	"io"
	"os"

	"golang.org/x/exp/apidiff"
	"golang.org/x/tools/go/gcexportdata"
	"golang.org/x/tools/go/packages"
)

func main() {
	write := flag.Bool("w", false, "write the record")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: apidiff [-w] RECORD PACKAGE")
		os.Exit(2)
	}
	if err := run(os.Stdout, flag.Arg(0), flag.Arg(1), *write); err != nil {
		fmt.Fprintln(os.Stderr, "apidiff:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, record, path string, write bool) error {
	now, err := load(path)
	if err != nil {
		return err
	}
	if write {
		var data bytes.Buffer
		if err := gcexportdata.Write(&data, nil, now); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return os.WriteFile(record, data.Bytes(), 0o644)
	}
	before, err := read(record, now.Path())
	if err != nil {
		return err
	}
	report := apidiff.Changes(before, now)
	broken := false
	for _, c := range report.Changes {
		kind := "added"
		if !c.Compatible {
			kind, broken = "INCOMPATIBLE", true
		}
		fmt.Fprintf(out, "%s: %s\n", kind, c.Message)
	}
	if broken {
		return fmt.Errorf("%s has changed in a way that breaks programs that use it; if that is meant, 'make grip-api' renews %s, and CHANGELOG.md says what they have to do", path, record)
	}
	if len(report.Changes) > 0 {
		fmt.Fprintf(out, "%s: 'make grip-api' adds this to %s\n", path, record)
	}
	return nil
}

func load(path string) (*types.Package, error) {
	pkgs, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedTypes | packages.NeedImports | packages.NeedDeps,
	}, path)
	switch {
	case err != nil:
		return nil, err
	case len(pkgs) != 1:
		return nil, fmt.Errorf("%s: %d packages, not one", path, len(pkgs))
	case len(pkgs[0].Errors) > 0:
		return nil, pkgs[0].Errors[0]
	case pkgs[0].Types == nil:
		return nil, errors.New("no types")
	}
	return pkgs[0].Types, nil
}

func read(record, path string) (*types.Package, error) {
	data, err := os.Open(record)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	pkg, err := gcexportdata.Read(data, token.NewFileSet(), make(map[string]*types.Package), path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", record, err)
	}
	return pkg, nil
}
