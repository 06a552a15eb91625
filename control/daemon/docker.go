// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/fairlead-net/fairlead/control/dockerplugin"
)

// adoptDockerSocket takes the socket that systemd passed to the daemon for the drivers, if any.
func (d *daemon) adoptDockerSocket() error {
	l, err := d.cfg.Dirs.AdoptPluginSocket(d.passed)
	d.useDockerSocket(l)
	return err
}

// checkDockerSocket refuses, before a running daemon is asked to end, what listenDocker would
// refuse later.
func (d *daemon) checkDockerSocket() error {
	if d.dockerSocket != nil {
		return nil
	}
	return d.cfg.Dirs.CheckPluginSocket()
}

// listenDocker opens the socket of the Docker Engine's drivers, if there is none yet. Requests wait
// until the daemon serves it.
func (d *daemon) listenDocker() error {
	if d.dockerSocket != nil {
		return nil
	}
	l, err := d.cfg.Dirs.ListenPlugin()
	d.useDockerSocket(l)
	return err
}

func (d *daemon) useDockerSocket(l net.Listener) {
	if l != nil {
		d.dockerSocket = l
		d.onClose("Docker's socket", l.Close)
	}
}

// refuseTime is how long a daemon that cannot start answers engines whose requests made systemd
// start it. If it just ended, they would retry for 15 s.
const refuseTime = time.Second

// Refuse answers engines that made systemd start this process with the reason why the daemon does
// not run, as [Run] does when it cannot start.
func Refuse(ctx context.Context, reason error, log *slog.Logger) {
	passed, _ := sortPassed(activation.Files(true))
	(&daemon{passed: passed, log: log}).refuseDocker(ctx, reason)
}

// refuseDocker answers all requests of engines at systemd's sockets with the reason of the
// failure.
func (d *daemon) refuseDocker(ctx context.Context, reason error) {
	ctx, cancel := context.WithTimeout(ctx, refuseTime)
	defer cancel()
	var all sync.WaitGroup
	for _, l := range d.passed {
		if l == nil {
			continue // not a listening socket
		}
		all.Go(func() {
			if err := dockerplugin.Refuse(ctx, l, fmt.Errorf("fairlead cannot start: %w", reason), d.log); err != nil {
				d.log.Warn("cannot report the startup failure to Docker", "err", err)
			}
		})
	}
	all.Wait()
}
