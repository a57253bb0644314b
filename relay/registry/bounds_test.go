package registry

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"
)

// Values that are small as bytes, and not as JSON.
func TestBounds(t *testing.T) {
	const most = 64 << 10
	zigzag := func(n int64) string { return string(binary.AppendVarint(nil, n)) }
	lots := zigzag(1 << 40)
	longest := strings.Repeat("n", 10_000)
	const recursive = `syntax = "proto3"; import "google/protobuf/struct.proto"; import "google/protobuf/any.proto";
		message M { M m = 1; repeated E e = 2; repeated Long long = 3; google.protobuf.Value v = 4; google.protobuf.Any any = 5; repeated M ms = 6; map<int32, int32> map = 7; }
		enum E { NONE = 0; A_SYMBOL_THAT_IS_RATHER_LONG = 1; }
		message Long { int32 a_name_that_is_rather_long_too_and_is_written_for_each = 1; }`
	nested := func(n int, one func(inner string) string) string {
		s := ""
		for range n {
			s = one(s)
		}
		return s
	}
	field := func(num int, b string) string {
		return string(binary.AppendUvarint(binary.AppendUvarint(nil, uint64(num<<3|2)), uint64(len(b)))) + b
	}
	for _, tt := range []struct {
		name   string
		kind   sr.SchemaType
		schema string
		data   string
		want   Reason
		text   string
	}{
		{"array of nulls", sr.TypeAvro, `{"type":"array","items":"null"}`, lots, TooLarge, ""},
		{"array of empty records", sr.TypeAvro, `{"type":"array","items":{"type":"record","name":"R","fields":[]}}`, lots, TooLarge, ""},
		{"array of empty fixed", sr.TypeAvro, `{"type":"array","items":{"type":"fixed","name":"F","size":0}}`, lots, TooLarge, ""},
		{"blocks with the least count", sr.TypeAvro, `{"type":"array","items":"null"}`, zigzag(-1<<63) + zigzag(0), BadData, "63 bits"},
		{"long symbols", sr.TypeAvro, `{"type":"array","items":{"type":"enum","name":"E","symbols":["` + longest + `"]}}`, zigzag(100) + strings.Repeat("\x00", 101), TooLarge, ""},
		{"escapes", sr.TypeAvro, `"string"`, zigzag(most/2) + strings.Repeat("\x01", most/2), TooLarge, ""},
		{"large string", sr.TypeAvro, `"string"`, zigzag(most+1) + strings.Repeat("x", most+1), TooLarge, ""},
		{"base64", sr.TypeAvro, `"bytes"`, zigzag(most-10) + strings.Repeat("x", most-10), TooLarge, ""},
		{"length that is not there", sr.TypeAvro, `"bytes"`, lots, BadData, "too early"},
		{"negative length", sr.TypeAvro, `"string"`, zigzag(-1), BadData, "negative"},
		{"number without an end", sr.TypeAvro, `"long"`, strings.Repeat("\xff", 11), BadData, "64 bits"},
		{"int of 33 bits", sr.TypeAvro, `"int"`, zigzag(1 << 31), BadData, "32 bits"},
		{"boolean", sr.TypeAvro, `"boolean"`, "\x02", BadData, "neither"},
		{"branch", sr.TypeAvro, `["null"]`, zigzag(1), BadData, "no branch 1"},
		{"symbol", sr.TypeAvro, `{"type":"enum","name":"E","symbols":["A"]}`, zigzag(-1), BadData, "no symbol -1"},
		{"not UTF-8", sr.TypeAvro, `{"type":"record","name":"R","fields":[{"name":"f","type":"string"}]}`, zigzag(1) + "\xff", BadData, "f: a string is not UTF-8"},
		{"decimal with many zeros", sr.TypeAvro, `{"type":"array","items":{"type":"bytes","logicalType":"decimal","precision":60000,"scale":60000}}`, zigzag(4) + strings.Repeat("\x02\x01", 4), TooLarge, ""},
		{"decimal with many digits", sr.TypeAvro, `{"type":"bytes","logicalType":"decimal","precision":60000,"scale":2}`, zigzag(maxDecimalBytes+1) + strings.Repeat("\x01", maxDecimalBytes+1), BadData, "a decimal of"},
		{"deep", sr.TypeAvro, `{"type":"record","name":"R","fields":[{"name":"r","type":["null","R"]}]}`, strings.Repeat("\x02", 10_000) + "\x00", BadData, "levels deep"},
		{"many branches of nothing", sr.TypeAvro, `{"type":"record","name":"R","fields":[{"name":"r","type":{"type":"array","items":"R"}}]}`, strings.Repeat(lots, 1000), BadData, "levels deep"},

		{"packed enums", sr.TypeProtobuf, recursive, "\x00" + field(2, strings.Repeat("\x01", 10_000)), TooLarge, ""},
		{"messages of two bytes", sr.TypeProtobuf, recursive, "\x00" + strings.Repeat(field(3, ""), 10_000), TooLarge, ""},
		{"deep messages", sr.TypeProtobuf, recursive, "\x00" + nested(1000, func(in string) string { return field(1, in) }), BadData, "levels deep"},
		{"deep lists of Value", sr.TypeProtobuf, recursive, "\x00" + field(4, nested(1000, func(in string) string { return field(6, field(1, in)) })), BadData, "levels deep"},
		{"deep Any", sr.TypeProtobuf, recursive, "\x00" + field(5, nested(1000, func(in string) string { return field(1, "x/google.protobuf.Any") + field(2, in) })), BadData, "levels deep"},
		{"Any of a type that is not there", sr.TypeProtobuf, recursive, "\x00" + field(5, field(1, "x/not.There")), BadData, "an Any holds a type"},
		{"no Value in a Value", sr.TypeProtobuf, recursive, "\x00" + field(4, ""), BadData, "no JSON"},
		{"a map's entry with keys of two types", sr.TypeProtobuf, recursive, "\x00" + field(7, "\x08\x01"+field(1, "x")), BadData, "wire format"},
		{"not the wire format", sr.TypeProtobuf, recursive, "\x00\x07", BadData, "wire format"},
		{"no index", sr.TypeProtobuf, recursive, "", BadData, "index"},
		{"index of a million numbers", sr.TypeProtobuf, recursive, zigzag(1_000_000), BadData, "index"},
		{"index past the end", sr.TypeProtobuf, recursive, zigzag(1) + zigzag(2), BadData, "no message 2"},
		{"negative index", sr.TypeProtobuf, recursive, zigzag(1) + zigzag(-1), BadData, "no message -1"},

		{"large JSON", sr.TypeJSON, `{}`, `"` + strings.Repeat("x", most) + `"`, TooLarge, ""},
		{"deep JSON", sr.TypeJSON, `{}`, strings.Repeat("[", most/2) + strings.Repeat("]", most/2), BadData, "not a JSON text"},
		{"two JSON texts", sr.TypeJSON, `{}`, `1 2`, BadData, "not a JSON text"},
		{"no JSON", sr.TypeJSON, `{}`, ``, BadData, "not a JSON text"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := startFake(t)
			f.seed(1, tt.kind, tt.schema)
			cfg := testConfig(f.server.URL)
			cfg.MaxBytes = most
			r := newRegistry(t, cfg)
			err := wantReason(t, r, Auto, framed(1, tt.data), tt.want)
			if !strings.Contains(err.Error(), tt.text) || len(err.Error()) > 600 {
				t.Errorf("got %q, want it to say %q", err, tt.text)
			}
		})
	}
}

