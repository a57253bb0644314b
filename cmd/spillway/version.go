package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set when a release is built:
//
//	go build -ldflags "-X main.version=v1.2.3" ./cmd/spillway
var version string

// A buildInfo says which program this is.
type buildInfo struct {
	version   string // v1.2.3, or what Go knows
	commit    string // of git, "unknown" without; "+changes" when the tree was not clean
	goVersion string
}

func readBuild() buildInfo {
	b := buildInfo{version: version, commit: "unknown", goVersion: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if ok {
		if b.version == "" {
			b.version = info.Main.Version
		}
		changes := ""
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				b.commit = s.Value[:min(len(s.Value), 12)]
			case s.Key == "vcs.modified" && s.Value == "true":
				changes = "+changes"
			}
		}
		b.commit += changes
	}
	if b.version == "" || b.version == "(devel)" {
		b.version = "devel"
	}
	return b
}

func versionCommand() command {
	return command{
		name:    "version",
		summary: "print the version, the commit and the Go version",
		help: `  spillway version
      spillway v1.2.3, commit 0cf8ee5d1a2b, go1.26.8, linux/amd64

Usage: spillway version

Prints one line: version, commit, Go version and platform of this program.
`,
		run: func(_ context.Context, p *process, args []string) error {
			if len(args) > 0 {
				return wrongUsage("takes no argument, but got %q", args[0])
			}
			b := readBuild()
			_, err := fmt.Fprintf(p.stdout, "spillway %s, commit %s, %s, %s/%s\n",
				b.version, b.commit, b.goVersion, runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
