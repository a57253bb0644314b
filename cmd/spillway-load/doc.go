// Spillway-load measures the real program: it starts spillway serve, or the
// gateway with an origin in its process, or other servers, connects as many
// clients, feeds them, and compares what that cost with a program that does
// nothing but send the same bytes.
//
// A scenario (scenarios) is a part of the table; it opens stands, each of which
// is a subject with its clients, and puts loads on them in turns (interleave),
// so that each ratio is one of pairs. A step is one load on one stand.
//
// The way of a message: a plan says when it is due; kafka.send, floor.send,
// appender.append or posted.send makes it then, with a sequence number and that
// time in it; the server does its work; fleet.serve reads it from a client's
// socket, and stream, order and histogram say what it was.
//
// Broker, gateway, floors, bare consumer, HTTP origin and clients are this program in another
// role (the first argument), each a process of its own, so that the CPU time of
// each is known, and that descriptors suffice. The C floor is compiled from
// floor.c.
//
// What the figures were is in BENCHMARKS.md.
package main
