"""Writes golden.json: keys and values as other implementations write them, and
what JSON must come of them, made from the values that were written and not from
the bytes.

    pip install fastavro==1.13.1 protobuf==7.36.2 grpcio-tools==1.85.1
    python golden.py
"""
import base64, datetime, decimal, importlib, io, json, os, struct, sys, tempfile, uuid

import fastavro
from google.protobuf import json_format
from grpc_tools import protoc

out = []
utc = datetime.timezone.utc


def case(name, kind, schema, data, want, refs=()):
    out.append({"name": name, "kind": kind, "schema": schema, "references": list(refs), "hex": data.hex(), "want": want})


def wire(rest):
    return struct.pack(">bI", 0, 7) + rest


# Avro ----------------------------------------------------------------------

def avro(name, schema, value, want=..., refs=()):
    named = {}
    for ref in refs:
        fastavro.parse_schema(ref["parsed"], named)
    buf = io.BytesIO()
    fastavro.schemaless_writer(buf, fastavro.parse_schema(schema, named), value)
    want = value if want is ... else want
    case(name, "AVRO", json.dumps(schema), wire(buf.getvalue()),
         json.dumps(want, ensure_ascii=False, separators=(",", ":")),
         [{k: v for k, v in r.items() if k != "parsed"} for r in refs])


def record(*fields, name="R", **more):
    return {"type": "record", "name": name, "fields": [{"name": n, "type": t, **d} for n, t, d in
                                                       ((f + ({},))[:3] for f in fields)], **more}


avro("null", "null", None)
avro("true", "boolean", True)
avro("int, least", "int", -2**31)
avro("long, most", "long", 2**63 - 1)
avro("long, least", "long", -2**63)
avro("float", "float", 0.5)
avro("float that is no short binary", "float", 0.1)
avro("double", "double", 1e-7)
avro("double, large", "double", 1.7976931348623157e308)
avro("double, whole", "double", 3.0, 3)
avro("double, NaN", "double", float("nan"), "NaN")
avro("float, -Infinity", "float", float("-inf"), "-Infinity")
avro("string", "string", 'a "quoted" ü \U0001f600\n')
avro("empty string", "string", "")
avro("bytes", "bytes", b"\x00\xff\xfe", base64.b64encode(b"\x00\xff\xfe").decode())
avro("fixed", {"type": "fixed", "name": "F", "size": 4}, b"\x01\x02\x03\x04", base64.b64encode(b"\x01\x02\x03\x04").decode())
avro("enum", {"type": "enum", "name": "E", "symbols": ["SPADES", "HEARTS"]}, "HEARTS")
avro("array", {"type": "array", "items": "int"}, [1, -2, 3])
avro("empty array", {"type": "array", "items": "int"}, [])
avro("array of arrays", {"type": "array", "items": {"type": "array", "items": "string"}}, [["a"], [], ["b", "c"]])
avro("map", {"type": "map", "values": "long"}, {"a": 1, "ü": 2})
avro("members in the schema's order", record(("z", "int"), ("a", "int"), ("m", "string")), {"z": 1, "a": 2, "m": "x"})
avro("record without fields", record(), {})
avro("union, null", ["null", "string"], None)
avro("union, plainly", record(("v", ["null", "string", "long"]), ("w", ["null", "string", "long"])), {"v": "x", "w": 5})
avro("union of records", record(("v", [record(("a", "int"), name="A"), record(("b", "int"), name="B")])), {"v": ("B", {"b": 1})}, {"v": {"b": 1}})
avro("default that is not used", record(("a", "int", {"default": 4})), {"a": 5})
avro("recursive", record(("v", "int"), ("next", ["null", "R"])), {"v": 1, "next": {"v": 2, "next": {"v": 3, "next": None}}})
avro("names in namespaces",
     record(("a", {"type": "enum", "name": "Kind", "symbols": ["X", "Y"]}), ("b", "Kind"), ("c", "org.example.Kind"),
            ("d", record(("e", {"type": "fixed", "name": "Kind", "size": 1}), ("f", "Kind"), ("g", "org.example.Kind"), name="other.D")),
            namespace="org.example"),
     {"a": "Y", "b": "X", "c": "Y", "d": {"e": b"\x01", "f": b"\x02", "g": "X"}},
     {"a": "Y", "b": "X", "c": "Y", "d": {"e": "AQ==", "f": "Ag==", "g": "X"}})

at = datetime.datetime(2026, 5, 1, 10, 0, 0, 123456, tzinfo=utc)
early = datetime.datetime(1931, 12, 3, 23, 59, 59, 1000, tzinfo=utc)


