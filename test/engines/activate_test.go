// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/world"
)

// activate does what systemd does with fairlead.socket and fairlead.service: it starts
// a daemon with these flags when somebody connects, and again when that has ended.
// The function it returns ends both.
func (d *docker) activate(flags ...string) (stop func()) {
	d.Helper()
	path := filepath.Join(plugins, "fairlead.sock")
	l, err := d.Host.Listen("unix", path)
	if err != nil {
		d.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // the host owns the path
	file, err := l.(*net.UnixListener).File()
	if err != nil {
		d.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer l.Close()
		defer file.Close()
		for d.awaitConnection(ctx, file) {
			// LISTEN_PID is to be the daemon's own.
			cmd := world.Command(ctx, "sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh", d.Binary}, d.DaemonArgs(flags...)...)...)
			cmd.Env = append(os.Environ(), "LISTEN_FDS=1")
			cmd.ExtraFiles = []*os.File{file}
			daemon, err := d.Host.SpawnCommand(cmd)
			if err != nil {
				d.Error(err)
				return
			}
			select {
			case <-daemon.Done():
			case <-ctx.Done():
				daemon.Stop(10 * time.Second)
			}
		}
	}()
	return func() {
		cancel()
		<-ended
		d.Must(d.Host, "rm", "-f", path)
	}
}

// awaitConnection waits until there is one to accept; false: ctx ended.
func (d *docker) awaitConnection(ctx context.Context, listener *os.File) bool {
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(listener.Fd()), Events: unix.POLLIN}}, 50)
		if err != nil && err != unix.EINTR { //nolint:errorlint // an errno, as returned
			d.Error(err)
			return false
		}
		if n > 0 {
			return true
		}
	}
	return false
}
