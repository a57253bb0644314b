package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"spillway/grip/secret"
	"spillway/relay"
)

// Config is what the program itself reads from the environment. The relay and
// the gateway have their own.
type Config struct {
	// OpsAddr serves /metrics, /livez and /readyz, host:port. Empty turns it
	// off. It is for operators only; keep it private. Web pages are refused, and so
	// on a loopback address is a Host that is no IP address and not localhost.
	OpsAddr string `envconfig:"OPS_ADDR" default:"127.0.0.1:9464"`

	// Debug adds /debug/pprof/ to OPS_ADDR.
	Debug bool `envconfig:"DEBUG" default:"false"`

	// LogLevel is the least that is logged: debug, info, warn or error.
	LogLevel slog.Level `envconfig:"LOG_LEVEL" default:"info"`

	// LogFormat is how lines are logged: text or json. Not set, it is text on
	// a terminal and json elsewhere.
	LogFormat string `envconfig:"LOG_FORMAT"`

	// DrainDelay is how long everything goes on as before after SIGTERM, with
	// /readyz saying 503, so that load balancers look away. Part of
	// DRAIN_TIMEOUT.
	DrainDelay time.Duration `envconfig:"DRAIN_DELAY" default:"0s"`

	// DrainTimeout is how long stopping may take after SIGTERM. Connections
	// are asked to come back elsewhere, spread over this time. 1s to 1h.
	DrainTimeout time.Duration `envconfig:"DRAIN_TIMEOUT" default:"30s"`

	// Secrets are what files of secrets hold, read again when they change.
	Secrets *secret.Source `ignored:"true"`
}

// Validate reports everything that is wrong, not only the first thing.
func (c *Config) Validate() error {
	var errs []error
	bad := func(env string, got any, want string) {
		errs = append(errs, fmt.Errorf("%s=%v: %s", env, got, want))
	}
	if c.OpsAddr != "" {
		if _, _, err := net.SplitHostPort(c.OpsAddr); err != nil {
			bad("OPS_ADDR", c.OpsAddr, "write host:port, such as 127.0.0.1:9464 or :9464")
		}
	}
	switch c.LogFormat {
	case "", logText, logJSON:
	default:
		bad("LOG_FORMAT", c.LogFormat, "must be text or json")
	}
	if d := c.DrainTimeout; d < time.Second || d > time.Hour {
		bad("DRAIN_TIMEOUT", d, "must be between 1s and 1h")
	}
	if d := c.DrainDelay; d < 0 || d >= c.DrainTimeout {
		bad("DRAIN_DELAY", d, fmt.Sprintf("must be at least 0s, and less than DRAIN_TIMEOUT (%v)", c.DrainTimeout))
	}
	return errors.Join(errs...)
}

// complete fills what a Config struct leaves to the wiring, before it is
// validated, and returns what is wrong.
func (p *process) complete(spec any) []error {
	c, ok := spec.(*relay.Config)
	if !ok || c.KafkaConsumerConfigFile == "" {
		return nil
	}
	text, err := p.readFile(c.KafkaConsumerConfigFile)
	if err != nil {
		return []error{fmt.Errorf("KAFKA_CONSUMER_CONFIG_FILE: %w", err)}
	}
	c.KafkaConsumerConfigJSON = text
	return nil
}

// A setting is one row of the table of variables (config_table.go).
type setting struct {
	part  string // heading: which part of the program reads it
	name  string
	deflt string // as written in the environment; empty for none
	twin  bool   // NAME_FILE may name a file instead
	doc   string // one paragraph
}
