// SPDX-License-Identifier: Apache-2.0

// Package httpserve runs an HTTP server that shuts down gracefully.
package httpserve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sys/unix"
)

// RequestTimeout is the maximum duration of a request.
const RequestTimeout = time.Minute

type connKey struct{}

// Conn returns the connection of the request with this context, or nil if there is none.
func Conn(ctx context.Context) net.Conn {
	c, _ := ctx.Value(connKey{}).(net.Conn)
	return c
}

// maxConns is how many connections a server serves at the same time. Further ones wait.
const maxConns = 1024

// connLimit returns how many connections a server serves at the same time: not more than an eighth
// of the file descriptors that the process may have, so that clients that leave connections open
// never keep it from opening files.
func connLimit() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return maxConns
	}
	return int(min(maxConns, max(1, l.Cur/8)))
}

// Serve serves requests on the listener until ctx ends, then lets pending requests finish for at
// most grace. It closes the listener. what names the server in errors.
func Serve(ctx context.Context, what string, l net.Listener, h http.Handler, grace time.Duration, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      RequestTimeout + 5*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, accepted(c))
		},
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(limit(l, connLimit())) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s on %q: %w", what, l.Addr(), err)
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := srv.Shutdown(limit)
	if err != nil {
		err = errors.Join(fmt.Errorf("finish requests of %s: %w", what, err), srv.Close())
	}
	<-served
	return err
}
