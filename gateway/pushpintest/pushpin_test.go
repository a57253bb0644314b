package pushpintest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"spillway/relay/kafkatest"
)

// pushpin is a real one, with a folder and ports of its own.
type pushpin struct {
	http, https, publish int
	stats                *pushpinStats
	stop                 func()
}

func (p *pushpin) clients() string      { return fmt.Sprintf("127.0.0.1:%d", p.http) }
func (p *pushpin) clientsByTLS() string { return fmt.Sprintf("127.0.0.1:%d", p.https) }
func (p *pushpin) control() string      { return fmt.Sprintf("127.0.0.1:%d", p.publish) }

func (p *pushpin) listening(channel string, n int, patience time.Duration) error {
	return p.stats.listening(channel, n, patience)
}

// startPushpin starts one, until stop is called. conf holds more settings of
// pushpin.conf, NAME=VALUE a line, each put in place of the default.
func startPushpin(t *testing.T, routes, conf string) (*pushpin, error) {
	for _, program := range []string{"pushpin", "condure", "zurl", "setpriv"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%s is not here: tools/peers.sh installs it", program)
		}
	}
	// Now and then its parts do not find each other: it says that it has started
	// and answers everything with 500.
	var err error
	for range 3 {
		var p *pushpin
		if p, err = tryPushpin(t, routes, conf); err == nil {
			return p, nil
		}
	}
	return nil, err
}

func tryPushpin(t *testing.T, routes, conf string) (*pushpin, error) {
	dir, err := os.MkdirTemp("", "grip") // shorter than t.TempDir: names of sockets have a limit
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &pushpin{http: kafkatest.FreePort(t), https: kafkatest.FreePort(t), publish: kafkatest.FreePort(t)}
	probe := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "ready")
	}))
	defer probe.Close()
	files := map[string]string{
		"pushpin.conf": p.conf(dir, conf),
		"routes":       "ready.test " + probe.Listener.Addr().String() + "\n" + routes + "\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	// For its sockets and certificates.
	for _, name := range []string{"run", "runner", "runner/certs"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return nil, err
		}
	}
	if err := writeCertificate(filepath.Join(dir, "runner", "certs"), fmt.Sprintf("default_%d", p.https)); err != nil {
		return nil, err
	}
	logFile, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	// Its parts outlive a runner that is killed; with its own end they end.
	cmd := exec.Command("setpriv", "--pdeathsig", "TERM", "pushpin", "--config="+filepath.Join(dir, "pushpin.conf"))
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	stop := func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(5 * time.Second):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its own group
			<-exited
		}
	}
	if err := p.ready(exited); err != nil {
		stop()
		out, _ := os.ReadFile(filepath.Join(dir, "out"))
		return nil, fmt.Errorf("pushpin: %w\n%s", err, out)
	}
	p.stats, err = watchStats(filepath.Join(dir, "run", "grip-stats"))
	if err != nil {
		stop()
		return nil, err
	}
	p.stop = func() {
		p.stats.close()
		stop()
		if out, err := os.ReadFile(filepath.Join(dir, "out")); err == nil && *only != "" {
			t.Logf("pushpin said:\n%s", out)
		}
	}
	return p, nil
}

// ready waits until all parts work together: a stream is held.
func (p *pushpin) ready(exited <-chan struct{}) error {
	var err error
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		select {
		case <-exited:
			return errors.New("it ended at once")
		default:
		}
		if err = p.get(); err == nil {
			return nil
		}
	}
	return err
}

func (p *pushpin) get() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.clients()+"/", nil)
	if err != nil {
		return err
	}
	req.Host = "ready.test"
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New("not ready: " + resp.Status)
	}
	conn, err := net.DialTimeout("tcp", p.control(), time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

// conf is Debian's, with messages out of order waiting a second only, and no
// limit of deliveries a second.
func (p *pushpin) conf(dir, more string) string {
	text := `[global]
include={libdir}/internal.conf
rundir=` + dir + `/run
ipc_prefix=grip-
port_offset=0
stats_connection_ttl=120
[runner]
services=condure,zurl,pushpin-proxy,pushpin-handler
http_port=` + p.clients() + `
https_ports=` + p.clientsByTLS() + `
logdir=` + dir + `
log_level=2
client_buffer_size=8192
client_maxconn=2000
condure_bin=condure
zurl_bin=zurl
[proxy]
routesfile=routes
debug=false
auto_cross_origin=false
accept_x_forwarded_protocol=false
set_x_forwarded_protocol=proto-only
x_forwarded_for=
x_forwarded_for_trusted=
orig_headers_need_mark=
accept_pushpin_route=false
sig_iss=pushpin
sig_key=changeme
upstream_key=
sockjs_url=http://sockjs.test/sockjs.js
updates_check=off
zurl_out_specs=ipc://{rundir}/{ipc_prefix}zurl-in
zurl_out_stream_specs=ipc://{rundir}/{ipc_prefix}zurl-in-stream
zurl_in_specs=ipc://{rundir}/{ipc_prefix}zurl-out
[handler]
push_in_spec=
push_in_sub_specs=
push_in_http_addr=127.0.0.1
push_in_http_port=` + strconv.Itoa(p.publish) + `
push_in_http_max_headers_size=10000
push_in_http_max_body_size=1000000
command_spec=ipc://{rundir}/{ipc_prefix}command
stats_spec=ipc://{rundir}/{ipc_prefix}stats
message_rate=-1
message_hwm=-1
message_wait=` + strconv.Itoa(int(messageWait.Milliseconds())) + `
id_cache_ttl=60
connection_subscription_max=20
subscription_linger=60
stats_subscription_ttl=60
stats_report_interval=10
stats_format=json
`
	for _, l := range lines(more) {
		name, _, _ := strings.Cut(l, "=")
		old := text[strings.Index(text, "\n"+name+"=")+1:]
		old, _, _ = strings.Cut(old, "\n")
		text = strings.Replace(text, old, l, 1)
	}
	return text
}

// messageWait is how long a message out of order waits.
const messageWait = 5 * time.Second
