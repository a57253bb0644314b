package gateway

import (
	"fmt"

	"spillway/grip/bytesize"
)

// What a connection may cost in memory: what we keep for it, what the kernel
// does (a container is charged with both), and room for those that are slow. TLS
// adds a goroutine and buffers for both directions.
const (
	connectionCost    bytesize.Bytes = 8 << 10
	tlsConnectionCost bytesize.Bytes = 48 << 10
)

// leastConnectionMemory is the smallest share of memory for connections: a few
// pages of history have to find room.
const leastConnectionMemory bytesize.Bytes = 8 << 20

// A capacity is how many connections there may be.
type capacity struct {
	most    int    // served at once
	sockets int    // open, requests on them or not
	idle    int    // of these, without requests
	because string // what decides over most
}

// capacity is that of this configuration, where the system lets the process have
// so many descriptors (0: unknown).
func (c *Config) capacity(descriptors uint64) capacity {
	each := c.ConnectionCost()
	share := c.ConnectionMemory()
	k := capacity{
		most:    int(share / each),
		because: fmt.Sprintf("%d MiB of MEMORY_LIMIT (%d MiB) are for connections, at %v each", share>>20, c.memoryLimit()>>20, each),
	}
	if c.MaxConnections > 0 {
		k.most, k.because = c.MaxConnections, "MAX_CONNECTIONS says so"
	}
	k.sockets = k.most + k.most/4 + toTell // but not for any number
	if descriptors == 0 {
		return k.withIdle(c.MaxIdleConnections)
	}
	// What is no client's: listeners, Kafka, origins, files.
	reserve := min(descriptors/8, 512)
	free := int(min(descriptors-reserve, uint64(mostConnections)))
	k.sockets = min(k.sockets, free)
	if fit := max(free-toTell, 1); c.MaxConnections == 0 && fit < k.most {
		k.most = fit
		k.because = fmt.Sprintf("the system lets this process have %d files and sockets open, of which %d are kept for others than clients", descriptors, reserve)
	}
	return k.withIdle(c.MaxIdleConnections)
}

// withIdle has room for as many idle connections as there are sockets besides those
// that are served, or for so many. They may take sockets that are served later.
func (k capacity) withIdle(n int) capacity {
	if k.idle = n; n == 0 {
		k.idle = max(k.sockets-k.most, k.sockets/5, 1)
	}
	return k
}

// toTell is for how many connections over the limit there is room, so that they
// can be told so.
const toTell = 64

// ConnectionMemory is the share of memory for connections. Half of it may be
// used by what waits for single ones.
func (c *Config) ConnectionMemory() bytesize.Bytes {
	each := c.ConnectionCost()
	if c.MaxConnections > 0 {
		return max(bytesize.Bytes(c.MaxConnections)*each, leastConnectionMemory)
	}
	limit, logs := c.Memory()
	return max(min(limit/4, limit-logs-c.CacheBytes()-c.OtherMemory), leastConnectionMemory)
}

// ConnectionCost is the memory that is reckoned for each connection.
func (c *Config) ConnectionCost() bytesize.Bytes {
	if c.TLSCertFile != "" {
		return tlsConnectionCost
	}
	return connectionCost
}
