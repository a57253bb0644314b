package properties

import (
	"errors"
	"fmt"
	"strings"
)

// parseJAAS reads the login module that Java clients configure for PLAIN and
// SCRAM:
//
//	org.apache.kafka.common.security.scram.ScramLoginModule required
//	  username="alice" password="secret";
//
// The module must be that of mechanism. Errors show no value.
func parseJAAS(s, mechanism string) (credentials, error) {
	const example = `must be org.apache.kafka.common.security.scram.ScramLoginModule required username="…" password="…";`
	words, err := jaasWords(s)
	if err != nil {
		return credentials{}, fmt.Errorf("%w; %s", err, example)
	}
	if len(words) < 2 || words[1] != "required" {
		return credentials{}, errors.New("not a login module; " + example)
	}
	module := words[0][strings.LastIndexByte(words[0], '.')+1:]
	fits := module == "PlainLoginModule" && mechanism == plainName ||
		module == "ScramLoginModule" && strings.HasPrefix(mechanism, "SCRAM-")
	switch {
	case fits:
	case module == "PlainLoginModule" || module == "ScramLoginModule":
		return credentials{}, fmt.Errorf("%s does not belong to sasl.mechanism=%s; must be the module of the mechanism", module, mechanism)
	default:
		return credentials{}, fmt.Errorf("the login module %q is not understood; must be PlainLoginModule or ScramLoginModule, others have properties of their own", cut(module))
	}
	var c credentials
	for _, option := range words[2:] {
		name, value, ok := strings.Cut(option, "=")
		switch {
		case !ok:
			return credentials{}, errors.New("an option without a value; " + example)
		case name == "username":
			c.user = value
		case name == "password":
			c.password = value
		default:
			// tokenauth and others change what is proved to the broker.
			return credentials{}, fmt.Errorf("the option %q is not understood; must be username or password", cut(name))
		}
	}
	if c.user == "" || c.password == "" {
		return credentials{}, errors.New("no username or no password; " + example)
	}
	return c, nil
}

// jaasWords splits a login module's text at blanks, up to the semicolon. A
// value stands in quotes, where a backslash takes the next byte as it is; the
// quotes are gone in the result: username="a b" is the word username=a b.
func jaasWords(s string) ([]string, error) {
	var (
		words  []string
		word   strings.Builder
		quote  byte
		inWord bool
	)
	end := func() {
		if inWord {
			words = append(words, word.String())
		}
		word.Reset()
		inWord = false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0 && c == '\\' && i+1 < len(s):
			i++
			word.WriteByte(s[i])
		case quote != 0:
			word.WriteByte(c)
		case c == '"' || c == '\'':
			quote, inWord = c, true
		case c == ';':
			end()
			if strings.TrimSpace(s[i+1:]) != "" {
				return nil, errors.New("something follows the first semicolon")
			}
			return words, nil
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			end()
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	return nil, errors.New("the semicolon at the end is missing")
}
