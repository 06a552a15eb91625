// SPDX-License-Identifier: Apache-2.0

package zk

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
)

// listen starts a server that accepts connections, and begins sessions while answer is set.
func listen(t *testing.T, answer *atomic.Bool) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				size := make([]byte, 4)
				if _, err := io.ReadFull(c, size); err != nil || !answer.Load() {
					return
				}
				b := binary.BigEndian.AppendUint32(nil, 36)    // length
				b = binary.BigEndian.AppendUint32(b, 0)        // version of the protocol
				b = binary.BigEndian.AppendUint32(b, 10_000)   // timeout in milliseconds
				b = binary.BigEndian.AppendUint64(b, 1)        // session
				b = binary.BigEndian.AppendUint32(b, 16)       // length of the password
				_, _ = c.Write(append(b, make([]byte, 16)...)) // the client notices
			}()
		}
	}()
	return l.Addr().String()
}

// A request that waits for a session gets the next connection's when the first one is given up, because the server does not answer.
func TestWaitsForTheNextConnection(t *testing.T) {
	var answer atomic.Bool
	const timeout = 200 * time.Millisecond
	s := &session{cfg: Config{Servers: []string{listen(t, &answer)}}, timeout: timeout, changed: func(*zk.Conn, string) {}}
	t.Cleanup(s.close)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	waiting := make(chan error, 1)
	go func() {
		_, err := s.conn(ctx)
		waiting <- err
	}()
	time.Sleep(2 * timeout)
	answer.Store(true)
	if _, err := s.conn(ctx); err != nil { // it replaces the connection
		t.Fatal(err)
	}
	select {
	case err := <-waiting:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("a request still waits for the session of a connection that was given up")
	}
}
