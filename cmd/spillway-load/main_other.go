//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "spillway-load: runs on Linux only: its clients need epoll, and it asks /proc about the server")
	os.Exit(1)
}
