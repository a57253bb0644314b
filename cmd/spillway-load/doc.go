// Spillway-load measures the real program: it starts spillway serve as a process
// of its own, feeds it from Kafka, reads as many clients, and compares what it
// cost with a program that does nothing but write the same bytes.
//
// The way of a message: kafka.send (or floor.send) makes it when it is due, with
// a sequence number and that time in it; the server does its work; fleet.serve
// reads it from a client's socket, and stream, order and histogram say what it
// was. A step is one load, runFanout and runIdle are made of steps, report is
// what people and programs get.
//
// Broker, floor and bare consumer are this program in another role (the first
// argument), each a process of its own, so that the CPU time of the server is
// only the server's.
//
// It does not judge: numbers of a shared machine drift, ratios within one run
// less so. What they were is in BENCHMARKS.md.
package main
