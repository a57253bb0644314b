// Package front answers requests that are complete when they arrive without the
// price of net/http, where the handler never waits: a goroutine for each
// connection, timers, and a read in the background.
//
// Its listener stands before a server of net/http. On Linux it keeps the
// connections that it accepts, in one epoll set, and reads when something has
// come. What holds whole requests of the plainest kind (plain.go) is answered at
// once, all answers with one write. Whatever else comes makes net/http accept the
// connection, with what was read: it has the last word on all that is unusual, and
// this package is no second parser that could be of another opinion.
package front

import (
	"log/slog"
	"net/http"
	"time"
)

// Config is what a listener has to know. All but Loops is needed.
type Config struct {
	// Handler answers requests for which Quick reports true. It must not wait for
	// anybody: all connections wait for it. It says Content-Type and
	// Content-Length, and does not keep the request's body. The request does not
	// say who the client is (RemoteAddr).
	Handler http.Handler
	Quick   func(r *http.Request) bool

	// MaxHead and MaxBody bound what is answered here, in bytes. What is larger is
	// net/http's, which has limits of its own, and so is a request that one read
	// of 64 KiB does not hold.
	MaxHead, MaxBody int

	// FirstTimeout is how long a new connection may say nothing, IdleTimeout how
	// long one that has its answer.
	FirstTimeout, IdleTimeout time.Duration

	// Loops is how many there are, a thread of the system each when they are busy;
	// 0 means half as many as there are cores.
	Loops int

	Log *slog.Logger
}
