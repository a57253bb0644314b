package registry

import (
	"errors"
	"strconv"
)

// A Reason is why bytes could not be decoded. It is what a client may be told,
// and a metric label.
type Reason string

// The reasons.
const (
	NotWireFormat  Reason = "not-wire-format"      // no zero and schema id in front
	UnknownSchema  Reason = "unknown-schema"       // the registry has no such id
	Unavailable    Reason = "registry-unavailable" // or it does not answer as it should
	UnusableSchema Reason = "unusable-schema"      // it does not compile, or a reference is missing
	OtherSchema    Reason = "other-schema"         // of another kind than the codec wants
	BadData        Reason = "bad-data"             // the bytes do not fit the schema
	TooLarge       Reason = "too-large"            // the JSON would be
)

// Reasons are all of them.
var Reasons = []Reason{NotWireFormat, UnknownSchema, Unavailable, UnusableSchema, OtherSchema, BadData, TooLarge}

// MayChange reports whether another try may end otherwise, at another time.
func (r Reason) MayChange() bool {
	return r == UnknownSchema || r == Unavailable || r == UnusableSchema
}

// An Error says that bytes cannot be decoded, at least now. Its text is for the
// log: it may name the registry, but holds neither credentials nor what stands
// in the record.
type Error struct {
	Reason   Reason
	SchemaID int // 0: none was found
	Err      error
}

func (e *Error) Error() string {
	text := string(e.Reason)
	if e.SchemaID != 0 {
		text = "schema " + strconv.Itoa(e.SchemaID) + ": " + text
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

var (
	errTooLarge = errors.New("the JSON is larger than allowed")
	errTooDeep  = errors.New("nested more than " + strconv.Itoa(maxDepth) + " levels deep")
)

// maxDepth is how deep values may be nested. The decoders of other languages
// allow about 100.
const maxDepth = 256

// badData makes an Error of what a decoder says.
func badData(id int, err error) *Error {
	if errors.Is(err, errTooLarge) {
		return &Error{TooLarge, id, nil}
	}
	return &Error{BadData, id, err}
}
