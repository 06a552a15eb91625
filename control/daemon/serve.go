// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
)

const reapInterval = 2 * time.Second

// serve runs all parts until ctx ends or one part fails, and returns when all have ended.
func (d *daemon) serve(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	run := func(what string, part func(context.Context) error) {
		group.Go(func() error {
			if err := part(ctx); err != nil && !errors.Is(err, context.Canceled) {
				return fmt.Errorf("%s: %w", what, err)
			}
			return nil
		})
	}
	run("serve the API", func(ctx context.Context) error { return d.server.Serve(ctx, d.apiSocket) })
	run("keep the kernel as desired", d.reconciler.Run)
	run("expire flows", d.collector.Run)
	run("reap sandboxes", d.reap)
	run("serve DNS", d.dns.Run)
	run("follow resolv.conf", d.files.Run)
	run("end sockets of removed backends", d.sockets.Run)
	run("announce addresses", d.announcer.Run)
	run("keep DHCP leases", d.leases.Run)
	if d.cluster != nil {
		run("take part in the cluster", d.runCluster)
		run("follow other nodes", d.cluster.Peers.Run)
		run("query multicast groups", d.querier.Run)
		run("probe other nodes", d.reach.Run)
	}
	if d.dockerSocket != nil {
		run("serve Docker", func(ctx context.Context) error { return d.docker.Serve(ctx, d.dockerSocket) })
	}
	if d.namer != nil {
		run("fetch Docker's names", d.namer.Run)
	}
	if d.metricsSocket != nil {
		run("serve metrics", d.serveMetrics)
	}
	return group.Wait()
}

// reap removes sandboxes that should be removed with their program and whose client could not
// report its exit, and objects that container engines have abandoned; first those that did not
// survive a reboot. Since reaping needs the same locks as everything else, it also feeds
// systemd's watchdog.
func (d *daemon) reap(ctx context.Context) error {
	tick := time.NewTicker(reapInterval)
	defer tick.Stop()
	for {
		if err := errors.Join(d.controller.Reap(ctx), d.engine.Reap(ctx)); err != nil && ctx.Err() == nil {
			d.log.Warn("cannot reap sandboxes", "err", err)
		}
		d.notify(systemd.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// serveMetrics serves Prometheus. It aborts scrapes when the daemon ends, since no work is lost.
func (d *daemon) serveMetrics(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", d.metrics.Handler())
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(d.metricsSocket); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
