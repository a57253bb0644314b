package pushpintest

import (
	"fmt"
	"strings"
	"time"
)

// A scenario tests one sentence of the reference. In its texts stands:
//
//	fruit      a word of five letters that is this scenario's own: use it for
//	           channels; the clients ask fruit.test
//	$origin    host:port of the origin, which is fruit.test's route
//	$dead      host:port where nobody listens
type scenario struct {
	name  string // section/what is special
	route string // lines of the routes file; empty: fruit.test $origin
	conf  string // settings of pushpin.conf, NAME=VALUE a line
	tls   bool   // the clients come by TLS
	alone bool   // it disturbs others at the same Pushpin
	steps []step
}

func (s *scenario) section() string {
	section, _, _ := strings.Cut(s.name, ".")
	section, _, _ = strings.Cut(section, "/")
	return section
}

// A step is one thing that somebody does, or waits for. An error ends the
// scenario, and is part of the transcript.
type step func(w *world) error

// The client's steps. They are client a's, unless they stand in as.

// as has another client do steps.
func as(name string, steps ...step) step {
	return func(w *world) error {
		before := w.who
		w.who = name
		defer func() { w.who = before }()
		return w.play(steps)
	}
}

// get sends a GET request with header lines.
func get(path string, header ...string) step {
	return send("GET " + path + " HTTP/1.1\n" + strings.Join(append(header, ""), "\n"))
}

// send sends a request: head, empty line, body. Lines of the head may end with
// \n only. Host, and Content-Length where there is a body, are added when missing.
func send(text string) step {
	return func(w *world) error {
		head, body, _ := strings.Cut(text, "\n\n")
		head = strings.TrimSuffix(head, "\n")
		if !has(head, "Host") && !strings.HasSuffix(strings.SplitN(head, "\n", 2)[0], "/1.0") {
			head += "\nHost: " + w.host()
		}
		if body != "" && !has(head, "Content-Length") && !has(head, "Transfer-Encoding") {
			head += fmt.Sprintf("\nContent-Length: %d", len(body))
		}
		return w.client().request(w, crlf(head)+"\r\n\r\n"+body)
	}
}

// reads waits until the client has got text, after what it read before: of a
// response without its framing, or of messages.
func reads(text string) step {
	return func(w *world) error {
		return w.client().reads(w, w.real(text))
	}
}

// ended waits until the client has a whole response, or the next one.
func ended() step {
	return func(w *world) error {
		c := w.client()
		c.mark()
		c.done++
		err := c.await(w, "the end of the response", func() bool { return c.ended >= c.done || c.closed })
		if err == nil && c.responses() < c.done {
			return fmt.Errorf("%s waited for a response, but the connection ended", c.name)
		}
		return err
	}
}

// closed waits until the proxy has closed the client's connection.
func closed() step {
	return func(w *world) error {
		c := w.client()
		return c.await(w, "the end of the connection", func() bool { return c.closed })
	}
}

// hangUp closes the client's connection.
func hangUp() step {
	return func(w *world) error { w.client().hangUp(); return nil }
}

// open sends a WebSocket handshake.
func open(path string, header ...string) step {
	return get(path, append([]string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + sampleKey}, header...)...)
}

// says sends a text message.
func says(text string) step { return frame(0x81, text) }

// frame sends a frame with this first byte.
func frame(first byte, payload string) step {
	return func(w *world) error { return w.client().write(string(maskedFrame(first, []byte(w.real(payload))))) }
}

// The origin's steps.

// asked waits until a request has reached the origin; the next answer is to it.
func asked() step {
	return func(w *world) error { return w.origin.next(w) }
}

// answer waits for a request and answers it: head, empty line, body. Without a
// status line it is a 200; Content-Length is added when neither it, nor
// Transfer-Encoding, nor Connection is there.
func answer(text string) step {
	return func(w *world) error {
		if err := w.origin.next(w); err != nil {
			return err
		}
		head, body, _ := strings.Cut(text, "\n\n")
		head = strings.TrimSuffix(head, "\n")
		if !strings.HasPrefix(head, "HTTP/") {
			head = strings.TrimSuffix("HTTP/1.1 200 OK\n"+head, "\n")
		}
		if !has(head, "Content-Length") && !has(head, "Transfer-Encoding") && !has(head, "Connection") {
			head += fmt.Sprintf("\nContent-Length: %d", len(body))
		}
		return w.origin.answer(w.real(crlf(head) + "\r\n\r\n" + body))
	}
}

// answers is answer to each of the next n requests.
func answers(n int, text string) step {
	return func(w *world) error {
		for range n {
			if err := answer(text)(w); err != nil {
				return err
			}
		}
		return nil
	}
}

// withFeatures has the values of Grip-Feature in the transcript.
func withFeatures() step {
	return func(w *world) error { w.showFeatures = true; return nil }
}

// more sends bytes on the connection that the origin answered last.
func more(text string) step {
	return func(w *world) error { return w.origin.write(w.real(text)) }
}

// cut closes it.
func cut() step {
	return func(w *world) error { w.origin.cut(); return nil }
}

// refuses waits for a request and closes its connection without an answer.
func refuses() step {
	return func(w *world) error {
		if err := w.origin.next(w); err != nil {
			return err
		}
		w.origin.take().hangUp()
		return nil
	}
}

