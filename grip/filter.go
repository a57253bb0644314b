package grip

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The filters of a subscription (GRIP reference, 6). Others are ignored.
const (
	FilterSkipSelf   = "skip-self"
	FilterSkipUsers  = "skip-users"
	FilterRequireSub = "require-sub"
	FilterBuildID    = "build-id"
	FilterVarSubst   = "var-subst"
	FilterHTTPCheck  = "http-check"
	FilterHTTPModify = "http-modify"
)

// ContentFilters returns the filters that change content, in order.
func ContentFilters(filters []string) []string {
	var content []string
	for _, f := range filters {
		switch f {
		case FilterBuildID, FilterVarSubst, FilterHTTPModify:
			content = append(content, f)
		}
	}
	return content
}

// Skips reports whether one of the filters drops an item for a subscription,
// going by the metadata of both. on says whether the subscriber is subscribed to
// a channel.
func Skips(filters []string, sub, item map[string]string, on func(channel string) bool) bool {
	user := sub["user"]
	for _, f := range filters {
		switch f {
		case FilterSkipSelf:
			if user != "" && user == item["sender"] {
				return true
			}
		case FilterSkipUsers:
			if user != "" && slices.Contains(names([]string{item["skip_users"]}), user) {
				return true
			}
		case FilterRequireSub:
			if channel := item["require_sub"]; channel != "" && !on(channel) {
				return true
			}
		}
	}
	return false
}

// MaxFiltered bounds what a content filter makes of an item, in bytes.
const MaxFiltered = MaxPublishBody

// maxDirective bounds a directive that is not complete yet, in bytes.
const maxDirective = 4096

// EscapeContent returns content as an item for subscriptions with build-id or
// var-subst has it, so that they leave it as it is: with percent signs doubled.
func EscapeContent(content []byte) []byte {
	return bytes.ReplaceAll(content, []byte("%"), []byte("%%"))
}

// SubstituteVars carries out var-subst: %(NAME)s stands for a value of the
// subscription's metadata.
func SubstituteVars(content []byte, meta map[string]string) ([]byte, error) {
	out, _, err := expand(nil, content, true, func(arg []byte, given bool, x byte) ([]byte, error) {
		if !given || x != 's' {
			return nil, errDirective
		}
		value, ok := meta[string(arg)]
		if !ok {
			return nil, fmt.Errorf("there is no %q", arg)
		}
		return []byte(value), nil
	})
	return out, err
}

// An IDBuilder carries out build-id on one message, or piece by piece on the
// body of a response.
type IDBuilder struct {
	id    []byte
	known bool
	hex   bool
	rest  []byte // a directive that is not complete
}

// NewIDBuilder reads the id that a subscription's metadata describes: id_format,
// in which %(CHANNEL)s stands for the last id of a channel. last returns that, and
// whether the subscriber is subscribed to the channel at all; an id that is not
// known is empty.
func NewIDBuilder(meta map[string]string, last func(channel string) (id string, subscribed bool)) (*IDBuilder, error) {
	format := meta["id_format"]
	if format == "" {
		return nil, errors.New("build-id: there is no id_format")
	}
	b := &IDBuilder{hex: meta["id_encoding"] == "hex"}
	id, _, err := expand(nil, []byte(format), true, func(arg []byte, given bool, x byte) ([]byte, error) {
		if !given || x != 's' {
			return nil, errDirective
		}
		id, ok := last(string(arg))
		if !ok {
			return nil, fmt.Errorf("%q is no channel of the subscription", arg)
		}
		b.known = b.known || id != ""
		return []byte(id), nil
	})
	if err != nil {
		return nil, fmt.Errorf("build-id: id_format: %w", err)
	}
	b.id = id
	return b, nil
}

// Append appends a piece of content with its directives replaced: %I by the id,
// %(TEXT)I by TEXT. One that is not complete waits for the next piece, of which
// there is none after the last.
func (b *IDBuilder) Append(dst, piece []byte, last bool) ([]byte, error) {
	if len(b.rest) > 0 {
		piece = append(b.rest, piece...)
	}
	out, rest, err := expand(dst, piece, last, func(arg []byte, given bool, x byte) ([]byte, error) {
		switch {
		case x != 'I':
			return nil, errDirective
		case !given && !b.known:
			return nil, errors.New("no id is known")
		case !given:
			arg = b.id
		}
		if b.hex {
			return hex.AppendEncode(nil, arg), nil
		}
		return arg, nil
	})
	if err != nil {
		return nil, fmt.Errorf("build-id: %w", err)
	}
	b.rest = bytes.Clone(rest)
	return out, nil
}

var errDirective = errors.New("a directive that is not known")

// expand appends src to dst. %% becomes a percent sign, and what replace returns
// takes the place of each directive, %X or %(ARG)X; in ( ) a backslash quotes the
// next byte. Where src is not the last, a directive that is not complete is the
// rest.
func expand(dst, src []byte, last bool, replace func(arg []byte, given bool, x byte) ([]byte, error)) (out, rest []byte, err error) {
	began := len(dst)
	for {
		i := bytes.IndexByte(src, '%')
		if i < 0 {
			return append(dst, src...), nil, nil
		}
		dst = append(dst, src[:i]...)
		src = src[i:]
		arg, given, n := directive(src)
		switch {
		case n == 0 && (last || len(src) > maxDirective):
			return nil, nil, errors.New("a directive without end")
		case n == 0:
			return dst, src, nil
		case !given && src[n-1] == '%':
			dst = append(dst, '%')
		default:
			value, err := replace(arg, given, src[n-1])
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", strings.ToValidUTF8(string(src[:n]), "?"), err)
			}
			if len(dst)-began+len(value) > MaxFiltered {
				return nil, nil, fmt.Errorf("the result is more than %d bytes", MaxFiltered)
			}
			dst = append(dst, value...)
		}
		src = src[n:]
	}
}

// directive reads the directive that src begins with, n bytes long; 0 means that
// it is not complete.
func directive(src []byte) (arg []byte, given bool, n int) {
	if len(src) < 2 {
		return nil, false, 0
	}
	if src[1] != '(' {
		return nil, false, 2
	}
	for i := 2; i < len(src); i++ {
		switch src[i] {
		case '\\':
			if i++; i < len(src) {
				arg = append(arg, src[i])
			}
		case ')':
			if i+1 == len(src) {
				return nil, true, 0
			}
			return arg, true, i + 2
		default:
			arg = append(arg, src[i])
		}
	}
	return nil, true, 0
}
