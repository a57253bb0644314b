//go:build !linux

package fanout

import "net"

// newMechanisms returns none: without epoll all connections are portable.
func newMechanisms(Config) []mechanism { return nil }

func bare(net.Conn) (fd int, ok bool) { return 0, false }

func (c *Conn) shutdown() bool { return false }
func (c *Conn) closeBare()     {}
