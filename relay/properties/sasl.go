package properties

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// The mechanisms that sasl.mechanism can name.
const (
	plainName    = "PLAIN"
	scram256Name = "SCRAM-SHA-256"
	scram512Name = "SCRAM-SHA-512"
	oauthName    = "OAUTHBEARER"
	mskName      = "AWS_MSK_IAM"
	gssapiName   = "GSSAPI"
)

// credentials are the properties that may change while we run, because they
// stand in a mounted Secret: of PLAIN and SCRAM the user and password, of OIDC
// the client's id and secret.
type credentials struct{ user, password string }

// An auth proves to brokers who we are. It holds what its clients share, such
// as a token, for as long as the Properties live.
type auth struct {
	mechanismName string
	tokens        *tokenCache     // OAUTHBEARER by OIDC
	unsecured     *unsecuredToken // OAUTHBEARER without a signature
	aws           *awsIdentity    // AWS_MSK_IAM

	reread func() (credentials, error) // nil, or where to look for fresh ones

	mu    sync.Mutex
	given credentials // guarded by mu
}

// current returns the credentials as they are now, or were when they last
// could be read.
func (a *auth) current(log *slog.Logger) credentials {
	var (
		fresh credentials
		err   error
	)
	if a.reread != nil {
		if fresh, err = a.reread(); err != nil {
			log.Warn("kafka sasl: the last good credentials are used", "error", err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.reread != nil && err == nil {
		a.given = fresh
	}
	return a.given
}

// Reread names the source of Parse's fileJSON, such as a mounted Secret. From
// then on the user name, password, client id and client secret are read from
// it again whenever a connection authenticates. Other properties stay as they
// are. It must be called before ClientOpts.
func (p *Properties) Reread(file func() ([]byte, error)) {
	if p.auth == nil {
		return
	}
	var (
		mu   sync.Mutex
		last []byte      // guarded by mu
		got  credentials // guarded by mu; what last came to
	)
	p.auth.reread = func() (credentials, error) {
		data, err := file()
		if err != nil {
			return credentials{}, err
		}
		mu.Lock()
		defer mu.Unlock()
		if last != nil && bytes.Equal(last, data) {
			return got, nil
		}
		fresh, err := Parse(data, p.fromEnv, p.groupNeeded)
		if err != nil {
			return credentials{}, err
		}
		if fresh.auth == nil || fresh.auth.mechanismName != p.auth.mechanismName {
			return credentials{}, errors.New("sasl.mechanism: has changed; restart to use another")
		}
		last, got = bytes.Clone(data), fresh.auth.given
		return got, nil
	}
}

// mechanism is what the client library uses for every connection.
func (a *auth) mechanism(log *slog.Logger) sasl.Mechanism {
	scrams := func(context.Context) (scram.Auth, error) {
		c := a.current(log)
		return scram.Auth{User: c.user, Pass: c.password}, nil
	}
	switch a.mechanismName {
	case plainName:
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			c := a.current(log)
			return plain.Auth{User: c.user, Pass: c.password}, nil
		})
	case scram256Name:
		return scram.Sha256(scrams)
	case scram512Name:
		return scram.Sha512(scrams)
	case mskName:
		return a.aws
	default: // OAUTHBEARER; resolveSASL lets no other pass
		return oauth.Oauth(func(ctx context.Context) (oauth.Auth, error) {
			if a.unsecured != nil {
				return a.unsecured.auth()
			}
			return a.tokens.auth(ctx, a.current(log), log)
		})
	}
}

// resolveSASL reads everything that begins with sasl.
func (p *parser) resolveSASL(encrypted bool) *auth {
	const mechanism = "sasl.mechanism"
	out := &auth{mechanismName: p.text(mechanism)}
	if !p.sound(mechanism) {
		return nil
	}
	if t := "sasl.oauthbearer.metadata.authentication.type"; p.text(t) == "aws_iam" && out.mechanismName == oauthName {
		out.mechanismName = mskName
		p.becomes(t, "sasl.mechanism=AWS_MSK_IAM")
	}
	p.unusedSASL(out.mechanismName)
	switch out.mechanismName {
	case "":
		// librdkafka would fall back to GSSAPI here.
		p.problem("%s: missing, and security.protocol is %s; must be %s", mechanism, p.text("security.protocol"), mechanisms)
	case gssapiName:
		p.problem("%s=GSSAPI: Kerberos is not built in; must be %s", mechanism, mechanisms)
	case plainName, scram256Name, scram512Name:
		out.given = p.userAndPassword(out.mechanismName)
		if out.mechanismName == plainName && !encrypted {
			p.warn("security.protocol=sasl_plaintext: with PLAIN the password travels readable for everybody on the way; use sasl_ssl")
		}
	case oauthName:
		p.resolveOAuth(out, encrypted)
	case mskName:
		out.aws = p.resolveAWS(encrypted)
	}
	return out
}

const mechanisms = plainName + ", " + scram256Name + ", " + scram512Name + ", " + oauthName + " or " + mskName

// unusedSASL warns of properties that another mechanism would use.
func (p *parser) unusedSASL(mechanism string) {
	prefixes := map[string][]string{
		plainName:    {"sasl.username", "sasl.password", "sasl.jaas.config"},
		scram256Name: {"sasl.username", "sasl.password", "sasl.jaas.config"},
		scram512Name: {"sasl.username", "sasl.password", "sasl.jaas.config"},
		oauthName:    {"sasl.oauthbearer.", "enable.sasl.oauthbearer.", "https.ca.", "sasl.jaas.config"},
		mskName:      {"aws.", "sasl.oauthbearer.metadata.", "sasl.oauthbearer.method", "sasl.jaas.config"},
	}[mechanism]
	if prefixes == nil {
		return // there is an error about it already
	}
	for _, prop := range authenticating {
		p.unused(prop.name, mechanism, prefixes)
	}
	for _, name := range []string{"https.ca.location", "https.ca.pem"} {
		p.unused(name, mechanism, prefixes)
	}
}

func (p *parser) unused(name, mechanism string, prefixes []string) {
	v := p.values[name]
	if v == nil || name == "sasl.mechanism" || v.text == "" || v.text == v.prop.def ||
		v.status == Ignored || v.status == Warned || v.status == refused {
		return
	}
	for _, prefix := range prefixes {
		if strings.HasPrefix(name, prefix) {
			return
		}
	}
	v.status, v.effective = Warned, fmt.Sprintf("– (the mechanism is %s)", mechanism)
	p.warn("%s: not used by the mechanism %s", name, mechanism)
}

// userAndPassword reads the credentials of PLAIN and SCRAM, as properties or
// in Java's sasl.jaas.config.
func (p *parser) userAndPassword(mechanism string) credentials {
	const user, password, jaas = "sasl.username", "sasl.password", "sasl.jaas.config"
	c := credentials{p.text(user), p.text(password)}
	if p.has(jaas) {
		fromJAAS, err := parseJAAS(p.text(jaas), mechanism)
		if err != nil {
			p.problem("%s: %w", jaas, err)
			return c
		}
		if p.has(user) && c.user != fromJAAS.user || p.has(password) && c.password != fromJAAS.password {
			p.problem("%s: contradicts %s or %s; keep one of the two ways", jaas, user, password)
		}
		return fromJAAS
	}
	if c.user == "" && p.sound(user) {
		p.problem("%s: missing; %s needs one", user, mechanism)
	}
	if c.password == "" && p.sound(password) {
		p.problem("%s: missing; %s needs one", password, mechanism)
	}
	return c
}