// upgrade waits for a WebSocket handshake and accepts it, with header lines.
func upgrade(header ...string) step {
	return func(w *world) error {
		if err := w.origin.next(w); err != nil {
			return err
		}
		return w.origin.upgrade(w.real(crlf(strings.Join(header, "\n"))))
	}
}

// originReads is reads for the origin's WebSocket.
func originReads(text string) step {
	return func(w *world) error {
		return w.origin.latest().reads(w, w.real(text))
	}
}

// originFrame sends a frame with this first byte; originSays a text message.
func originFrame(first byte, payload string) step {
	return func(w *world) error { return w.origin.write(string(plainFrame(first, []byte(w.real(payload))))) }
}

func originSays(text string) step { return originFrame(0x81, text) }

// originClosed waits until the proxy has closed the connection to the origin.
func originClosed() step {
	return func(w *world) error {
		c := w.origin.latest()
		return c.await(w, "the end of the origin's connection", func() bool { return c.closed })
	}
}

// originLeft waits until the proxy has given up the request that asked took.
func originLeft() step {
	return func(w *world) error {
		c := w.origin.take()
		c.answered <- false // so that its reader looks
		return c.await(w, "the end of the origin's connection", func() bool { return c.closed })
	}
}

// The publisher's steps.

// publish posts items.
func publish(items ...string) step {
	return func(w *world) error {
		return w.publish(w.real(`{"items":[` + strings.Join(items, ",") + `]}`))
	}
}

// control sends a request to the control API, as send does.
func control(text string) step {
	return func(w *world) error {
		w.publishers++
		return as(fmt.Sprint(publisherName, w.publishers), send(text), ended())(w)
	}
}

// item is an item for the channel fruit, in one format; fields are JSON members
// of the item.
func item(format, content string, fields ...string) string {
	return itemTo("fruit", format, content, fields...)
}

func itemTo(channel, format, content string, fields ...string) string {
	fields = append([]string{fmt.Sprintf("%q:%q", "channel", channel)}, fields...)
	return fmt.Sprintf(`{%s,"formats":{%q:{%s}}}`, strings.Join(fields, ","), format, content)
}

// line is an item with a line for streams; message for WebSockets; result for
// long polls.
func line(text string, fields ...string) string {
	return item("http-stream", fmt.Sprintf(`"content":%q`, text+"\n"), fields...)
}

func message(text string, fields ...string) string {
	return item("ws-message", fmt.Sprintf(`"content":%q`, text), fields...)
}

func result(text string, fields ...string) string {
	return item("http-response", fmt.Sprintf(`"body":%q`, text+"\n"), fields...)
}

// Conditions.

// listening waits until n sessions are subscribed to fruit.
func listening(n int) step { return listeningTo("fruit", n) }

func listeningTo(channel string, n int) step {
	return func(w *world) error {
		if err := w.proxy.listening(w.real(channel), n, w.patience); err != nil {
			return fmt.Errorf("waited for %d subscribers of %s: %w", n, channel, err)
		}
		return nil
	}
}

// quiet lets a moment pass in which nothing should happen: what does is in the
// transcript.
func quiet() step { return pass(150 * time.Millisecond) }

// pass is for what only a clock can show.
func pass(d time.Duration) step {
	return func(w *world) error {
		time.Sleep(d)
		return nil
	}
}

// join is steps that belong together.
func join(steps ...step) step {
	return func(w *world) error { return w.play(steps) }
}

// event is an event of WebSocket over HTTP with content, OPEN one without.
func event(kind, content string) string {
	return fmt.Sprintf("%s %x\r\n%s\r\n", kind, len(content), content)
}

const opened = "OPEN\r\n"

func crlf(head string) string { return strings.ReplaceAll(head, "\n", "\r\n") }

// has reports whether a head has a header.
func has(head, name string) bool {
	for l := range strings.SplitSeq(head, "\n") {
		if field, _, ok := strings.Cut(l, ":"); ok && strings.EqualFold(field, name) {
			return true
		}
	}
	return false
}

// Heads of answers that many scenarios have.
const (
	stream = "Content-Type: text/plain\nGrip-Hold: stream\nGrip-Channel: fruit\n"
	poll   = "Content-Type: text/plain\nGrip-Hold: response\nGrip-Channel: fruit\n"
)

// streaming has the client get a stream that begins with hello; more are header
// lines of the answer.
func streaming(more ...string) step {
	return join(get("/"), answer(stream+headerLines(more)+"\nhello\n"), reads("hello\n"), listening(1))
}

// polling has the client wait on a long poll, whose own response is none.
func polling(more ...string) step {
	return join(get("/"), answer(poll+headerLines(more)+"\nnone\n"), listening(1))
}

func headerLines(list []string) string {
	var out strings.Builder
	for _, l := range list {
		out.WriteString(l + "\n")
	}
	return out.String()
}

// until publishes a line and waits for it: whatever was to come before, came.
func until(text string) step { return join(publish(line(text)), reads(text+"\n")) }

// large is a text of n bytes.
func large(n int) string { return strings.Repeat("0123456789", n/10) }