def logical(base, kind, **more):
    return {"type": base, "logicalType": kind, **more}


avro("date", logical("int", "date"), datetime.date(2026, 5, 1), "2026-05-01")
avro("date before 1970", logical("int", "date"), datetime.date(1, 1, 1), "0001-01-01")
avro("date beyond the years", logical("int", "date"), 2**31 - 1, 2**31 - 1)
avro("time-millis", logical("int", "time-millis"), datetime.time(10, 0, 0, 123000), "10:00:00.123")
avro("time-micros", logical("long", "time-micros"), datetime.time(23, 59, 59, 999999), "23:59:59.999999")
avro("time-millis of another day", logical("int", "time-millis"), 86400000, 86400000)
avro("timestamp-millis", logical("long", "timestamp-millis"), at.replace(microsecond=123000), "2026-05-01T10:00:00.123Z")
avro("timestamp-millis before 1970", logical("long", "timestamp-millis"), early, "1931-12-03T23:59:59.001Z")
avro("timestamp-micros", logical("long", "timestamp-micros"), at, "2026-05-01T10:00:00.123456Z")
avro("timestamp-nanos", logical("long", "timestamp-nanos"), 1777629600000000001, "2026-05-01T10:00:00.000000001Z")
avro("timestamp-millis beyond the years", logical("long", "timestamp-millis"), 2**63 - 1, 2**63 - 1)
avro("local-timestamp-millis", logical("long", "local-timestamp-millis"), at.replace(tzinfo=None, microsecond=123000), "2026-05-01T10:00:00.123")
avro("local-timestamp-micros", logical("long", "local-timestamp-micros"), at.replace(tzinfo=None), "2026-05-01T10:00:00.123456")
avro("uuid", logical("string", "uuid"), uuid.UUID(int=0x0123456789abcdef0123456789abcdef), "01234567-89ab-cdef-0123-456789abcdef")
avro("uuid, fixed", logical("fixed", "uuid", name="U", size=16), uuid.UUID(int=0x0123456789abcdef0123456789abcdef).bytes, "01234567-89ab-cdef-0123-456789abcdef")
avro("duration", logical("fixed", "duration", name="D", size=12), struct.pack("<III", 1, 15, 1500), "P1M15DT1.500S")
for digits, scale in [("12.50", 2), ("-12.50", 2), ("0.05", 2), ("-0.05", 2), ("0.00", 2), ("12345", 0),
                      ("-9223372036854775808", 0), ("92233720368547758.09", 2), ("-123456789012345678901234567890.12", 2)]:
    avro("decimal " + digits, logical("bytes", "decimal", precision=40, scale=scale), decimal.Decimal(digits), digits)
    avro("decimal, fixed " + digits, logical("fixed", "decimal", name="D", size=17, precision=40, scale=scale), decimal.Decimal(digits), digits)
avro("unknown logical type", logical("long", "since-the-flood"), 5)
avro("logical types inside", record(("prices", {"type": "array", "items": logical("bytes", "decimal", precision=9, scale=2)}), ("at", ["null", logical("long", "timestamp-millis")])),
     {"prices": [decimal.Decimal("1.10"), decimal.Decimal("2.20")], "at": at.replace(microsecond=0)},
     {"prices": ["1.10", "2.20"], "at": "2026-05-01T10:00:00.000Z"})

country = {"type": "enum", "name": "Country", "namespace": "geo", "symbols": ["DE", "FR"]}
address = record(("city", "string"), ("country", "geo.Country"), name="Address", namespace="geo")
refs = [{"name": "geo.Country", "subject": "country", "version": 1, "schema": json.dumps(country), "parsed": country, "references": []},
        {"name": "geo.Address", "subject": "address", "version": 3, "schema": json.dumps(address), "parsed": address,
         "references": [{"name": "geo.Country", "subject": "country", "version": 1}]}]
avro("references between subjects", record(("home", "geo.Address"), ("work", ["null", "geo.Address"]), ("born", "geo.Country")),
     {"home": {"city": "Köln", "country": "DE"}, "work": {"city": "Nice", "country": "FR"}, "born": "FR"}, refs=refs)

# A block with its length, as Java writes large arrays; fastavro does not.
case("array in blocks with lengths", "AVRO", json.dumps({"type": "array", "items": "int"}),
     wire(bytes([3, 4, 2, 4, 2, 6, 0])), "[1,2,3]")

# Protobuf -------------------------------------------------------------------

