package properties

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
)

// A tokenCache gets tokens from an OpenID provider by client credentials (RFC
// 6749, 4.4) and keeps one until 80 % of its life is over, so that a thousand
// connections do not ask a thousand times. Safe for any goroutine.
type tokenCache struct {
	endpoint   string
	scope      string
	extensions map[string]string
	roots      *material[*x509.CertPool] // nil: the system's

	// turn holds one value, taken by whoever looks at the fields below or
	// asks for a new token. A channel, since a wait for it must end with the
	// context.
	turn    chan struct{}
	token   string
	by      credentials // whose it is
	renewAt time.Time
	endsAt  time.Time
}

// tokenTimeout bounds one request for a token.
const tokenTimeout = 30 * time.Second

// maxTokenBytes bounds the answer of the token endpoint.
const maxTokenBytes = 1 << 20

// client is made anew for each token, which is seldom, so that a renewed
// authority on disk is seen.
func (c *tokenCache) client(log *slog.Logger) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if c.roots != nil {
		transport.TLSClientConfig.RootCAs = c.roots.latest(log)
	}
	return &http.Client{
		Transport: transport,
		Timeout:   tokenTimeout,
		// A token endpoint does not move, and its answer must not send our
		// secret to another place.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// auth returns what one connection authenticates with. When the provider
// cannot be asked, a token that is still alive goes on being used.
func (c *tokenCache) auth(ctx context.Context, by credentials, log *slog.Logger) (oauth.Auth, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return oauth.Auth{}, ctx.Err()
	}
	if now := time.Now(); c.token == "" || c.by != by || !now.Before(c.renewAt) {
		token, life, err := c.fetch(ctx, by, log)
		switch {
		case err == nil:
			c.token, c.by = token, by
			c.renewAt, c.endsAt = now.Add(life/5*4), now.Add(life)
		case c.token != "" && c.by == by && time.Now().Before(c.endsAt):
			log.Warn("kafka sasl: the last token is used", "endpoint", c.endpoint, "error", err)
		default:
			return oauth.Auth{}, fmt.Errorf("token from %s: %w", c.endpoint, err)
		}
	}
	return oauth.Auth{Token: c.token, Extensions: c.extensions}, nil
}

// fetch asks for one token and says how long it lives, 0 if nobody knows.
func (c *tokenCache) fetch(ctx context.Context, by credentials, log *slog.Logger) (token string, life time.Duration, err error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	if c.scope != "" {
		form.Set("scope", c.scope)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	// Not form-encoded first, as RFC 6749, 2.3.1 wants: librdkafka and Java
	// (by default) send them as they are, and providers expect that.
	req.SetBasicAuth(by.user, by.password)
	resp, err := c.client(log).Do(req)
	if err != nil {
		var outer *url.Error // it repeats method and URL
		if errors.As(err, &outer) {
			err = outer.Err
		}
		return "", 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenBytes))
	if err != nil {
		return "", 0, err
	}
	return readToken(resp.StatusCode, resp.Header.Get("Content-Type"), body)
}

// readToken reads an answer of the token endpoint (RFC 6749, 5.1 and 5.2).
func readToken(status int, contentType string, body []byte) (token string, life time.Duration, err error) {
	var answer struct {
		AccessToken      string      `json:"access_token"`
		ExpiresIn        json.Number `json:"expires_in"`
		Error            string      `json:"error"`
		ErrorDescription string      `json:"error_description"`
	}
	parseErr := json.Unmarshal(body, &answer)
	if status != http.StatusOK {
		if parseErr == nil && answer.Error != "" {
			return "", 0, fmt.Errorf("status %d: %s %s", status, cut(answer.Error), cut(answer.ErrorDescription))
		}
		return "", 0, fmt.Errorf("status %d", status)
	}
	if parseErr != nil {
		kind, _, _ := mime.ParseMediaType(contentType)
		return "", 0, fmt.Errorf("the answer is not the JSON of a token but %q", cut(kind))
	}
	if answer.AccessToken == "" {
		return "", 0, errors.New("the answer holds no access_token")
	}
	if strings.ContainsFunc(answer.AccessToken, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", 0, errors.New("the access_token holds bytes that no token may")
	}
	if seconds, err := answer.ExpiresIn.Float64(); err == nil && seconds > 0 {
		return answer.AccessToken, time.Duration(min(seconds, day/1000) * float64(time.Second)), nil
	}
	// Not said: a JWT says it itself. Its signature is the broker's affair.
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(answer.AccessToken, &claims); err == nil && claims.ExpiresAt != nil {
		return answer.AccessToken, max(time.Until(claims.ExpiresAt.Time), 0), nil
	}
	return answer.AccessToken, 0, nil
}

