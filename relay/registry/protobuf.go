package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/twmb/franz-go/pkg/sr"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// A protoFile is a Protobuf schema. It does not change.
type protoFile struct {
	file     protoreflect.FileDescriptor
	types    *dynamicpb.Types
	messages map[protoreflect.FullName]*protoMessage
	enums    map[protoreflect.FullName]int // bytes of the longest value
}

// A protoMessage is what we know of a message besides its descriptor.
type protoMessage struct {
	desc protoreflect.MessageDescriptor
	base int // bytes of JSON of an empty one, about
}

// mainFile is what the schema is called while it is compiled; no import has
// such a name.
const mainFile = "<schema>.proto"

// maxMessageNesting is how deep messages are declared in others at most;
// protoc and protocompile allow 32.
const maxMessageNesting = 32

// newProto compiles a schema. imports are the texts of its references.
func newProto(ctx context.Context, text string, imports map[string]string) (*protoFile, error) {
	files := protocompile.ResolverFunc(func(path string) (protocompile.SearchResult, error) {
		source, ok := imports[path]
		if path == mainFile {
			source, ok = text, true
		}
		if !ok {
			return protocompile.SearchResult{}, fmt.Errorf("%q is not among the references", path)
		}
		return protocompile.SearchResult{Source: strings.NewReader(source)}, nil
	})
	compiler := protocompile.Compiler{Resolver: protocompile.WithStandardImports(files)}
	linked, err := compiler.Compile(ctx, mainFile)
	if err != nil {
		return nil, errors.New(cut(err.Error()))
	}
	// Built once more by the library that decodes: its descriptors find fields by
	// their numbers in a table.
	var set descriptorpb.FileDescriptorSet
	collectFiles(&set, linked[0], make(map[string]bool))
	registered, err := protodesc.NewFiles(&set)
	if err != nil {
		return nil, errors.New(cut(err.Error()))
	}
	file, err := registered.FindFileByPath(mainFile)
	if err != nil {
		return nil, err
	}
	f := &protoFile{file: file, types: dynamicpb.NewTypes(registered), messages: make(map[protoreflect.FullName]*protoMessage), enums: make(map[protoreflect.FullName]int)}
	registered.RangeFiles(func(fd protoreflect.FileDescriptor) bool {
		f.know(fd.Messages())
		return true
	})
	return f, nil
}

// collectFiles puts a file behind all that it imports.
func collectFiles(set *descriptorpb.FileDescriptorSet, fd protoreflect.FileDescriptor, seen map[string]bool) {
	if seen[fd.Path()] {
		return
	}
	seen[fd.Path()] = true
	for i := range fd.Imports().Len() {
		collectFiles(set, fd.Imports().Get(i), seen)
	}
	set.File = append(set.File, protodesc.ToFileDescriptorProto(fd))
}

// know adds messages and their enums, so that decoding only reads.
func (f *protoFile) know(messages protoreflect.MessageDescriptors) {
	for i := range messages.Len() {
		m := &protoMessage{desc: messages.Get(i), base: 2}
		for j := range m.desc.Fields().Len() {
			fd := m.desc.Fields().Get(j)
			if e := fd.Enum(); e != nil {
				f.enums[e.FullName()] = f.enumSize(e)
			}
			if !fd.HasPresence() {
				m.base += len(fd.JSONName()) + f.scalarSize(fd, nil) + len(`"":,`)
			}
		}
		f.messages[m.desc.FullName()] = m
		f.know(m.desc.Messages())
	}
}

// decode appends the JSON of data, which begins with the place of its message
// in the file.
func (f *protoFile) decode(dst, data []byte, limit int) ([]byte, error) {
	index, body, err := new(sr.ConfluentHeader).DecodeIndex(data, maxMessageNesting)
	if err != nil {
		return dst, errors.New("the message's index cannot be read")
	}
	var desc protoreflect.MessageDescriptor
	for messages := f.file.Messages(); len(index) > 0; index = index[1:] {
		if desc = declared(messages, index[0]); desc == nil {
			return dst, fmt.Errorf("no message %d among %d", index[0], messages.Len())
		}
		messages = desc.Messages()
	}
	w := protoWalk{file: f, left: limit}
	if err := w.message(f.messages[desc.FullName()], body, 0); err != nil {
		return dst, err
	}
	out, err := f.transcode(dst, desc, body)
	if err != nil {
		return dst, fmt.Errorf("%s: %w", desc.FullName(), err)
	}
	if len(out)-len(dst) > limit {
		return dst, errTooLarge
	}
	return out, nil
}

// transcode appends the JSON of a message. No record may end the program: the
// library panics where the entry of a map has a second key of another type.
func (f *protoFile) transcode(dst []byte, desc protoreflect.MessageDescriptor, body []byte) (out []byte, err error) {
	defer func() {
		if recover() != nil {
			out, err = nil, errWire
		}
	}()
	m := dynamicpb.NewMessage(desc)
	if err := (proto.UnmarshalOptions{Resolver: f.types, DiscardUnknown: true, RecursionLimit: 2 * maxDepth}).Unmarshal(body, m); err != nil {
		return nil, errors.New(cut(err.Error()))
	}
	out, err = protojson.MarshalOptions{Resolver: f.types, EmitDefaultValues: true, AllowPartial: true}.MarshalAppend(dst, m)
	if err != nil { // whose text quotes the value
		return nil, errors.New("there is no JSON for it, such as for a time out of range")
	}
	// The library puts blanks between tokens in some builds of a program, so that
	// nobody relies on its bytes. Here clients on two replicas get the same.
	text := jsontext.Value(out[len(dst):])
	if err := text.Compact(); err != nil {
		return nil, errors.New("its JSON cannot be read") // it never is so
	}
	return append(out[:len(dst)], text...), nil
}

