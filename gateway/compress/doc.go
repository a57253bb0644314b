// Package compress makes compressed bytes that many clients share.
//
// A batch of a channel's log is compressed once, and the same bytes go to every
// client of the channel, whatever each was sent before. So every block refers to
// nothing before it:
//
//   - gzip (RFC 1952): a stream is [GzipHeader], then any number of blocks of
//     [AppendDeflate], then [AppendGzipEnd] with the [Sum] of what that client was
//     sent. The sum is not made per client: the log keeps one running Sum, a
//     client notes it when it joins, and [Sum.After] gives the difference.
//   - zstd (RFC 8878): each batch is a frame of its own, from [AppendZstd].
//   - permessage-deflate (RFC 7692) without context takeover: [AppendMessage],
//     and [Inflate] for what clients send.
//
// [Choose] picks one by a request's Accept-Encoding. The package does no I/O and
// starts no goroutine. Encoders and decoders are reused, and their number is
// bounded; what a call needs beyond that is the room in dst.
package compress
