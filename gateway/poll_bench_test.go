//go:build linux

package gateway

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// browserHeader is what a browser says besides the request line and Host.
const browserHeader = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
	"Accept: application/json\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Referer: http://app.example.com/dashboard\r\nOrigin: http://app.example.com\r\nConnection: keep-alive\r\n" +
	"Cookie: session=0123456789abcdef0123456789abcdef\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-site\r\n\r\n"

// BenchmarkWaitingPolls is the memory of long polls that wait. Their clients are
// bare descriptors of this process, without any of their own.
func BenchmarkWaitingPolls(b *testing.B) {
	const polls = 9000
	for _, of := range []string{"process", "route"} {
		b.Run("origin="+of, func(b *testing.B) {
			var f *fixture
			path, subscribers := "/events/list/", func(int) {}
			var forget func() // what the origins keep for tests
			if of == "process" {
				f = start(b, nil)
				f.list.wait = "600"
				subscribers = func(n int) { f.attached(b, n) }
				forget = func() { f.list.headers = nil }
			} else {
				path = "/jobs?id=42"
				var a *apiOrigin
				f, a = routed(b, map[string]http.HandlerFunc{"/jobs": func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Grip-Hold", "response")
					w.Header().Set("Grip-Channel", "jobs; prev-id=1")
					w.Header().Set("Grip-Timeout", "600")
					w.Header().Set("Content-Type", "application/json")
					w.Header().Set("Cache-Control", "no-store")
					fmt.Fprint(w, "[]\n")
				}}, "")
				subscribers = func(n int) { f.listening(b, "jobs", n) }
				forget = func() { a.requests, a.bodies = nil, nil }
			}
			address, request := bareAddress(b, f), fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: example.com\r\n%s", path, browserHeader)
			ask := func() (fds []int) {
				for n := range polls {
					fd := bareDial(b, address)
					if _, err := unix.Write(fd, request); err != nil {
						b.Fatal(err)
					}
					fds = append(fds, fd)
					if n%100 == 99 { // or the origin gets all connections at once
						subscribers(n + 1)
					}
				}
				return fds
			}
			hangUp := func(fds []int) {
				for _, fd := range fds {
					_ = unix.Close(fd)
				}
				subscribers(0)
				f.wantMetric(b, "spillway_connections", map[string]string{"transport": "poll"}, 0)
			}
			hangUp(ask()) // what grows once has grown
			forget()
			for b.Loop() {
				heap, rss := memory(b)
				fds := ask()
				forget()
				http.DefaultClient.CloseIdleConnections()
				heapWith, rssWith := memory(b)
				b.ReportMetric(float64(heapWith-heap)/polls, "heap-B/poll")
				b.ReportMetric(float64(rssWith-rss)/polls, "rss-B/poll")
				b.ReportMetric(float64(runtime.NumGoroutine())/polls, "goroutines/poll")
				hangUp(fds)
			}
		})
	}
}

// BenchmarkPolls is one long poll after the other on each of some connections,
// each answered by an item when all of them wait.
func BenchmarkPolls(b *testing.B) {
	const clients = 1000
	f := start(b, nil)
	address := bareAddress(b, f)
	request := []byte("GET /events/list/ HTTP/1.1\r\nHost: example.com\r\n" + browserHeader)
	var fds []int
	for range clients {
		fd := bareDial(b, address)
		defer unix.Close(fd)
		fds = append(fds, fd)
	}
	buf := make([]byte, 4<<10)
	cpu := func() time.Duration {
		var used unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
			b.Fatal(err)
		}
		return time.Duration(used.Utime.Nano() + used.Stime.Nano())
	}
	began := cpu()
	b.ReportAllocs()
	for b.Loop() {
		for _, fd := range fds {
			if _, err := unix.Write(fd, request); err != nil {
				b.Fatal(err)
			}
		}
		f.attached(b, clients)
		f.list.headers, f.list.asked = nil, nil
		f.list.publish(1)
		for _, fd := range fds {
			n, err := unix.Read(fd, buf) // an answer is one segment
			if err != nil || !strings.HasSuffix(string(buf[:n]), "}") {
				b.Fatalf("got %q and error %v", buf[:n], err)
			}
		}
	}
	b.ReportMetric(float64(cpu()-began)/float64(b.N*clients), "cpu-ns/poll")
}

func bareAddress(b *testing.B, f *fixture) *unix.SockaddrInet4 {
	b.Helper()
	address, err := netip.ParseAddrPort(f.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	return &unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}
}

func bareDial(b *testing.B, to *unix.SockaddrInet4) int {
	b.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	if err := unix.Connect(fd, to); err != nil {
		b.Fatal(err)
	}
	return fd
}

// memory is what is alive, and what the system has given, in bytes.
func memory(b *testing.B) (heap, rss int64) {
	b.Helper()
	debug.FreeOSMemory()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Skip("there is no /proc")
	}
	var total, resident int64
	if _, err := fmt.Sscan(string(statm), &total, &resident); err != nil {
		b.Fatal(err)
	}
	return int64(m.HeapAlloc), resident * int64(os.Getpagesize())
}
