package registry

import "fmt"

// A Codec says what the bytes of a key or value are.
type Codec uint8

// The codecs. Those from Avro to JSONSchema want the wire format and a schema
// of their kind.
const (
	// Auto decodes what begins with a zero and an id that can be one (1 to
	// 2^31-1), and leaves everything else as it is. It suits values; a key may
	// well be a number of eight bytes, which looks the same.
	Auto Codec = iota
	String
	JSON
	Binary
	Avro
	Protobuf
	JSONSchema
	numCodecs
)

var codecNames = [numCodecs]string{"auto", "string", "json", "binary", "avro", "protobuf", "jsonschema"}

func (c Codec) String() string { return codecNames[c] }

// ParseCodec reads the name of a codec.
func ParseCodec(name string) (Codec, error) {
	for c, n := range codecNames {
		if n == name {
			return Codec(c), nil
		}
	}
	return 0, fmt.Errorf("%q is not a codec; must be one of auto, string, json, binary, avro, protobuf and jsonschema", name)
}

// UsesRegistry reports whether nothing can be decoded without a registry.
func (c Codec) UsesRegistry() bool { return c >= Avro }

// UnmarshalText implements encoding.TextUnmarshaler; JSON uses it.
func (c *Codec) UnmarshalText(text []byte) (err error) {
	*c, err = ParseCodec(string(text))
	return err
}