// declared is the message with this index among those that are declared as
// such: the entries of maps are messages, too, and the serializers do not count
// them.
func declared(messages protoreflect.MessageDescriptors, index int) protoreflect.MessageDescriptor {
	for i := range messages.Len() {
		switch m := messages.Get(i); {
		case m.IsMapEntry():
		case index == 0:
			return m
		default:
			index--
		}
	}
	return nil
}

// A protoWalk goes through encoded messages before they are decoded, and adds up
// what they will cost: two bytes can be a message with a thousand members.
type protoWalk struct {
	file *protoFile
	left int // bytes of JSON that may still come
}

// messageCost stands for the memory of a decoded message.
const messageCost = 32

var (
	errWire = errors.New("not in Protobuf's wire format")
	errAny  = errors.New("an Any holds a type that is not in the schema")
)

func (w *protoWalk) spend(n int) error {
	if w.left -= n; w.left < 0 {
		return errTooLarge
	}
	return nil
}

func (w *protoWalk) message(m *protoMessage, b []byte, depth int) error {
	if depth > maxDepth {
		return errTooDeep
	}
	if err := w.spend(m.base + messageCost); err != nil {
		return err
	}
	isAny := m.desc.FullName() == "google.protobuf.Any"
	var anyURL, anyValue []byte
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errWire
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(num, typ, b)
		if size < 0 {
			return errWire
		}
		value := b[:size]
		b = b[size:]
		switch typ { // what is inside
		case protowire.BytesType:
			value, _ = protowire.ConsumeBytes(value)
		case protowire.StartGroupType:
			value, _ = protowire.ConsumeGroup(num, value)
		}
		if isAny && typ == protowire.BytesType { // written as what is inside
			switch num {
			case 1:
				anyURL = value
				if err := w.spend(len(value)); err != nil {
					return err
				}
			case 2:
				anyValue = value
			}
			continue
		}
		fd := w.field(m, num)
		if fd == nil {
			continue
		}
		if err := w.value(fd, typ, value, depth); err != nil {
			return err
		}
	}
	if isAny && len(anyURL) > 0 {
		name := anyURL[bytes.LastIndexByte(anyURL, '/')+1:]
		inner := w.file.messages[protoreflect.FullName(name)]
		if inner == nil {
			return errAny
		}
		return w.message(inner, anyValue, depth+1)
	}
	return nil
}

func (w *protoWalk) field(m *protoMessage, num protowire.Number) protoreflect.FieldDescriptor {
	if fd := m.desc.Fields().ByNumber(num); fd != nil {
		return fd
	}
	if !m.desc.ExtensionRanges().Has(num) {
		return nil
	}
	if x, err := w.file.types.FindExtensionByNumber(m.desc.FullName(), num); err == nil {
		return x.TypeDescriptor()
	}
	return nil
}

func (w *protoWalk) value(fd protoreflect.FieldDescriptor, typ protowire.Type, value []byte, depth int) error {
	if fd.Cardinality() != protoreflect.Repeated { // lists and maps have one name
		name := len(fd.JSONName())
		if fd.IsExtension() {
			name = len(fd.FullName()) + len("[]")
		}
		if err := w.spend(name + len(`"":,`)); err != nil {
			return err
		}
	}
	inner := typ == protowire.BytesType || typ == protowire.StartGroupType
	switch {
	case fd.Message() != nil && inner:
		return w.message(w.file.messages[fd.Message().FullName()], value, depth+1)
	case fd.IsList() && inner && fd.Kind() != protoreflect.StringKind && fd.Kind() != protoreflect.BytesKind:
		return w.spend(packed(fd.Kind(), value) * (w.file.scalarSize(fd, nil) + len(",")))
	}
	return w.spend(w.file.scalarSize(fd, value) + len(","))
}

// packed is how many values stand in a packed list.
func packed(kind protoreflect.Kind, b []byte) int {
	switch kind {
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return len(b) / 4
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return len(b) / 8
	}
	n := 0
	for _, c := range b {
		if c < 0x80 {
			n++
		}
	}
	return n
}

// scalarSize is how many bytes of JSON a value takes at most, but for escapes;
// b is the text of a string or bytes.
func (f *protoFile) scalarSize(fd protoreflect.FieldDescriptor, b []byte) int {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return len("false")
	case protoreflect.EnumKind:
		return f.enumSize(fd.Enum())
	case protoreflect.StringKind:
		return len(b) + 2
	case protoreflect.BytesKind:
		return base64.StdEncoding.EncodedLen(len(b)) + 2
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return 2 // an empty list or map
	}
	return 24 // the longest double, and the longest integer with quotes
}

// enumSize is how many bytes the longest value of an enum takes. It is known
// before anything is decoded.
func (f *protoFile) enumSize(e protoreflect.EnumDescriptor) int {
	if known := f.enums[e.FullName()]; known > 0 {
		return known
	}
	longest := len("-2147483648")
	for i := range e.Values().Len() {
		longest = max(longest, len(e.Values().Get(i).Name())+2)
	}
	return longest
}
