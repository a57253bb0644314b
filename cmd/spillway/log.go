package main

import (
	"io"
	"log/slog"
	"net"
	"os"
	"time"
)

// LOG_FORMAT values.
const (
	logText = "text"
	logJSON = "json"
)

// newLogger returns the logger that all parts share. Nothing logs to
// slog.Default.
func newLogger(cfg Config, w io.Writer, terminal bool) *slog.Logger {
	opts := &slog.HandlerOptions{Level: cfg.LogLevel, ReplaceAttr: readable}
	if cfg.LogFormat == logText || cfg.LogFormat == "" && terminal {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

// readable writes durations and addresses as people do; as JSON they would be
// nanoseconds and structs.
func readable(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case time.Duration:
		a.Value = slog.StringValue(v.String())
	case net.Addr:
		a.Value = slog.StringValue(v.String())
	}
	return a
}

// isTerminal reports whether f is a character device. That /dev/null is one
// too does no harm.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
