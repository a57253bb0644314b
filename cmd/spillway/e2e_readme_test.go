package main_test

// The commands of README.md, run as they stand there, from the first to the
// last, by a shell in a clone-like directory.

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"spillway/relay/kafkatest"
)

// readme is README.md: the recipes for auth, which stand for themselves, and all
// else.
func readme(t *testing.T) (all, recipes string) {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), "\n## Auth in five minutes\n")
	recipes, after, there := strings.Cut(rest, "\n### ")
	if !ok || !there {
		t.Fatal("README.md has lost the section about auth")
	}
	return before + "\n" + after, recipes
}

// blocksOf are the blocks of a language in a README.
func blocksOf(text, language string) []string {
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)\n```$").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// A reader is somebody who follows the README.
type reader struct {
	t     *testing.T
	dir   string            // where the commands are typed
	env   []string          // beyond PATH and HOME
	ports map[string]string // what the README calls by another number
}

// adapt puts the addresses of this test into a command.
func (r *reader) adapt(command string) string {
	for from, to := range r.ports {
		command = strings.ReplaceAll(command, "localhost:"+from, "127.0.0.1:"+to)
	}
	return command
}

// shell makes a process group of its own, since make does not pass signals on.
func (r *reader) shell(command string) *exec.Cmd {
	cmd := exec.Command("bash", "-c", r.adapt(command))
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), r.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// run runs a command that ends, and returns what it prints.
func (r *reader) run(command string) string {
	r.t.Helper()
	out, err := r.shell(command).CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// start runs a command that goes on until it is stopped, or the test ends, with
// SIGINT as Ctrl-C sends it, and waits until its port answers.
func (r *reader) start(command, port string) (stop func()) {
	r.t.Helper()
	log := &logBuffer{}
	cmd := r.shell(command)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }() // ends with the process, which is ended below
	stop = sync.OnceFunc(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
		select {
		case <-done:
		case <-time.After(patience):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			r.t.Errorf("%s: does not end with Ctrl-C", command)
		}
		if r.t.Failed() {
			r.t.Logf("%s:\n%s", command, log)
		}
	})
	r.t.Cleanup(stop)
	deadline := time.Now().Add(2 * time.Minute) // it may have to build first
	for {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
			return stop
		}
		select {
		case err := <-done:
			done <- err
			r.t.Fatalf("%s: ended: %v\n%s", command, err, log)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: port %s does not answer\n%s", command, port, log)
		}
	}
}

// watch runs a command that prints for ever, until it has printed want.
func (r *reader) watch(command string, want ...string) {
	r.t.Helper()
	r.watchDuring(command, func() {}, want...)
}

// watchDuring is watch, and does something once the command has printed its
// first bytes.
func (r *reader) watchDuring(command string, do func(), want ...string) {
	r.t.Helper()
	out := &logBuffer{}
	cmd := r.shell(command)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}()
	eventually(r.t, command+": first bytes", func() (bool, string) {
		return strings.Contains(out.String(), ":ok") || len(want) > 0 && out.String() != "", out.String()
	})
	do()
	for _, w := range want {
		eventually(r.t, fmt.Sprintf("%s: prints %q", command, w), func() (bool, string) { return strings.Contains(out.String(), w), out.String() })
	}
}

func (r *reader) wantIn(command string, want ...string) {
	r.t.Helper()
	out := r.run(command)
	for _, w := range want {
		if !strings.Contains(out, w) {
			r.t.Errorf("%s: got %q, want %q in it", command, out, w)
		}
	}
}

func port(t *testing.T) string { return fmt.Sprint(kafkatest.FreePort(t)) }

func TestReadmeCommands(t *testing.T) {
	if !kafkatest.Full() {
		t.Skip("needs make, curl and kcat: SPILLWAY_E2E=full")
	}
	for _, tool := range []string{"bash", "make", "curl", "kcat"} {
		if _, err := exec.LookPath(tool); err != nil {
			kafkatest.Skip(t, tool+" is not installed")
		}
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	addresses := func(http, control string) []string {
		return []string{"HTTP_ADDR=127.0.0.1:" + http, "OPS_ADDR=127.0.0.1:" + port(t), "CONTROL_ADDR=127.0.0.1:" + control}
	}

	// Somebody in a clone, with nothing else.
	demoPort := port(t)
	demo := &reader{t: t, dir: root, env: addresses(demoPort, port(t)), ports: map[string]string{"7999": demoPort}}

	// Somebody with a Kafka; the binary is where make run has put it.
	k := kafkatest.Fake(t, kafkatest.AutoCreate(), kafkatest.Topic("test", 1))
	k.CreateTopic("payments", 1)
	k.Produce(payment("payments", 7))
	ownPort, brokerPort := port(t), k.Bootstrap()[strings.LastIndex(k.Bootstrap(), ":")+1:]
	own := &reader{t: t, dir: t.TempDir(), env: append(addresses(ownPort, port(t)), "SCHEMA_REGISTRY_URL="+schemas(t, "", "")), ports: map[string]string{"7999": ownPort, "9092": brokerPort}}
	if err := os.Symlink(filepath.Join(root, "bin"), filepath.Join(own.dir, "bin")); err != nil {
		t.Fatal(err)
	}

	// Somebody with an API that speaks GRIP.
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "test")
		fmt.Fprintln(w, ":ok")
	}))
	t.Cleanup(api.Close)
	gatewayPort, controlPort := port(t), port(t)
	gateway := &reader{
		t: t, dir: root, env: append(addresses(gatewayPort, controlPort), "GRIP_URL=http://127.0.0.1:"+controlPort),
		ports: map[string]string{"8000": api.Listener.Addr().String()[strings.LastIndex(api.Listener.Addr().String(), ":")+1:]},
	}

	const (
		curlOwn = "curl -i -N http://localhost:7999/events/test/"
		kcat    = "echo hello | kcat -P -b localhost:9092 -t test"
		publish = "bin/spillway publish test 'hello there'"
	)
	selections := `curl -N 'http://localhost:7999/events/prices/?from=earliest&key=OAKS&key=PINE&limit=2'
