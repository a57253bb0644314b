package properties

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/twmb/franz-go/pkg/sasl"
)

// An awsIdentity is the SASL mechanism AWS_MSK_IAM: the client sends one
// request to the service kafka-cluster, signed with the account's credentials
// but never made, and the broker checks the signature. It is a mechanism of
// our own and not kgo's, since that takes the region from the broker's name or
// the process's environment only, and brokers behind private names have
// neither.
//
// Source: github.com/aws/aws-msk-iam-auth, "Details".
type awsIdentity struct {
	region  string // empty: by the broker's name, then by the credential chain
	role    string
	profile string

	// turn holds one value, taken by whoever looks at the fields below or
	// asks for credentials.
	turn   chan struct{}
	held   aws.Credentials // kept only while they are temporary and alive
	heldIn string          // the chain's region, from when held was got
}

// awsMargin is how long credentials must still live to be used again.
const awsMargin = 5 * time.Minute

// Name is part of sasl.Mechanism.
func (*awsIdentity) Name() string { return mskName }

// Authenticate signs for one handshake with the broker at address.
func (a *awsIdentity) Authenticate(ctx context.Context, address string) (sasl.Session, []byte, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, nil, err
	}
	region := cmp.Or(a.region, regionOf(host))
	creds, chainRegion, err := a.credentials(ctx, region)
	if err != nil {
		return nil, nil, fmt.Errorf("aws credentials: %w", err)
	}
	if region = cmp.Or(region, chainRegion); region == "" {
		return nil, nil, fmt.Errorf("the name %s tells no region; set aws.region", host)
	}
	message, err := signedMessage(ctx, creds, host, region, time.Now())
	return awsSession{}, message, err
}

// An awsSession waits for the broker's one answer.
type awsSession struct{}

// Challenge is part of sasl.Session.
func (awsSession) Challenge(answer []byte) (bool, []byte, error) {
	if len(answer) == 0 {
		return false, nil, errors.New("the broker's answer is empty")
	}
	return true, nil, nil
}

// credentials asks AWS's default chain: environment, shared files, web
// identity, container and instance roles. Temporary credentials are used
// again while they live; others are read anew each time, since a changed file
// says nothing. region, when it is known, is where a role is assumed; the
// chain's own comes back.
func (a *awsIdentity) credentials(ctx context.Context, region string) (creds aws.Credentials, chainRegion string, err error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return aws.Credentials{}, "", ctx.Err()
	}
	if a.held.CanExpire && time.Until(a.held.Expires) > awsMargin {
		return a.held, a.heldIn, nil
	}
	var options []func(*awsconfig.LoadOptions) error
	if region != "" {
		options = append(options, awsconfig.WithRegion(region))
	}
	if a.profile != "" {
		options = append(options, awsconfig.WithSharedConfigProfile(a.profile))
	}
	chain, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Credentials{}, "", err
	}
	provider := chain.Credentials
	if a.role != "" {
		provider = stscreds.NewAssumeRoleProvider(sts.NewFromConfig(chain), a.role,
			func(o *stscreds.AssumeRoleOptions) { o.RoleSessionName = "spillway" })
	}
	if creds, err = provider.Retrieve(ctx); err != nil {
		return aws.Credentials{}, "", err
	}
	a.held, a.heldIn = creds, chain.Region
	return creds, chain.Region, nil
}

// signedMessage is the client's only message: the query parameters of a
// presigned request as a JSON object, names in lower case, and the version.
func signedMessage(ctx context.Context, creds aws.Credentials, host, region string, now time.Time) ([]byte, error) {
	const (
		action     = "kafka-cluster:Connect"
		service    = "kafka-cluster"
		lifeSecond = "300"
		emptyHash  = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // SHA-256 of no body
	)
	query := url.Values{"Action": {action}, "X-Amz-Expires": {lifeSecond}}
	target := url.URL{Scheme: "https", Host: host, Path: "/", RawQuery: query.Encode()}
	if strings.Contains(host, ":") {
		target.Host = "[" + host + "]"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	signed, _, err := v4.NewSigner().PresignHTTP(ctx, creds, req, emptyHash, service, region, now)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(signed)
	if err != nil {
		return nil, err
	}
	message := map[string]string{"version": "2020_10_22", "host": host, "user-agent": "spillway"}
	for name, values := range u.Query() {
		message[strings.ToLower(name)] = values[0]
	}
	return json.Marshal(message)
}

// regionOf reads the region from the name of a broker of AWS, such as
// b-1.orders.abc123.c2.kafka.eu-west-1.amazonaws.com; "" for other names.
func regionOf(host string) string {
	for _, suffix := range []string{".amazonaws.com", ".amazonaws.com.cn"} {
		if rest, ok := strings.CutSuffix(host, suffix); ok {
			return rest[strings.LastIndexByte(rest, '.')+1:]
		}
	}
	return ""
}

// resolveAWS reads the properties that begin with aws.
func (p *parser) resolveAWS(encrypted bool) *awsIdentity {
	if p.has("sasl.jaas.config") {
		p.problem("sasl.jaas.config: not understood for AWS_MSK_IAM; use aws.role.arn and aws.profile")
	}
	if !encrypted {
		p.problem("security.protocol=sasl_plaintext: a signed message read on the way is good for five minutes to anybody; AWS_MSK_IAM needs sasl_ssl")
	}
	if role := p.text("aws.role.arn"); role != "" {
		parsed, err := arn.Parse(role)
		if err != nil || !strings.HasPrefix(parsed.Resource, "role/") {
			p.problem("aws.role.arn=%s: not the ARN of a role; must be like arn:aws:iam::123456789012:role/name", cut(role))
		}
	}
	return &awsIdentity{
		region:  p.text("aws.region"),
		role:    p.text("aws.role.arn"),
		profile: p.text("aws.profile"),
		turn:    make(chan struct{}, 1),
	}
}
