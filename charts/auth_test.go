//go:build linux

package charts

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"spillway/relay/kafkatest"
)

// A pod with all that the chart has for auth starts, and knows who it lets in.
func TestPodWithAuth(t *testing.T) {
	if !kafkatest.Full() {
		t.Skip("the chart is rendered with SPILLWAY_E2E=full")
	}
	if _, err := exec.LookPath("make"); err != nil {
		kafkatest.Skip(t, "needs make: apt-get install make")
	}
	run(t, root, []string{"MAKEFLAGS=", "MAKELEVEL="}, "make", "--no-print-directory", "bin/helm")

	dir := t.TempDir()
	write := func(name string, b []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	values := write("values.yaml", []byte(`
kafka: {config: {bootstrap.servers: kafka:9092}}
settings:
  AUTH_URL: http://127.0.0.1:1/may-read
  JWT_AUDIENCE: live
  TOPIC_RULES: {"orders.*": {"filter": "value.tenant == claims.tenant"}}
secretFiles:
  JWT_KEY: {name: mine, key: jwt}
  CURSOR_KEY: {name: mine, key: cursor}
tls: {secretName: live-tls}
ingress: {enabled: true, hosts: [{host: live.example.com}]}
`))
	pod := run(t, root, nil, "bin/helm", "template", "live", "charts/spillway", "--values", values, "--show-only", "templates/deployment.yaml")

	// What Kubernetes would mount.
	write("secrets/JWT_KEY", []byte("a-secret-of-32-characters-or-more\n"))
	write("secrets/CURSOR_KEY", []byte("another-secret-of-32-characters-or-more\n"))
	s := httptest.NewTLSServer(nil)
	own := s.TLS.Certificates[0]
	s.Close()
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write("tls/tls.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]}))
	write("tls/tls.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))

	k := kafkatest.Fake(t)
	k.CreateTopic("orders", 1)
	clients, ops := freeAddr(t), freeAddr(t)
	env := []string{"HTTP_ADDR=" + clients, "CONTROL_ADDR=" + freeAddr(t), fmt.Sprintf(`KAFKA_CONSUMER_CONFIG={"bootstrap.servers":%q}`, k.Bootstrap())}
	for _, m := range regexp.MustCompile(`(?m)^ +- name: ([A-Z_]+)\n +value: (.*)$`).FindAllStringSubmatch(pod, -1) {
		name, value := m[1], m[2]
		if strings.HasPrefix(value, `"`) {
			if err := json.Unmarshal([]byte(m[2]), &value); err != nil {
				t.Fatalf("%s: %s: %v", name, m[2], err)
			}
		}
		if name == "OPS_ADDR" {
			value = ops
		}
		env = append(env, name+"="+strings.ReplaceAll(value, "/etc/spillway", dir))
	}
	for _, name := range []string{"AUTH_URL", "JWT_KEY_FILE", "CURSOR_KEY_FILE", "TLS_CERT_FILE", "TOPIC_RULES"} {
		if !strings.Contains("\n"+strings.Join(env, "\n"), "\n"+name+"=") {
			t.Errorf("the pod has no %s", name)
		}
	}

	cmd := exec.Command(build(t), "serve")
	cmd.Dir, cmd.Env = dir, env
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // a signal ends it; what it has to say is in output
	}()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	status := func(url string) int {
		resp, err := client.Get(url)
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	ready := 0
	for deadline := time.Now().Add(time.Minute); ready != http.StatusOK && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) { // between two looks
		select {
		case <-exited:
			t.Fatalf("the program ended\n%s", &output)
		default:
		}
		ready = status("http://" + ops + "/readyz")
	}
	got := status("https://" + clients + "/events/orders/")
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-exited:
	case <-time.After(time.Minute):
		_ = cmd.Process.Kill()
		<-exited
		t.Error("the program did not end after SIGTERM")
	}
	if ready != http.StatusOK || got != http.StatusUnauthorized {
		t.Errorf("/readyz: got %d, want 200; a client without a token: got %d, want 401\n%s", ready, got, &output)
	}
}
