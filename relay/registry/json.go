package registry

import (
	"errors"

	"github.com/go-json-experiment/json/jsontext"
)

// A jsonSchema is a JSON Schema, of which nothing is needed: the value is JSON
// as it is.
type jsonSchema struct{}

// decode appends data as one line.
func (jsonSchema) decode(dst, data []byte, limit int) ([]byte, error) {
	if len(data) > limit { // what comes is not longer
		return dst, errTooLarge
	}
	out, err := jsontext.AppendFormat(dst, data, jsontext.AllowDuplicateNames(true), jsontext.PreserveRawStrings(true))
	if err != nil { // whose text quotes the value
		return dst, errors.New("not a JSON text")
	}
	return out, nil
}
