package main

import (
	"bytes"
	"testing"
)

func TestParseHTTP(t *testing.T) {
	for _, tt := range []struct {
		name, text, body string
		rest             string
		status           int
		closes           bool
	}{
		{"a length", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP/1.1", "abc", "HTTP/1.1", 200, false},
		{"no body", "HTTP/1.1 304 Not Modified\r\nConnection: Close\r\n\r\n", "", "", 304, true},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nab\r\nA\r\n0123456789\r\n0\r\n\r\nx", "ab0123456789", "x", 200, false},
		{"a request", "POST /publish/ HTTP/1.1\r\nContent-Length: 1\r\n\r\n{}", "{", "}", 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, ok, err := parseHTTP([]byte(tt.text))
			if !ok || err != nil {
				t.Fatalf("got %v, %v", ok, err)
			}
			if got := string(m.body); got != tt.body {
				t.Errorf("body: got %q, want %q", got, tt.body)
			}
			if got := tt.text[m.length:]; got != tt.rest {
				t.Errorf("rest: got %q, want %q", got, tt.rest)
			}
			if m.status() != tt.status || m.closes != tt.closes {
				t.Errorf("got %d, closes %v; want %d, %v", m.status(), m.closes, tt.status, tt.closes)
			}
			for n := range m.length {
				if _, ok, err := parseHTTP([]byte(tt.text[:n])); ok || err != nil {
					t.Errorf("the first %d bytes: got %v, %v, want that something is missing", n, ok, err)
				}
			}
		})
	}
}

func TestParseHTTPRefuses(t *testing.T) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabcd\r\n",
		string(bytes.Repeat([]byte("x"), maxHead+1)),
	} {
		if m, ok, err := parseHTTP([]byte(text)); err == nil {
			t.Errorf("%.60q: got %v, %v, want an error", text, m, ok)
		}
	}
}

// What is understood does not depend on what follows.
func FuzzParseHTTP(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, ok, err := parseHTTP(text)
		if !ok || err != nil {
			return
		}
		again, ok, err := parseHTTP(text[:m.length])
		if !ok || err != nil || !bytes.Equal(again.body, m.body) || again.length != m.length {
			t.Errorf("alone: got %v, %v, %v, want %v", again, ok, err, m)
		}
		if _, ok, err := parseHTTP(text[:m.length-1]); ok && err == nil {
			t.Errorf("without its last byte it is complete: %q", text[:m.length])
		}
	})
}
