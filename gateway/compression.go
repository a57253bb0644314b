package gateway

import (
	"mime"
	"net/http"
	"slices"
	"strings"

	"spillway/gateway/compress"
	"spillway/gateway/fanout"
)

// permessageDeflate is the entry of COMPRESSION for WebSockets (RFC 7692).
const permessageDeflate = "permessage-deflate"

// compression is what COMPRESSION allows.
type compression struct {
	bodies []compress.Coding // of SSE and NDJSON, the best first
	frames bool              // of WebSockets
}

// parseCompression reads COMPRESSION; unknown is the first entry that is nothing
// of ours.
func parseCompression(list []string) (c compression, unknown string) {
	for _, name := range trimmed(list) {
		switch name {
		case string(compress.Gzip), string(compress.Zstd):
			c.bodies = append(c.bodies, compress.Coding(name))
		case permessageDeflate:
			c.frames = true
		default:
			return c, name
		}
	}
	return c, ""
}

// compressible are the content types of streams whose ends of lines are all that
// a client waits for.
var compressible = []string{"text/event-stream", "application/x-ndjson"}

// compress decides how a stream is compressed, says so in its header, and
// compresses its first bytes, which begun then has as they were.
func (g *Gateway) compress(h http.Header, r *http.Request, p *page) (coding fanout.Coding, begun []byte) {
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if len(g.compression.bodies) == 0 || err != nil || !slices.Contains(compressible, media) || h.Get("Content-Encoding") != "" {
		return fanout.Uncoded, nil
	}
	h["Vary"] = append(slices.Clip(h["Vary"]), "Accept-Encoding")
	chosen := compress.Choose(strings.Join(r.Header["Accept-Encoding"], ","), g.compression.bodies)
	begun = p.ins.Body
	switch chosen {
	case compress.Gzip:
		coding = fanout.Gzip
		p.ins.Body = slices.Clone(compress.GzipHeader)
		if len(begun) > 0 {
			p.ins.Body = compress.AppendDeflate(p.ins.Body, begun)
		}
	case compress.Zstd:
		coding = fanout.Zstd
		if len(begun) > 0 {
			p.ins.Body = compress.AppendZstd(nil, begun)
		}
	default:
		return fanout.Uncoded, nil
	}
	h.Set("Content-Encoding", string(chosen))
	return coding, begun
}
