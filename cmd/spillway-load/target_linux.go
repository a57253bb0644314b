package main

import (
	"context"
	"net/netip"
)

// A target is a whole server that takes messages over HTTP: one that others
// wrote, or ours over the same road. The scenario peers compares them.
//
// The generator connects its clients with subscribeRequest, and tells from the
// answer what they read: 200 with text/event-stream (chunked or until the
// connection ends, gzip or not), or 101 and then WebSocket messages. A payload
// arrives as the data of one event, or as one message.
type target interface {
	// name is what the table calls it, with the version where there is one.
	name() string

	// start starts its processes and returns when it takes clients and
	// messages. Called on the main goroutine, which start in child_linux.go needs.
	start(ctx context.Context) error

	// addr is where clients connect, on loopback. Known after start.
	addr() netip.AddrPort

	// subscribeRequest is the raw request of client i, which subscribes to the
	// channel; it is sent as it is.
	subscribeRequest(channel string, i int) []byte

	// publish posts the payloads in their order, perPost of them in each
	// request, and returns when all have been accepted. A target that cannot
	// take more than one in a request is never given perPost > 1. It is called
	// with all that is due, by one goroutine at a time. What is due while it
	// has not returned waits for the next call, so a publish that keeps
	// several requests on their way at once helps, as long as the order stays.
	publish(ctx context.Context, channel string, payloads [][]byte, perPost int) error

	// pids are its processes, whose CPU time and memory count as the target's.
	pids() []int

	// stop ends its processes and removes what it wrote. Stopping twice, or
	// after a start that failed, is fine.
	stop()
}
