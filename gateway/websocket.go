package gateway

import "net/http"

func (g *Gateway) serveWebSocket(out *output, _ *http.Request) {
	out.text(http.StatusNotImplemented, "WebSockets are not served yet.")
}
