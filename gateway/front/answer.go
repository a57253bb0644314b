package front

import (
	"bytes"
	"net/http"
	"strconv"
	"time"
)

// answers are those of one turn, one after the other, as net/http writes them.
type answers struct {
	out    bytes.Buffer
	header http.Header
	code   int // 0: not said yet
	body   []byte
	date   []byte
	second int64 // of date
}

// maxKept bounds the memory that is kept for answers, in bytes. Who asks for more
// at once is net/http's.
const maxKept = 64 << 10

func (a *answers) begin() {
	if a.out.Cap() > maxKept {
		a.out = bytes.Buffer{}
	}
	a.out.Reset()
}

// Header implements http.ResponseWriter.
func (a *answers) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answers) WriteHeader(code int) {
	if a.code == 0 {
		a.code = code
	}
}

// Write implements http.ResponseWriter.
func (a *answers) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	a.body = append(a.body, p...)
	return len(p), nil
}

// forget drops what was said of an answer that is not to be sent.
func (a *answers) forget() {
	clear(a.header)
	a.code, a.body = 0, a.body[:0]
}

// end puts the answer behind those before it. Where it closes, it is the last.
func (a *answers) end(now time.Time, closes bool) {
	a.WriteHeader(http.StatusOK)
	a.out.WriteString("HTTP/1.1 ")
	a.out.WriteString(strconv.Itoa(a.code))
	a.out.WriteByte(' ')
	a.out.WriteString(http.StatusText(a.code))
	a.out.WriteString("\r\n")
	if len(a.header["Content-Length"]) != 1 { // or the client would wait, or find an answer too many
		a.header.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	_ = a.header.Write(&a.out) // a buffer takes all
	if s := now.Unix(); s != a.second {
		a.second, a.date = s, now.UTC().AppendFormat(a.date[:0], http.TimeFormat)
	}
	a.out.WriteString("Date: ")
	a.out.Write(a.date)
	if closes {
		a.out.WriteString("\r\nConnection: close")
	}
	a.out.WriteString("\r\n\r\n")
	a.out.Write(a.body)
	a.forget()
}