// FuzzDecode decodes any bytes with any golden's schema: no panic, no more than the
// bound, and what comes is one line.
func FuzzDecode(f *testing.F) {
	fake := startFake(f)
	cfg := testConfig(fake.server.URL)
	cfg.MaxBytes = 1 << 16
	r := newRegistry(f, cfg)
	all := goldens(f)
	for i, g := range all {
		seedGolden(fake, g, i+1)
		data := g.data(f, uint32(i+1))
		f.Add(data)
		f.Add(data[:len(data)-1])
	}
	f.Add([]byte("\x00\x00"))
	for i, g := range all {
		if g.Kind != sr.TypeProtobuf {
			continue
		}
		for _, index := range []string{"", "\x00", "\x02\x00", "\x02\x02", "\x04\x00\x02", "\x02\x01", "\x01", "\xfe\xff\xff\xff\x0f", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x80"} {
			f.Add(framed(uint32(i+1), index))
			f.Add(framed(uint32(i+1), index+"\x08\x01"))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= 5 && data[0] == 0 { // mostly a schema that there is
			data[1], data[2], data[3], data[4] = 0, 0, 0, data[4]%byte(len(all)+1)
		}
		got, err := r.Decode(context.Background(), nil, Auto, data)
		var e *Error
		switch {
		case err != nil && !errors.As(err, &e):
			t.Fatalf("%v is no *Error", err)
		case err != nil && len(err.Error()) > 100_000:
			t.Fatalf("an error of %d bytes", len(err.Error()))
		case err != nil || got.JSON == nil:
			return
		}
		if len(got.JSON) > cfg.MaxBytes {
			t.Errorf("%d bytes of JSON, want at most %d", len(got.JSON), cfg.MaxBytes)
		}
		if strings.ContainsAny(string(got.JSON), "\r\n") {
			t.Errorf("%q is not one line", got.JSON)
		}
		parsed(t, got.JSON)
	})
}

// FuzzAvroSchema compiles any schema, and decodes any bytes with it.
func FuzzAvroSchema(f *testing.F) {
	for _, g := range goldens(f) {
		if g.Kind == sr.TypeAvro && len(g.References) == 0 {
			f.Add(g.Schema, g.data(f, 1)[5:])
		}
	}
	f.Fuzz(func(t *testing.T, schema string, data []byte) {
		typ, err := newAvro([]string{schema})
		if err != nil {
			return
		}
		if out, err := typ.decode(nil, data, 1<<16); err == nil {
			parsed(t, out)
		}
	})
}

// FuzzProtobufSchema does the same with Protobuf.
func FuzzProtobufSchema(f *testing.F) {
	for _, g := range goldens(f) {
		if g.Kind == sr.TypeProtobuf && len(g.References) == 0 {
			f.Add(g.Schema, g.data(f, 1)[5:])
		}
	}
	f.Add(`syntax = "proto3"; import "google/protobuf/struct.proto"; message M { map<string, google.protobuf.Value> m = 1; }`, []byte("\x00"))
	f.Fuzz(func(t *testing.T, schema string, data []byte) {
		file, err := newProto(context.Background(), schema, nil)
		if err != nil {
			return
		}
		if out, err := file.decode(nil, data, 1<<16); err == nil {
			parsed(t, out)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	f := startFake(b)
	r := newRegistry(b, testConfig(f.server.URL))
	for i, g := range goldens(b) {
		switch g.Name {
		case "logical types inside", "names in namespaces", "everything", "first message", "JSON Schema", "string":
		default:
			continue
		}
		seedGolden(f, g, i+1)
		data := g.data(b, uint32(i+1))
		b.Run("kind="+g.Kind.String()+"/value="+strings.ReplaceAll(g.Name, " ", "-"), func(b *testing.B) {
			var dst []byte
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				got, err := r.Decode(context.Background(), dst[:0], Auto, data)
				if err != nil {
					b.Fatal(err)
				}
				dst = got.JSON
			}
		})
	}
}
