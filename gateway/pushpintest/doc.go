// Package pushpintest compares the gateway with Pushpin, the GRIP proxy that
// the protocol comes from. It holds only tests.
//
// A scenario is a small play: clients, an origin and a publisher, all on raw
// sockets, with a proxy between them. What each of them saw is the transcript.
// Pushpin's transcripts are in testdata/grip, so that the test needs no Pushpin:
//
//	testdata/grip/SECTION.txt      Pushpin's transcripts, by section of the reference
//	testdata/grip/differences.txt  where we want to differ, how, and why
//
// That list is as short as it can be: an entry that is no longer true fails the
// test. make grip-record asks a real Pushpin (Debian's 1.36) and writes its
// transcripts; make grip-check only says whether they are still true.
//
// Begin with a scenario of holds_test.go, then scenario_test.go for its words.
package pushpintest
