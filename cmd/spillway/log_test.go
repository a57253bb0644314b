package main

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"
)

func TestLogIsReadable(t *testing.T) {
	var out bytes.Buffer
	log := newLogger(Config{LogFormat: logJSON}, &out, false)
	log.Info("listening", "http", net.Addr(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7999}), "timeout", 90*time.Second)
	if want := `"http":"127.0.0.1:7999","timeout":"1m30s"`; !strings.Contains(out.String(), want) {
		t.Errorf("got %s, want %s in it", out.String(), want)
	}
}
