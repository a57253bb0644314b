// Package registry turns keys and values that were written with a schema
// registry (Avro, Protobuf, JSON Schema) into JSON.
//
// Such bytes begin with the wire format of Confluent's serializers: a zero, the
// schema's id in four bytes, and for Protobuf the place of the message in its
// file. The schema is asked of the registry once, and kept.
//
// What JSON comes of it is a promise to web pages:
//
//	Avro                       JSON
//	int, long, float, double   number; NaN, Infinity and -Infinity as strings
//	bytes, fixed               string, base64
//	enum                       string, the symbol
//	union                      the value itself, without the name of its branch
//	decimal                    string with all digits, such as "12.50"
//	date                       "2026-05-01"
//	time-millis, -micros       "10:00:00.123", "10:00:00.123456"
//	timestamp-millis, …        "2026-05-01T10:00:00.123Z", with 3, 6 or 9 digits
//	local-timestamp-millis, …  the same without the Z
//	uuid                       string, with hyphens
//	duration                   "P1M15DT1.500S": always months, days, seconds
//	big-decimal, others        as the type below it
//
// A date or timestamp outside of the years 0 to 9999, and a time outside of the
// day, is written as its number. A long is a number and may be past 2^53,
// where JavaScript rounds. Members stand in the order of the schema. Strings
// that are not UTF-8 do not fit.
//
// Protobuf is written as its own JSON mapping has it: names in lowerCamelCase,
// 64-bit integers as strings, bytes in base64, enums by name (unknown ones by
// number), well-known types in their short forms. Fields without presence are
// written even where they have their default, and unset ones with presence are
// left out. Imports must be references in the registry or well-known types.
// Unknown fields are left out. An Any must hold a type that the schema knows.
//
// JSON Schema: the value itself, as compact text, with its members and numbers
// as the producer wrote them. It is not validated again: who wrote it has done
// so, or meant not to.
//
// Decode is called by the goroutine that reads Kafka live, so an id that is
// known costs a look into a map, and one that is not known is asked for at most
// once for a bounded time. Start there.
package registry
