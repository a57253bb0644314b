// Package tools tests what is written for other programs than Go, with those
// programs' own libraries, so that the product's go.mod stays small.
package tools

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// loadCompose reads docker-compose.kafka.yml as docker compose does: schema,
// interpolation without any variable set, references between services.
func loadCompose(t *testing.T) *types.Project {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	project, err := loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  root,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(root, "docker-compose.kafka.yml")}},
		Environment: types.Mapping{},
	})
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestComposeStartsInOrder(t *testing.T) {
	project := loadCompose(t)
	if got, want := strings.Join(project.ServiceNames(), " "), "kafka sample spillway"; got != want {
		t.Fatalf("got services %q, want %q", got, want)
	}
	for _, name := range []string{"sample", "spillway"} {
		if got := project.Services[name].DependsOn["kafka"].Condition; got != types.ServiceConditionHealthy {
			t.Errorf("%s starts when kafka is %q, want %q", name, got, types.ServiceConditionHealthy)
		}
	}
	for _, name := range []string{"kafka", "spillway"} {
		if h := project.Services[name].HealthCheck; h == nil || h.Disable || len(h.Test) == 0 {
			t.Errorf("%s: no healthcheck", name)
		}
	}
}

// Nothing here asks for a password, so nothing may be reachable from elsewhere.
func TestComposeBindsToLoopback(t *testing.T) {
	want := map[string]string{"kafka": "127.0.0.1:9092:9092", "spillway": "127.0.0.1:7999:7999", "sample": ""}
	for name, service := range loadCompose(t).Services {
		var got []string
		for _, p := range service.Ports {
			got = append(got, strings.Join([]string{p.HostIP, p.Published, strconv.FormatUint(uint64(p.Target), 10)}, ":"))
		}
		if got := strings.Join(got, " "); got != want[name] {
			t.Errorf("%s publishes %q, want %q", name, got, want[name])
		}
	}
}

// A client connects to the address that the broker tells it, so what Spillway
// and the sample are given must be what the broker advertises to containers.
func TestComposeAddressesAgree(t *testing.T) {
	project := loadCompose(t)
	env := func(service, name string) string {
		v := project.Services[service].Environment[name]
		if v == nil {
			t.Fatalf("%s: %s is not set", service, name)
		}
		return *v
	}
	advertised := map[string]string{}
	for _, l := range strings.Split(env("kafka", "KAFKA_ADVERTISED_LISTENERS"), ",") {
		name, addr, ok := strings.Cut(l, "://")
		if !ok {
			t.Fatalf("KAFKA_ADVERTISED_LISTENERS: %q is no listener", l)
		}
		advertised[name] = addr
	}
	if got, want := advertised["HOST"], "localhost:9092"; got != want {
		t.Errorf("programs on this machine are told %q, want %q", got, want)
	}
	inside := advertised["INTERNAL"]
	if host, _, _ := strings.Cut(inside, ":"); host != "kafka" {
		t.Errorf("containers are told %q, want the name of the service", inside)
	}

	var consumer map[string]string
	if err := json.Unmarshal([]byte(env("spillway", "KAFKA_CONSUMER_CONFIG")), &consumer); err != nil {
		t.Fatalf("KAFKA_CONSUMER_CONFIG: %v", err)
	}
	if got := consumer["bootstrap.servers"]; got != inside {
		t.Errorf("spillway is given %q, want %q", got, inside)
	}
	sample := strings.Join(project.Services["sample"].Command, " ")
	if got, want := strings.Count(sample, "--bootstrap-server "+inside), strings.Count(sample, ".sh"); got != want {
		t.Errorf("%d of %d commands of sample connect to %s", got, want, inside)
	}
	if got := strings.Join(project.Services["kafka"].HealthCheck.Test, " "); !strings.Contains(got, inside) {
		t.Errorf("the healthcheck does not ask %s, where the others connect", inside)
	}

	// Each advertised listener listens, on the same port.
	for _, l := range strings.Split(env("kafka", "KAFKA_LISTENERS"), ",") {
		name, addr, _ := strings.Cut(l, "://")
		if a, ok := advertised[name]; ok && a[strings.LastIndex(a, ":"):] != addr[strings.LastIndex(addr, ":"):] {
			t.Errorf("%s listens on %s and advertises %s", name, addr, a)
		}
		if !strings.Contains(env("kafka", "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"), name+":PLAINTEXT") {
			t.Errorf("%s has no protocol", name)
		}
	}
}

// The sample's shell must see its own variables, not compose's.
func TestComposeLeavesShellVariablesAlone(t *testing.T) {
	sample := strings.Join(loadCompose(t).Services["sample"].Command, " ")
	for _, want := range []string{"$(seq ", "$((i % 7))", "hello $i"} {
		if !strings.Contains(sample, want) {
			t.Errorf("the sample's command does not contain %q:\n%s", want, sample)
		}
	}
	if !strings.Contains(sample, "--topic test") {
		t.Errorf("the sample does not fill the topic test:\n%s", sample)
	}
}

// The tests run against the Kafka that people are given here.
func TestComposeRunsTheTestedKafka(t *testing.T) {
	pom, err := os.ReadFile("../testdata/kafka/pom.xml")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`<kafka\.version>(.*)</kafka\.version>`).FindSubmatch(pom)
	if m == nil {
		t.Fatal("testdata/kafka/pom.xml names no kafka.version")
	}
	project := loadCompose(t)
	for _, name := range []string{"kafka", "sample"} {
		if got, want := project.Services[name].Image, "apache/kafka:"+string(m[1]); got != want {
			t.Errorf("%s: got image %s, want %s", name, got, want)
		}
	}
}

func TestComposeLetsSpillwayDrain(t *testing.T) {
	s := loadCompose(t).Services["spillway"]
	if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) <= 30*time.Second {
		t.Errorf("got stop_grace_period %v, want more than DRAIN_TIMEOUT, 30s", s.StopGracePeriod)
	}
	if s.Build == nil {
		t.Fatal("spillway is not built from here")
	}
	if _, err := os.Stat(filepath.Join(s.Build.Context, "Dockerfile")); err != nil {
		t.Errorf("build context: %v", err)
	}
	if !s.ReadOnly || strings.Join(s.CapDrop, " ") != "ALL" {
		t.Errorf("got read_only=%v cap_drop=%v, want the fence that the chart has", s.ReadOnly, s.CapDrop)
	}
}
