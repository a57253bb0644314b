// Package bearer finds the token of a request where clients can put one that
// cannot set Authorization: EventSource in the query (RFC 6750, 2.3), and
// browsers' WebSockets in the list of subprotocols. It looks into no token.
//
// It is for requests to the events origin only: on any other path, a parameter
// called access_token is not ours to touch.
package bearer

import (
	"cmp"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const (
	param       = "access_token" // in the query
	subprotocol = "bearer."      // and the token in base64url, without padding
	scheme      = "Bearer"
)

// The errors say what is wrong with where the token is: 400. They hold nothing
// of it.
var (
	errTwo       = errors.New("two different tokens in one request; send one")
	errFields    = errors.New("more than one Authorization; send one")
	errOther     = errors.New("a token, and an Authorization of another scheme than Bearer; send one of them")
	errParam     = errors.New("access_token is no token: it is not encoded as a query is, or has bytes that no token has")
	errProtocol  = errors.New("what follows bearer. is no token in base64url, without padding (RFC 4648, section 5)")
	errProtocols = errors.New("offer a subprotocol beside bearer.…, such as spillway.v1.json: a server answers with one of them, and that must not be a token")
)

// Move returns the request with its token in "Authorization: Bearer", and
// nowhere in URL, RequestURI and Sec-WebSocket-Protocol. It does not change r,
// which it returns where nothing is to be moved. An empty access_token is as
// good as none. All else in the query stays as it is.
//
// The error is the client's fault, and its text can be shown: there are two
// different tokens, or what should be one is none.
func Move(r *http.Request) (*http.Request, error) {
	query, fromQuery, err := cutParam(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	protocols, fromProtocol, err := cutProtocol(r.Header["Sec-Websocket-Protocol"])
	if err != nil {
		return nil, err
	}
	fields := r.Header["Authorization"]
	if len(fields) > 1 {
		return nil, errFields
	}
	if query == r.URL.RawQuery && fromProtocol == "" {
		return r, nil
	}
	token := fromQuery
	if token == "" {
		token = fromProtocol
	} else if fromProtocol != "" && fromProtocol != token {
		return nil, errTwo
	}
	if token != "" && len(fields) == 1 && fields[0] != "" {
		switch given, ok := Token(r.Header); {
		case !ok:
			return nil, errOther
		case given != token:
			return nil, errTwo
		}
	}
	moved := new(http.Request)
	*moved = *r
	moved.URL = new(url.URL)
	*moved.URL = *r.URL
	moved.URL.RawQuery = query
	if path, _, ok := strings.Cut(r.RequestURI, "?"); ok {
		moved.RequestURI = path
		if query != "" {
			moved.RequestURI += "?" + query
		}
	}
	moved.Header = r.Header.Clone()
	if fromProtocol != "" {
		moved.Header["Sec-Websocket-Protocol"] = protocols
	}
	if token != "" {
		moved.Header["Authorization"] = []string{scheme + " " + token}
	}
	return moved, nil
}

// Token returns the token of "Authorization: Bearer". There is none if the
// field is of another scheme, or there are several.
func Token(h http.Header) (string, bool) {
	fields := h["Authorization"]
	if len(fields) != 1 {
		return "", false
	}
	given, token, ok := strings.Cut(fields[0], " ")
	token = strings.Trim(token, " \t")
	if !ok || token == "" || !strings.EqualFold(given, scheme) {
		return "", false
	}
	return token, true
}

// cutParam takes the token out of a query. A semicolon is read as a separator
// too, as some servers do that might be shown the rest.
func cutParam(query string) (rest, token string, err error) {
	var kept []byte
	found := false
	for more := query; more != ""; {
		piece := more
		if i := strings.IndexAny(more, "&;"); i >= 0 {
			piece = more[:i+1]
		}
		more = more[len(piece):]
		name, value, _ := strings.Cut(strings.TrimRight(piece, "&;"), "=")
		if decoded, err := url.QueryUnescape(name); err != nil || decoded != param {
			kept = append(kept, piece...)
			continue
		}
		found = true
		if value, err = url.QueryUnescape(value); err != nil || !IsToken(value) {
			return "", "", errParam
		}
		if token != "" && value != "" && value != token {
			return "", "", errTwo
		}
		token = cmp.Or(token, value)
	}
	if !found {
		return query, "", nil
	}
	return strings.TrimRight(string(kept), "&;"), token, nil
}

// IsToken reports whether a token can stand in a header field: visible ASCII.
func IsToken(s string) bool {
	return !slices.ContainsFunc([]byte(s), func(b byte) bool { return b <= ' ' || b >= 0x7f })
}

// cutProtocol takes the token out of Sec-WebSocket-Protocol.
func cutProtocol(fields []string) (rest []string, token string, err error) {
	for _, field := range fields {
		for name := range strings.SplitSeq(field, ",") {
			name = strings.Trim(name, " \t")
			encoded, ok := strings.CutPrefix(name, subprotocol)
			if !ok {
				if name != "" {
					rest = append(rest, name)
				}
				continue
			}
			raw, err := base64.RawURLEncoding.DecodeString(encoded)
			if err != nil || len(raw) == 0 || !IsToken(string(raw)) {
				return nil, "", errProtocol
			}
			if token != "" && token != string(raw) {
				return nil, "", errTwo
			}
			token = string(raw)
		}
	}
	if token == "" {
		return fields, "", nil
	}
	if len(rest) == 0 {
		return nil, "", errProtocols
	}
	return []string{strings.Join(rest, ", ")}, token, nil
}
