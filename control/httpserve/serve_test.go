// SPDX-License-Identifier: Apache-2.0

package httpserve

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Clients that leave connections open, silent or after a request, take a part of the process's file descriptors at
// most. A client that waits is served as soon as one of them closes its connection.
func TestManyConnections(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := limit
	few.Cur = 256
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) })
	const most = 256 / 8
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	counted := &counting{Listener: l}
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := Conn(r.Context()).(*net.UnixConn); !ok { // whose peer is known
			w.WriteHeader(http.StatusInternalServerError)
		}
		_, _ = io.WriteString(w, "hello")
	})
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, "test", counted, hello, time.Second, slog.New(slog.DiscardHandler)) }()
	var idle []net.Conn
	for i := range most + 10 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
		if i == 0 || i >= most {
			continue
		}
		if got := get(t, c); got != "hello" {
			t.Fatalf("connection %d is answered %q", i, got)
		}
	}
	if got := counted.get(); got != most {
		t.Errorf("%d connections are accepted, want %d", got, most)
	}
	last := idle[len(idle)-1]
	for _, c := range idle[:len(idle)-1] {
		c.Close()
	}
	if got := get(t, last); got != "hello" {
		t.Errorf("a client that waited is answered %q", got)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func get(t *testing.T, c net.Conn) string {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Error("the connection of a request is not that which was accepted")
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// counting counts the connections that are accepted.
type counting struct {
	net.Listener
	n atomic.Int32
}

func (l *counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

func (l *counting) get() int { return int(l.n.Load()) }

// A server whose connections are all taken ends when it is asked to.
func TestEndsWithoutFreeConnection(t *testing.T) {
	inner, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	l := limit(inner, 1)
	c, err := net.Dial("unix", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := l.Accept(); err != nil {
		t.Fatal(err)
	}
	accepting := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		accepting <- err
	}()
	for range 2 {
		_ = l.Close() // the second time there is nothing to close
	}
	if err := <-accepting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v, want %v", err, net.ErrClosed)
	}
}
