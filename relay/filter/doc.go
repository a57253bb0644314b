// Package filter decides which records a view shows: those that a client asked
// for by key, partition, header or a CEL expression, within what the operator's
// rule allows. It does no I/O and starts no goroutine.
//
// A [Compiler] makes a [Filter] of a [Spec]. Everything that a request selects
// by becomes one expression, whose canonical text is the filter's key: equal
// selections are one view. What of it says that a path is equal to a literal is
// a clause; an [Index] finds the filters of a record by a look-up per path, and
// [Postings] the records of a filter, however many there are. All else of the
// expression is left to CEL.
//
// What expressions see:
//
//   - key: a string if it is UTF-8, else bytes; null if there is none.
//   - headers: by name, in the form of the envelope: a string (bytes if it is
//     not UTF-8, null if it has no value), or a list of those if the name
//     repeats. header.x=a, and anyHeader(headers, "x", ["a"]), want any value of
//     the name to be one of those.
//   - value: what the JSON text says if the value is one, else a string if it is
//     UTF-8, else bytes; null for a tombstone. A number without fraction and
//     exponent is an int, or a uint where that is too small, all others are
//     doubles. Of members with the same name the last counts.
//   - topic, partition, offset, timestamp: of the record.
//   - claims: of who asks, in rules only.
//
// Numbers compare across their types, and integers exactly. An expression that
// errs, as for a member that is missing, does not match. That takes the || and
// && of CEL along: what decides without the error still decides.
package filter
