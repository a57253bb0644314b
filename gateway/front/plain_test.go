package front

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func newRequests() *requests {
	return &requests{quick: quick, maxHead: 10_000, maxBody: 1 << 20, buf: bufio.NewReader(nil)}
}

func quick(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/quick") }

// exchanges are what clients say before they hang up.
const quickly = "POST /quick HTTP/1.1\r\nHost: a\r\n"

var exchanges = []struct {
	name, text string
	here       int64 // requests that are answered without net/http
}{
	{"a body", quickly + "Content-Length: 3\r\n\r\nabc", 1},
	{"no body", quickly + "\r\n", 1},
	{"an empty body", quickly + "Content-Length: 0\r\n\r\n", 1},
	{"another status", quickly + "Answer: 404\r\nContent-Length: 3\r\n\r\nabc", 1},
	{"fields of many clients", quickly + "User-Agent: x/1.0 (y; z)\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nCookie: a=1; b=2\r\nX_y:z\r\npragma: no-cache\r\nX: \r\nX:   two  blanks  \r\n\r\n", 1},
	{"the last", quickly + "Connection: close\r\n\r\n", 1},
	{"the last, and more", quickly + "Connection: close\r\n\r\n" + quickly + "\r\n", 0},
	{"three at once", strings.Repeat(quickly+"Content-Length: 3\r\n\r\nabc", 3), 3},
	{"three, the second not quick", quickly + "\r\nPOST /slow HTTP/1.1\r\nHost: a\r\n\r\n" + quickly + "\r\n", 1},
	{"one and half of another", quickly + "\r\n" + quickly, 1},
	{"one and garbage", quickly + "Content-Length: 3\r\n\r\nabcdefg", 1},
	{"a query", "POST /quick?a=%20&b HTTP/1.1\r\nHost: a:80\r\n\r\n", 1},
	{"a path of escapes", "POST /quick%2fa//b/../c HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 1},
	{"a broken escape", "POST /quick%zz HTTP/1.1\r\nHost: a\r\n\r\n", 0},
	{"a handler that gives up", quickly + "\r\nPOST /quick/panic HTTP/1.1\r\nHost: a\r\n\r\n", 2},
	{"not quick", "POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 0},
	{"GET", "GET /quick HTTP/1.1\r\nHost: a\r\n\r\n", 0},
	{"HEAD", "HEAD /quick HTTP/1.1\r\nHost: a\r\n\r\n", 0},
	{"a small method", "post /quick HTTP/1.1\r\nHost: a\r\n\r\n", 0},
	{"HTTP/1.0", "POST /quick HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 0},
	{"HTTP/1.0 that stays", "POST /quick HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc", 0},
	{"HTTP/1.2", "POST /quick HTTP/1.2\r\nHost: a\r\n\r\n", 0},
	{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0},
	{"an empty line first", "\r\n" + quickly + "\r\n", 0},
	{"an absolute target", "POST http://b/quick HTTP/1.1\r\nHost: a\r\n\r\n", 0},
	{"two slashes", "POST //b/quick HTTP/1.1\r\nHost: a\r\n\r\n", 0},
	{"a length and chunks", quickly + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX", 0},
	{"chunks and a length", quickly + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 0},
	{"chunks", quickly + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 0},
	{"chunks by another name", quickly + "Transfer-Encoding: xchunked\r\nContent-Length: 3\r\n\r\nabc", 0},
	{"chunks after a blank", quickly + "Transfer-Encoding : chunked\r\nContent-Length: 3\r\n\r\nabc", 0},
	{"chunks after a tab", quickly + "Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n", 0},
	{"two lengths", quickly + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 0},
	{"the same length twice", quickly + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 0},
	{"a list of lengths", quickly + "Content-Length: 3, 3\r\n\r\nabc", 0},
	{"a length with a sign", quickly + "Content-Length: +3\r\n\r\nabc", 0},
	{"a negative length", quickly + "Content-Length: -3\r\n\r\nabc", 0},
	{"an empty length", quickly + "Content-Length:\r\n\r\nabc", 0},
	{"a length of zeros", quickly + "Content-Length: 0003\r\n\r\nabc", 1},
	{"a length beyond all numbers", quickly + "Content-Length: 99999999999999999999\r\n\r\nabc", 0},
	{"a folded line", quickly + "X: 1\r\n 2\r\n\r\n", 0},
	{"a folded first line", "POST /quick HTTP/1.1\r\n Host: a\r\n\r\n", 0},
	{"bare LF", strings.ReplaceAll(quickly, "\r\n", "\n") + "\n", 0},
	{"bare LF in a field", quickly + "X: 1\nContent-Length: 3\r\n\r\nabc", 0},
	{"bare LF as the end", quickly + "Content-Length: 3\r\n\nabc\r\n\r\n", 0},
	{"bare CR", quickly + "X: 1\rY: 2\r\n\r\n", 0},
	{"NUL in a field", quickly + "X: \x00\r\n\r\n", 0},
	{"NUL in the target", "POST /quick\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 0},
	{"NUL in a name", quickly + "X\x00: 1\r\n\r\n", 0},
	{"a name without a colon", quickly + "X\r\n\r\n", 0},
	{"a field without a name", quickly + ": x\r\n\r\n", 0},
	{"bytes beyond ASCII", quickly + "X: \xff\xc3\xa4\r\n\r\n", 0},
	{"no Host", "POST /quick HTTP/1.1\r\n\r\n", 0},
	{"two Hosts", quickly + "Host: b\r\n\r\n", 0},
	{"an empty Host", "POST /quick HTTP/1.1\r\nHost: \r\n\r\n", 0},
	{"a Host with a slash", "POST /quick HTTP/1.1\r\nHost: a/b\r\n\r\n", 0},
	{"a Host of two words", "POST /quick HTTP/1.1\r\nHost: a b\r\n\r\n", 0},
	{"Expect", quickly + "Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", 0},
	{"another Expect", quickly + "Expect: x\r\nContent-Length: 3\r\n\r\nabc", 0},
	{"Upgrade", quickly + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 0},
	{"two connections", quickly + "Connection: close\r\nConnection: keep-alive\r\n\r\n", 0},
	{"a head too large for here", quickly + "X: " + strings.Repeat("x", 20_000) + "\r\n\r\n", 0},
	{"a body cut off", quickly + "Content-Length: 10\r\n\r\nabc", 0},
	{"a head cut off", quickly + "Content-Len", 0},
	{"nothing", "", 0},
	{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 0},
}

func TestNext(t *testing.T) {
	const head = "POST /quick HTTP/1.1\r\nHost: a\r\n"
	for _, tt := range []struct {
		name, text string
		size       int // 0: it is net/http's
	}{
		{"without a body", head + "\r\n", len(head) + 2},
		{"with one", head + "Content-Length: 3\r\n\r\nabc", len(head) + 24},
		{"with more behind it", head + "Content-Length: 3\r\n\r\nabcPOST", len(head) + 24},
		{"that says that it stays", head + "Connection: Keep-Alive\r\n\r\n", len(head) + 26},
		{"the last", head + "Connection: close\r\n\r\n", len(head) + 21},
		{"the last, and more", head + "Connection: close\r\n\r\nP", 0},
		{"nothing", "", 0},
		{"half a head", head, 0},
		{"a head without its last byte", head + "\r", 0},
		{"half a body", head + "Content-Length: 3\r\n\r\nab", 0},
		{"a large head", head + "X: " + strings.Repeat("x", 10_000) + "\r\n\r\n", 0},
		{"a body that is too large", head + "Content-Length: 1048577\r\n\r\n" + strings.Repeat("x", 1<<20+1), 0},
		{"not quick", "POST /slow HTTP/1.1\r\nHost: a\r\n\r\n", 0},
		{"not POST", "PUT /quick HTTP/1.1\r\nHost: a\r\n\r\n", 0},
		{"HTTP/1.0", "POST /quick HTTP/1.0\r\nHost: a\r\n\r\n", 0},
		{"a bare LF", "POST /quick HTTP/1.1\nHost: a\r\n\r\n", 0},
		{"a bare LF in a field", head + "X: 1\nY: 2\r\n\r\n", 0},
		{"a bare CR", head + "X: 1\rY: 2\r\n\r\n", 0},
		{"a folded line", head + "X: 1\r\n 2\r\n\r\n", 0},
		{"NUL", head + "X: \x00\r\n\r\n", 0},
		{"no Host", "POST /quick HTTP/1.1\r\n\r\n", 0},
		{"two Hosts", head + "Host: a\r\n\r\n", 0},
		{"an empty Host", "POST /quick HTTP/1.1\r\nHost:\r\n\r\n", 0},
		{"a Host that is none", "POST /quick HTTP/1.1\r\nHost: a b\r\n\r\n", 0},
		{"chunks", head + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0},
		{"a length and chunks", head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0},
		{"two lengths", head + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 0},
		{"a length with a sign", head + "Content-Length: +3\r\n\r\nabc", 0},
		{"a length beyond all numbers", head + "Content-Length: 99999999999999999999\r\n\r\nabc", 0},
		{"a blank before the colon", head + "Content-Length : 3\r\n\r\nabc", 0},
		{"Expect", head + "Content-Length: 3\r\nExpect: 100-continue\r\n\r\nabc", 0},
		{"Upgrade", head + "Upgrade: h2c\r\n\r\n", 0},
		{"an absolute target", "POST http://b/quick HTTP/1.1\r\nHost: a\r\n\r\n", 0},
		{"three blanks", "POST /quick x HTTP/1.1\r\nHost: a\r\n\r\n", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, size := newRequests().next([]byte(tt.text))
			if size != tt.size || (r != nil) != (size > 0) {
				t.Errorf("got size %d (request %v), want %d", size, r != nil, tt.size)
			}
		})
	}
}

// What is answered here is what net/http would read, to the byte.
func FuzzNext(f *testing.F) {
	for _, c := range exchanges {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		kept := bytes.Clone(text)
		q := newRequests()
		q.quick = func(*http.Request) bool { return true }
		got, size := q.next(text)
		if got == nil {
			return
		}
		gotBody, _ := io.ReadAll(got.Body)
		rest := bytes.NewReader(kept)
		br := bufio.NewReaderSize(rest, 16)
		want, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("net/http: %v", err)
		}
		wantBody, err := io.ReadAll(want.Body)
		if err != nil {
			t.Fatalf("net/http: %v", err)
		}
		if n := len(kept) - rest.Len() - br.Buffered(); size != n {
			t.Errorf("got size %d, want %d", size, n)
		}
		if !bytes.Equal(gotBody, wantBody) {
			t.Errorf("got body %q, want %q", gotBody, wantBody)
		}
		if len(want.TransferEncoding)+len(want.Trailer) > 0 || !want.ProtoAtLeast(1, 1) {
			t.Errorf("got a request with %v, %v and %s", want.TransferEncoding, want.Trailer, want.Proto)
		}
		if got.Method != want.Method || got.RequestURI != want.RequestURI || got.Host != want.Host || got.Close != want.Close || !reflect.DeepEqual(got.Header, want.Header) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if !bytes.Equal(text, kept) {
			t.Error("the text was changed")
		}
	})
}
