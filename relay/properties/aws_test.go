package properties

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	kgoaws "github.com/twmb/franz-go/pkg/sasl/aws"
)

// isolateAWS leaves nothing of the machine's own credentials.
func isolateAWS(t *testing.T) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "") // remembers the old value
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := t.TempDir()
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "config"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(dir, "credentials"))
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

// handshake is the message for a broker, taken apart.
func handshake(t *testing.T, p *Properties, broker string) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	session, message, err := p.auth.mechanism(quiet).Authenticate(ctx, broker)
	if err != nil {
		t.Fatal(err)
	}
	if done, _, err := session.Challenge([]byte(`{"version":"2020_10_22"}`)); !done || err != nil {
		t.Errorf("challenge: got %v, %v", done, err)
	}
	if _, _, err := session.Challenge(nil); err == nil {
		t.Error("an empty challenge passes")
	}
	var out map[string]string
	if err := json.Unmarshal(message, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

const msk = `"security.protocol":"sasl_ssl","sasl.mechanism":"AWS_MSK_IAM"`

// TestSignedMessage holds our message against that of the client library,
// which is independent of ours down to the hashing, at the same instant.
func TestSignedMessage(t *testing.T) {
	for _, token := range []string{"", "session+token/with=signs"} {
		synctest.Test(t, func(t *testing.T) {
			const host = "b-1.orders.abc123.c2.kafka.eu-west-1.amazonaws.com"
			_, raw, err := kgoaws.Auth{AccessKey: "AKIDEXAMPLE", SecretKey: "secret/key", SessionToken: token, UserAgent: "spillway"}.
				AsManagedStreamingIAMMechanism().Authenticate(t.Context(), host+":9098")
			if err != nil {
				t.Fatal(err)
			}
			ours, err := signedMessage(t.Context(), aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "secret/key", SessionToken: token}, host, regionOf(host), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			var got, want map[string]string
			if err := json.Unmarshal(ours, &got); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(raw, &want); err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

func TestAWSRegion(t *testing.T) {
	isolateAWS(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	region := func(properties, broker string) string {
		t.Helper()
		return strings.Split(handshake(t, parse(t, "{"+msk+properties+"}"), broker)["x-amz-credential"], "/")[2]
	}
	if got := region(``, "b-1.x.kafka.eu-west-1.amazonaws.com:9098"); got != "eu-west-1" {
		t.Errorf("by name: got %s", got)
	}
	if got := region(``, "b-1.x.kafka.cn-north-1.amazonaws.com.cn:9098"); got != "cn-north-1" {
		t.Errorf("by name in China: got %s", got)
	}
	if got := region(`,"aws.region":"us-east-2"`, "kafka.internal:9098"); got != "us-east-2" {
		t.Errorf("by property: got %s", got)
	}
	if got := region(`,"aws.region":"us-east-2"`, "b-1.x.kafka.eu-west-1.amazonaws.com:9098"); got != "us-east-2" {
		t.Errorf("the property wins: got %s", got)
	}
	_, _, err := parse(t, "{"+msk+"}").auth.mechanism(quiet).Authenticate(t.Context(), "kafka.internal:9098")
	if err == nil || !strings.Contains(err.Error(), "set aws.region") {
		t.Errorf("no region: got %v", err)
	}
	t.Setenv("AWS_REGION", "ap-south-1")
	if got := region(``, "kafka.internal:9098"); got != "ap-south-1" {
		t.Errorf("by environment: got %s", got)
	}
}

func TestAWSCredentials(t *testing.T) {
	isolateAWS(t)
	p := parse(t, "{"+msk+`,"aws.region":"eu-west-1"}`)
	const broker = "kafka.internal:9098"
	if _, _, err := p.auth.mechanism(quiet).Authenticate(t.Context(), broker); err == nil || !strings.Contains(err.Error(), "aws credentials") {
		t.Errorf("nothing there: got %v", err)
	}
	// Static ones are read anew for every handshake.
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDFIRST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_SESSION_TOKEN", "session")
	message := handshake(t, p, broker)
	if got := message["x-amz-credential"]; !strings.HasPrefix(got, "AKIDFIRST/") || !strings.HasSuffix(got, "/eu-west-1/kafka-cluster/aws4_request") {
		t.Errorf("got %s", got)
	}
	for name, want := range map[string]string{
		"version": "2020_10_22", "host": "kafka.internal", "user-agent": "spillway", "action": "kafka-cluster:Connect",
		"x-amz-algorithm": "AWS4-HMAC-SHA256", "x-amz-expires": "300", "x-amz-signedheaders": "host", "x-amz-security-token": "session",
	} {
		if message[name] != want {
			t.Errorf("%s: got %q, want %q", name, message[name], want)
		}
	}
	if len(message["x-amz-signature"]) != 64 || message["x-amz-date"] == "" || len(message) != 11 {
		t.Errorf("got %v", message)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDSECOND")
	if got := handshake(t, p, broker)["x-amz-credential"]; !strings.HasPrefix(got, "AKIDSECOND/") {
		t.Errorf("after a change: got %s", got)
	}
	// A profile of the shared file.
	if err := os.WriteFile(os.Getenv("AWS_SHARED_CREDENTIALS_FILE"), []byte("[web]\naws_access_key_id=AKIDPROFILE\naws_secret_access_key=s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p = parse(t, "{"+msk+`,"aws.region":"eu-west-1","aws.profile":"web"}`)
	if got := handshake(t, p, broker)["x-amz-credential"]; !strings.HasPrefix(got, "AKIDPROFILE/") {
		t.Errorf("profile: got %s", got)
	}
	// OAUTHBEARER with the metadata type is the same thing.
	p = parse(t, `{"security.protocol":"sasl_ssl","sasl.mechanism":"OAUTHBEARER","sasl.oauthbearer.method":"oidc","sasl.oauthbearer.metadata.authentication.type":"aws_iam","aws.region":"eu-west-1"}`)
	if got := p.auth.mechanism(quiet).Name(); got != "AWS_MSK_IAM" {
		t.Errorf("got %s", got)
	}
	if got := handshake(t, p, broker)["x-amz-credential"]; !strings.HasPrefix(got, "AKIDSECOND/") {
		t.Errorf("metadata type: got %s", got)
	}
}

// An assumed role's credentials are temporary: used again while they live,
// asked for anew before they end.
func TestAWSRole(t *testing.T) {
	isolateAWS(t)
	asked := 0
	ends := time.Now().Add(time.Hour)
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if err := r.ParseForm(); err != nil || r.Form.Get("Action") != "AssumeRole" || r.Form.Get("RoleArn") != "arn:aws:iam::123456789012:role/reader" || r.Form.Get("RoleSessionName") != "spillway" {
			t.Errorf("got %v, %v", r.Form, err)
		}
		w.Header().Set("Content-Type", "text/xml")
		_, err := w.Write([]byte(`<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>` +
			`<AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/reader/spillway</Arn><AssumedRoleId>ARO:spillway</AssumedRoleId></AssumedRoleUser>` +
			`<Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>role-session</SessionToken>` +
			`<Expiration>` + ends.UTC().Format(time.RFC3339) + `</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`))
		if err != nil {
			t.Error(err)
		}
	}))
	defer sts.Close()
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDBASE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	p := parse(t, "{"+msk+`,"aws.role.arn":"arn:aws:iam::123456789012:role/reader"}`)
	const broker = "b-1.x.kafka.eu-west-1.amazonaws.com:9098"
	for range 3 {
		message := handshake(t, p, broker)
		if !strings.HasPrefix(message["x-amz-credential"], "ASIAROLE/") || message["x-amz-security-token"] != "role-session" {
			t.Errorf("got %v", message)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times, want once", asked)
	}
	p.auth.aws.held.Expires = time.Now().Add(awsMargin)
	handshake(t, p, broker)
	if asked != 2 {
		t.Errorf("asked %d times, want again before the end", asked)
	}
}
