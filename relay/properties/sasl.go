package properties

import (
	"log/slog"

	"github.com/twmb/franz-go/pkg/sasl"
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

type auth struct{}

func (*auth) mechanism(log *slog.Logger) sasl.Mechanism { return nil }

func (p *parser) resolveSASL(encrypted bool) *auth {
	p.problem("security.protocol: SASL is not there yet")
	return nil
}