files = {
    "main3.proto": """syntax = "proto3";
package demo;
import "sub/money.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/any.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/empty.proto";
message First { string unused = 1; }
message Order {
  int64 order_id = 1; int32 n = 2; uint64 big = 3; sint32 z = 4; fixed64 f64 = 5; bool ok = 6;
  float f = 7; double d = 8; string text = 9; bytes raw = 10;
  enum Status { UNKNOWN = 0; PAID = 1; }
  Status status = 11;
  repeated int32 numbers = 12; repeated string tags = 13; repeated Item items = 14;
  map<string, Item> by_name = 15; map<int64, string> by_id = 16;
  oneof how { string card = 17; Item voucher = 18; }
  optional int32 maybe = 19;
  sub.Money total = 20;
  google.protobuf.Timestamp at = 21; google.protobuf.Duration took = 22;
  google.protobuf.Int64Value boxed = 23; google.protobuf.Struct free = 24; google.protobuf.Any any = 25;
  google.protobuf.FieldMask mask = 26; google.protobuf.Empty nothing = 27; repeated Status history = 28;
  message Item { string name = 1; Deep deep = 2; message Deep { int32 level = 1; Order order = 2; } }
}
""",
    "sub/money.proto": """syntax = "proto3";
package sub;
import "sub/currency.proto";
message Money { Currency currency = 1; int64 cents = 2; }
""",
    "sub/currency.proto": """syntax = "proto3";
package sub;
enum Currency { NONE = 0; EUR = 1; }
""",
    "main2.proto": """syntax = "proto2";
package old;
message Old {
  required int32 a = 1; optional int32 b = 2 [default = 5]; repeated int32 c = 3 [packed = true];
  optional group G = 4 { optional string s = 5; }
  extensions 100 to 200;
}
extend Old { optional string extra = 101; }
""",
}
folder = tempfile.mkdtemp()
for path, text in files.items():
    full = os.path.join(folder, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    open(full, "w").write(text)
import grpc_tools
include = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
if protoc.main(["protoc", "-I" + folder, "-I" + include, "--python_out=" + folder] + [os.path.join(folder, p) for p in files]):
    sys.exit("protoc has failed")
sys.path.insert(0, folder)
main3, main2 = importlib.import_module("main3_pb2"), importlib.import_module("main2_pb2")


def proto(name, file, index, message, refs=()):
    case(name, "PROTOBUF", files[file], wire(index + message.SerializeToString()),
         json_format.MessageToJson(message, always_print_fields_with_no_presence=True, indent=None), refs)


imports = [{"name": "sub/currency.proto", "subject": "currency", "version": 1, "schema": files["sub/currency.proto"], "references": []},
           {"name": "sub/money.proto", "subject": "money", "version": 2, "schema": files["sub/money.proto"],
            "references": [{"name": "sub/currency.proto", "subject": "currency", "version": 1}]}]
second = bytes([2, 2])  # one number, 1: the second message of the file
Order = main3.Order
proto("first message", "main3.proto", bytes([0]), main3.First(unused="x"), imports)
proto("empty message", "main3.proto", second, Order(), imports)
proto("nested message by its index", "main3.proto", bytes([6, 2, 0, 0]), Order.Item.Deep(level=4), imports)
full = Order(order_id=2**63 - 1, n=-1, big=2**64 - 1, z=-5, f64=7, ok=True, f=0.5, d=float("inf"), text='ü "\n', raw=b"\x00\xff",
             status=Order.PAID, numbers=[1, -2, 3], tags=["a", ""], items=[Order.Item(name="i", deep=Order.Item.Deep(level=1))],
             card="1234", maybe=0, history=[1, 0, 9])
full.by_name["k"].name = "v"
full.by_id[-5] = "five"
full.total.currency, full.total.cents = 1, 1250
full.at.FromDatetime(at)
full.took.FromMilliseconds(1500)
full.boxed.value = 9
full.free.update({"a": [1, None, {"b": "c"}], "t": True})
full.any.Pack(main3.First(unused="inside"))
full.mask.FromJsonString("orderId,text")
full.nothing.SetInParent()
proto("everything", "main3.proto", second, full, imports)
proto("the other of oneof", "main3.proto", second, Order(voucher=Order.Item(name="v")), imports)
old = main2.Old(a=1, c=[1, 2, 3])
old.g.s = "in a group"
old.Extensions[main2.extra] = "extended"
proto("proto2", "main2.proto", bytes([0]), old)
proto("proto2, unset", "main2.proto", bytes([2, 0]), main2.Old(a=0))

case("JSON Schema", "JSON", '{"type":"object"}', wire(b'{"a": 1.50,\n "b": [ "\\u00fc" ], "a": 2}'), '{"a":1.50,"b":["\\u00fc"],"a":2}')

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden.json"), "w") as f:
    json.dump(out, f, indent=1, ensure_ascii=False)
    f.write("\n")
