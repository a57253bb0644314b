package properties

import (
	"crypto/tls"
	"slices"
	"strings"
)

// openSSLSuites are OpenSSL's names of the suites up to TLS 1.2 that Go has,
// as in ssl.cipher.suites of a librdkafka configuration. IANA's names, which
// Java uses, are Go's own.
var openSSLSuites = map[string]uint16{
	"ECDHE-ECDSA-AES128-GCM-SHA256": tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-ECDSA-AES256-GCM-SHA384": tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-ECDSA-CHACHA20-POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-RSA-AES128-GCM-SHA256":   tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-RSA-AES256-GCM-SHA384":   tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-RSA-CHACHA20-POLY1305":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-ECDSA-AES128-SHA":        tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA,
	"ECDHE-ECDSA-AES256-SHA":        tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA,
	"ECDHE-ECDSA-AES128-SHA256":     tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256,
	"ECDHE-RSA-AES128-SHA":          tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
	"ECDHE-RSA-AES256-SHA":          tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
	"ECDHE-RSA-AES128-SHA256":       tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256,
	"AES128-GCM-SHA256":             tls.TLS_RSA_WITH_AES_128_GCM_SHA256,
	"AES256-GCM-SHA384":             tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
	"AES128-SHA":                    tls.TLS_RSA_WITH_AES_128_CBC_SHA,
	"AES256-SHA":                    tls.TLS_RSA_WITH_AES_256_CBC_SHA,
	"AES128-SHA256":                 tls.TLS_RSA_WITH_AES_128_CBC_SHA256,
}

// resolveSuites reads ssl.cipher.suites. Go cannot leave out a suite of TLS
// 1.3, so a list that names some of them but not all is refused; a list that
// names none restricts older versions only, as it does with OpenSSL.
func (p *parser) resolveSuites(c *tls.Config) {
	const name = "ssl.cipher.suites"
	var (
		modern  []string // suites of TLS 1.3 that were named
		weak    []string
		unknown []string
	)
	// OpenSSL separates by colons, Java by commas.
	for _, s := range nonBlank(strings.FieldsFunc(p.text(name), func(r rune) bool { return r == ',' || r == ':' })) {
		id, is13, insecure, ok := suite(s)
		switch {
		case !ok:
			unknown = append(unknown, s)
		case is13:
			modern = append(modern, s)
		default:
			c.CipherSuites = append(c.CipherSuites, id)
			if insecure {
				weak = append(weak, s)
			}
		}
	}
	all13 := suites13()
	missing := slices.ContainsFunc(all13, func(s string) bool { return !slices.Contains(modern, s) })
	switch {
	case len(unknown) > 0:
		p.problem("%s=%s: unknown or not built in; must be names of single suites, such as ECDHE-RSA-AES256-GCM-SHA384", name, cut(strings.Join(unknown, ",")))
	case len(modern) > 0 && missing:
		p.problem("%s=%s: the suites of TLS 1.3 cannot be chosen among; name all of %s, or none of them", name, strings.Join(modern, ","), strings.Join(all13, ","))
	case len(modern) > 0 && len(c.CipherSuites) == 0:
		c.MinVersion = tls.VersionTLS13
	case len(weak) > 0:
		p.warn("%s=%s: known to be weak; remove it as soon as the brokers allow", name, strings.Join(weak, ","))
	}
}

// suite finds a suite by any of its names.
func suite(name string) (id uint16, is13, insecure, ok bool) {
	if id, ok := openSSLSuites[name]; ok {
		name = tls.CipherSuiteName(id)
	}
	for _, s := range tls.CipherSuites() {
		if s.Name == name {
			return s.ID, slices.Equal(s.SupportedVersions, []uint16{tls.VersionTLS13}), false, true
		}
	}
	for _, s := range tls.InsecureCipherSuites() {
		if s.Name == name {
			return s.ID, false, true, true
		}
	}
	return 0, false, false, false
}

func suites13() []string {
	var out []string
	for _, s := range tls.CipherSuites() {
		if slices.Equal(s.SupportedVersions, []uint16{tls.VersionTLS13}) {
			out = append(out, s.Name)
		}
	}
	return out
}

// curves are the names of key exchanges, by OpenSSL, by NIST and by SECG.
var curves = map[string]tls.CurveID{
	"p-256": tls.CurveP256, "prime256v1": tls.CurveP256, "secp256r1": tls.CurveP256,
	"p-384": tls.CurveP384, "secp384r1": tls.CurveP384,
	"p-521": tls.CurveP521, "secp521r1": tls.CurveP521,
	"x25519":             tls.X25519,
	"x25519mlkem768":     tls.X25519MLKEM768,
	"secp256r1mlkem768":  tls.SecP256r1MLKEM768,
	"secp384r1mlkem1024": tls.SecP384r1MLKEM1024,
}

// resolveCurves reads ssl.curves.list.
func (p *parser) resolveCurves(c *tls.Config) {
	const name = "ssl.curves.list"
	for _, s := range nonBlank(strings.FieldsFunc(p.text(name), func(r rune) bool { return r == ',' || r == ':' })) {
		id, ok := curves[strings.ToLower(s)]
		if !ok {
			p.problem("%s=%s: unknown or not built in; must be among P-256, P-384, P-521, X25519, X25519MLKEM768", name, cut(s))
			continue
		}
		c.CurvePreferences = append(c.CurvePreferences, id)
	}
}
