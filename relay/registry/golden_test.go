package registry

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/twmb/franz-go/pkg/sr"
)

// A golden is what golden.py has recorded of other implementations.
type golden struct {
	Name       string
	Kind       sr.SchemaType
	Schema     string
	References []struct {
		Name, Subject, Schema string
		Version               int
		References            []sr.SchemaReference
	}
	Hex  string
	Want string
}

func goldens(t testing.TB) []golden {
	t.Helper()
	text, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []golden
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// seedGolden registers a golden's schema with this id, and what it refers to.
func seedGolden(f *fakeRegistry, g golden, id int) {
	s := sr.Schema{Schema: g.Schema, Type: g.Kind}
	for i, ref := range g.References {
		subject := fmt.Sprintf("%s-%d", ref.Subject, id)
		refs := make([]sr.SchemaReference, len(ref.References))
		for j, r := range ref.References {
			r.Subject = fmt.Sprintf("%s-%d", r.Subject, id)
			refs[j] = r
		}
		f.SeedSchema(subject, ref.Version, 1000*id+i, sr.Schema{Schema: ref.Schema, Type: g.Kind, References: refs})
		s.References = append(s.References, sr.SchemaReference{Name: ref.Name, Subject: subject, Version: ref.Version})
	}
	f.SeedSchema("golden", id, id, s)
}

func (g golden) data(t testing.TB, id uint32) []byte {
	t.Helper()
	b, err := hex.DecodeString(g.Hex)
	if err != nil {
		t.Fatal(err)
	}
	return framed(id, string(b[5:]))
}

func TestGolden(t *testing.T) {
	fake := startFake(t)
	r := newRegistry(t, testConfig(fake.server.URL))
	for i, g := range goldens(t) {
		id := i + 1
		seedGolden(fake, g, id)
		t.Run(g.Name, func(t *testing.T) {
			codec := map[sr.SchemaType]Codec{sr.TypeAvro: Avro, sr.TypeProtobuf: Protobuf, sr.TypeJSON: JSONSchema}[g.Kind]
			for _, codec := range []Codec{codec, Auto} {
				got, err := r.Decode(context.Background(), []byte("before:"), codec, g.data(t, uint32(id)))
				if err != nil {
					t.Fatal(err)
				}
				if got.SchemaID != id {
					t.Errorf("got schema %d, want %d", got.SchemaID, id)
				}
				text, ok := bytes.CutPrefix(got.JSON, []byte("before:"))
				if !ok {
					t.Fatalf("got %s; want it behind what was there", got.JSON)
				}
				if g.Kind == sr.TypeProtobuf { // whose order is the implementation's
					if got, want := parsed(t, text), parsed(t, []byte(g.Want)); !reflect.DeepEqual(got, want) {
						t.Errorf("got  %s\nwant %s", text, g.Want)
					}
				} else if !sameNumbers(string(text), g.Want) {
					t.Errorf("got  %s\nwant %s", text, g.Want)
				}
				compact := jsontext.Value(bytes.Clone(text))
				if err := compact.Compact(); err != nil || !bytes.Equal(text, compact) {
					t.Errorf("%q is not as short as it can be, %v", text, err)
				}
			}
		})
	}
}

// sameNumbers compares JSON texts; a number alone may be written in another way.
func sameNumbers(got, want string) bool {
	var a, b float64
	if json.Unmarshal([]byte(got), &a) == nil && json.Unmarshal([]byte(want), &b) == nil && bytes.ContainsAny([]byte(want), ".e") {
		return a == b
	}
	return got == want
}

func parsed(t *testing.T, text []byte) any {
	t.Helper()
	var v any // 64-bit integers are strings
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}
