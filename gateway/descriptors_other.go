//go:build !unix

package gateway

// maxDescriptors is how many files and sockets the process may have open; 0 means
// unknown.
func maxDescriptors() uint64 { return 0 }
