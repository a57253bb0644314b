//go:build !linux

package front

import "net"

// Listen returns l: without epoll all connections are net/http's.
func Listen(l net.Listener, _ Config) net.Listener { return l }