// resolveOAuth reads what OAUTHBEARER needs.
func (p *parser) resolveOAuth(out *auth, encrypted bool) {
	const prefix = "sasl.oauthbearer."
	if !encrypted {
		p.warn("security.protocol=sasl_plaintext: with OAUTHBEARER the token travels readable for everybody on the way; use sasl_ssl")
	}
	if p.has("sasl.jaas.config") {
		p.problem("sasl.jaas.config: not understood for OAUTHBEARER; use %smethod=oidc and the properties beside it", prefix)
	}
	if p.text(prefix+"metadata.authentication.type") == "azure_imds" {
		p.problem("%smetadata.authentication.type=azure_imds: not built in; use %smethod=oidc with a client id and secret", prefix, prefix)
		return
	}
	if p.text(prefix+"grant.type") != "client_credentials" {
		p.problem("%sgrant.type: %s", prefix, assertionNote)
	}
	extensions := p.extensions()
	if p.text(prefix+"method") == "default" {
		p.resolveUnsecured(out, extensions)
		return
	}
	if p.on("enable.sasl.oauthbearer.unsecure.jwt") {
		p.problem("enable.sasl.oauthbearer.unsecure.jwt=true: contradicts %smethod=oidc; keep one", prefix)
	}
	out.given = credentials{p.text(prefix + "client.id"), p.text(prefix + "client.secret")}
	for _, name := range []string{"client.id", "client.secret", "token.endpoint.url"} {
		if !p.has(prefix+name) && p.sound(prefix+name) {
			p.problem("%s%s: missing; %smethod=oidc needs it", prefix, name, prefix)
		}
	}
	endpoint := p.text(prefix + "token.endpoint.url")
	if endpoint != "" {
		p.checkEndpoint(prefix+"token.endpoint.url", endpoint)
	}
	out.tokens = &tokenCache{
		endpoint: endpoint, scope: p.text(prefix + "scope"), extensions: extensions,
		turn: make(chan struct{}, 1),
	}
	if p.exclusive("https.ca.location", "https.ca.pem") < 2 {
		out.tokens.roots = p.authorities("https.ca.location", "https.ca.pem")
	}
}

// checkEndpoint wants an absolute URL, and warns where the secret would
// travel unencrypted.
func (p *parser) checkEndpoint(name, endpoint string) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		p.problem("%s: not an http or https URL; must be one such as https://idp.example.com/oauth/token", name)
		return
	}
	if u.User != nil {
		p.problem("%s: holds a user name; must be without, the client id and secret are properties of their own", name)
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		p.warn("%s=%s: the client secret travels readable for everybody on the way; use https", name, u.Redacted())
	}
}

// extensions reads sasl.oauthbearer.extensions, key=value,key=value, as RFC
// 7628, 3.1 allows them.
func (p *parser) extensions() map[string]string {
	const name = "sasl.oauthbearer.extensions"
	out := map[string]string{}
	for _, item := range p.items(name) {
		key, value, ok := strings.Cut(item, "=")
		if why := extensionProblem(key, value); !ok || why != "" {
			p.problem("%s: %q is no extension; must be key=value, the key of letters only and not auth", name, cut(key))
			continue
		}
		if _, twice := out[key]; twice {
			p.problem("%s: %q is there twice; keep one", name, cut(key))
		}
		out[key] = value
	}
	return out
}

func extensionProblem(key, value string) string {
	notLetter := func(r rune) bool { return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z') }
	notVisible := func(r rune) bool { return (r < ' ' || r > '~') && r != '\t' && r != '\r' && r != '\n' }
	switch {
	case key == "" || strings.ContainsFunc(key, notLetter):
		return "the key must be of letters"
	case key == "auth":
		return "the key auth is the token's own"
	case strings.ContainsFunc(value, notVisible):
		return "the value must be of visible characters"
	}
	return ""
}

// An unsecuredToken makes tokens without a signature (RFC 7519, 6), which
// brokers accept only when somebody has opened them for development.
type unsecuredToken struct {
	claims     map[string]any
	life       time.Duration
	extensions map[string]string
}

func (u *unsecuredToken) auth() (oauth.Auth, error) {
	claims := map[string]any{}
	for k, v := range u.claims {
		claims[k] = v
	}
	now := time.Now()
	claims["iat"], claims["exp"] = now.Unix(), now.Add(u.life).Unix()
	body, err := json.Marshal(claims)
	if err != nil {
		return oauth.Auth{}, err
	}
	encode := base64.RawURLEncoding.EncodeToString
	return oauth.Auth{Token: encode([]byte(`{"alg":"none"}`)) + "." + encode(body) + ".", Extensions: u.extensions}, nil
}

// resolveUnsecured reads sasl.oauthbearer.config: blank-separated principal=,
// principalClaimName=, scope=, scopeClaimName=, lifeSeconds= and extension_*=.
func (p *parser) resolveUnsecured(out *auth, extensions map[string]string) {
	const enable, config = "enable.sasl.oauthbearer.unsecure.jwt", "sasl.oauthbearer.config"
	if !p.on(enable) {
		p.problem("sasl.oauthbearer.method: default needs a function of the program's own; set it to oidc")
		return
	}
	p.warn("%s=true: ANYONE CAN POSE AS ANYONE at a broker that accepts such tokens; for development only", enable)
	token := &unsecuredToken{claims: map[string]any{}, life: time.Hour, extensions: extensions}
	principal, principalClaim, scopeClaim := "", "sub", "scope"
	var scope []string
	for _, option := range strings.Fields(p.text(config)) {
		name, value, _ := strings.Cut(option, "=")
		extension, isExtension := strings.CutPrefix(name, "extension_")
		switch {
		case value == "":
			p.problem("%s: %q has no value; must be name=value", config, cut(name))
		case name == "principal":
			principal = value
		case name == "principalClaimName":
			principalClaim = value
		case name == "scopeClaimName":
			scopeClaim = value
		case name == "scope":
			scope = nonBlank(strings.Split(value, ","))
		case name == "lifeSeconds":
			n, ok := whole(value)
			if !ok || n < 1 || n > day/1000 {
				p.problem("%s: lifeSeconds must be from 1 to %d", config, day/1000)
			}
			token.life = time.Duration(n) * time.Second
		case isExtension && extensionProblem(extension, value) == "":
			extensions[extension] = value
		default:
			p.problem("%s: %q is not understood; must be principal, principalClaimName, scope, scopeClaimName, lifeSeconds or extension_NAME", config, cut(name))
		}
	}
	if principal == "" {
		p.problem("%s: no principal; must hold principal=NAME", config)
	}
	if len(scope) > 0 {
		token.claims[scopeClaim] = scope
	}
	token.claims[principalClaim] = principal
	out.unsecured = token
}