curl -N 'http://localhost:7999/events/orders/?from=earliest&partition=0&limit=2'
curl -N 'http://localhost:7999/events/orders/?from=earliest&header.type=paid&limit=2'
curl -NG 'http://localhost:7999/events/orders/?from=earliest&limit=2' --data-urlencode "filter=value.total > 20 && value.status != 'sent'"
curl -N 'http://localhost:7999/events/orders/?last=2&limit=2&fields=id,total'
curl -N 'http://localhost:7999/events/orders/?since=10m&until=0s'
curl -N 'http://localhost:7999/events/orders/?from=earliest&limit=2&speed=10'`
	steps := map[string]func(command string){
		"make run": func(c string) { demo.start(c, demoPort) },
		"curl -N http://localhost:7999/events/test/": func(c string) {
			demo.watch(c, ":ok\nretry: ", "event: message\nid: 1-", "data: tick ")
		},
		`echo 'KAFKA_CONSUMER_CONFIG={"bootstrap.servers":"localhost:9092","group.id":"mygroup"}' > .env`: func(c string) { own.run(c) },
		"bin/spillway check": func(c string) {
			own.wantIn(c, "configuration: ok", "kafka: cluster", "test (1 partitions)", "group mygroup")
		},
		"bin/spillway serve": func(c string) { own.start(c, ownPort) },
		curlOwn: func(c string) {
			own.watchDuring(c, func() { own.run(kcat) }, "HTTP/1.1 200 OK\r\n", "Content-Type: text/event-stream", "event: message\nid: 1-", "data: hello\n\n")
		},
		kcat: func(c string) { own.run(c) },
		"curl -N 'http://localhost:7999/events/orders/?last=3&format=envelope'": func(c string) {
			demo.watch(c, `data: {"topic":"orders","partition":`, `"value":{"id":`)
		},
		"curl -N -H 'Accept: application/x-ndjson' 'http://localhost:7999/events/orders/?from=earliest&limit=5'": func(c string) {
			if out := demo.run(c); strings.Count(out, `{"topic":"orders"`) != 5 || !strings.Contains(out, `{"type":"end","reason":"limit"`) {
				t.Errorf("%s: got %q, want five records and the end", c, out)
			}
		},
		"curl -H 'Accept: application/json' 'http://localhost:7999/events/orders/?last=2'": func(c string) {
			demo.wantIn(c, `{"events":[{"topic":"orders"`, `"id":"1-`)
		},
		"curl -D- -H 'Accept: application/cloudevents-batch+json' 'http://localhost:7999/events/orders/?last=2'": func(c string) {
			demo.wantIn(c, "Content-Type: application/cloudevents-batch+json", "Last-Event-Id: 1-", `[{"specversion":"1.0"`, `"source":"/events/orders/"`)
		},
		"curl -N 'http://localhost:7999/events/prices/?from=snapshot'": func(c string) {
			demo.watch(c, "id: 1s-", `"symbol":"OAKS"`, "event: live\nid: 1-", `data: {"replayed":`)
		},
		"curl -N 'http://localhost:7999/events/prices/?from=earliest&rate=2/s'": func(c string) {
			demo.watch(c, "event: message\nid: 1-")
		},
		selections: func(c string) {
			shown := []string{`"symbol":"(OAKS|PINE)"`, `"id":`, `"status":"paid"`, `"status":"(new|paid|packed)"`, `\{"id":\d+,"total":[\d.]+\}`, `"id":`, `"id":`}
			for i, line := range strings.Split(c, "\n") {
				out := demo.run(line)
				data := regexp.MustCompile("(?m)^data: .*"+shown[i]).FindAllString(out, -1)
				if records := strings.Count(out, "event: message\n"); records < 2 || records != len(data) || !strings.Contains(out, "event: end\n") {
					t.Errorf("%s: got %q, want records with %s, and the end", line, out, shown[i])
				}
			}
		},
		"bin/spillway tail -n 3 http://localhost:7999/events/test/": func(c string) {
			if out := demo.run(c); strings.Count(out, "tick ") != 3 {
				t.Errorf("%s: got %q, want three ticks", c, out)
			}
		},
		"curl -N 'http://localhost:7999/events/payments/?last=3&format=envelope&schema=1'": func(c string) {
			own.watch(c, `"value":{"amount":"12.50","at":"2026-05-01T13:30:00.123Z"},"schema":{"id":7}}`)
		},
		"ROUTES='* localhost:8000' bin/spillway gateway": func(c string) { gateway.start(c, gatewayPort) },
		publish: func(c string) {
			gateway.watchDuring("curl -sN http://127.0.0.1:"+gatewayPort+"/", func() { gateway.wantIn(c, "Published") }, "hello there\n")
		},
		"make test": func(string) {}, // you are looking at it
	}
	all, _ := readme(t)
	for _, command := range blocksOf(all, "sh") {
		step, ok := steps[command]
		if !ok {
			t.Errorf("README.md has a command that no test runs: %s", command)
			continue
		}
		delete(steps, command)
		step(command)
	}
	for command := range steps {
		t.Errorf("README.md has lost the command %s", command)
	}
}

// The recipes for auth, one after the other, against an API that is given there.
func TestReadmeRecipes(t *testing.T) {
	if !kafkatest.Full() {
		t.Skip("needs curl, python3 and openssl: SPILLWAY_E2E=full")
	}
	for _, tool := range []string{"bash", "curl", "python3", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			kafkatest.Skip(t, tool+" is not installed")
		}
	}
	_, recipes := readme(t)
	programs, commands := blocksOf(recipes, "python"), blocksOf(recipes, "sh")
	if len(programs) != 1 || len(commands) != 7 {
		t.Fatalf("%d programs and %d commands, want 1 and 7", len(programs), len(commands))
	}
	httpPort, apiPort := port(t), port(t)
	r := &reader{
		t: t, dir: t.TempDir(), ports: map[string]string{"7999": httpPort, "8000": apiPort},
		env: []string{"HTTP_ADDR=127.0.0.1:" + httpPort, "OPS_ADDR=127.0.0.1:" + port(t), "CONTROL_ADDR=127.0.0.1:" + port(t)},
	}
	api := strings.ReplaceAll(programs[0], `("localhost", 8000)`, `("127.0.0.1", `+apiPort+`)`)
	if err := os.WriteFile(filepath.Join(r.dir, "api.py"), []byte(api), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(r.dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(bin, filepath.Join(r.dir, "bin", "spillway")); err != nil {
		t.Fatal(err)
	}
	status := func(want, path string, header ...string) {
		t.Helper()
		resp, body := fetch(t, "http://127.0.0.1:"+httpPort+path, header...)
		if got := fmt.Sprint(resp.StatusCode); got != want {
			t.Errorf("GET %s with %q: got %s %q, want %s", path, header, got, body, want)
		}
	}
	const ann = "Authorization: Bearer ann"

	r.start(commands[0], apiPort)
	stop := r.start(commands[1], httpPort)
	r.watch(commands[2], "event: message\nid: 1-", `"status":"paid"`)
	if out := r.run(strings.Replace(commands[2], "/orders/", "/orders/?last=5\\&limit=5", 1)); strings.Count(out, `"status":"paid"`) != 5 {
		t.Errorf("ann gets %s, want 5 orders that are paid", out)
	}
	status("404", "/events/prices/", ann)
	status("404", "/events/none/", ann)
	status("401", "/events/orders/")
	stop()

	stop = r.start(commands[3], httpPort)
	r.watch(commands[4], "event: message\nid: 1-", `"status":`)
	r.run(strings.NewReplacer("curl -N", "! curl -sf", "/orders/", "/prices/").Replace(commands[4]))
	status("401", "/events/orders/")
	status("401", "/events/orders/?access_token=abc")
	stop()

	stop = r.start(commands[5], httpPort)
	r.watch(commands[6], "event: message\nid: 1-", `"status":`)
	status("401", "/events/orders/")
	stop()
}
