// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/world"
)

// wireguardDir is where a WireGuard in user space is configured.
const wireguardDir = "/var/run/wireguard"

var wireguardProgram = sync.OnceValues(func() (string, error) { return Tool("golang.zx2c4.com/wireguard") })

// UserSpaceWireGuard starts a WireGuard in user space on the host, for the daemon's device: this machine's
// kernel may have none. It ends with the test.
func (l *Lab) UserSpaceWireGuard() *world.Process {
	l.Helper()
	program, err := wireguardProgram()
	l.must(err)
	l.must(l.Host.Do(func() error {
		if err := os.MkdirAll(wireguardDir, 0o755); err != nil {
			return err
		}
		return unix.Mount("wireguard", wireguardDir, "tmpfs", 0, "") // each host has its own
	}))
	p := l.Spawn(l.Host, program, "-f", "flwg0")
	l.Eventually(10*time.Second, func() error {
		return l.Host.Do(func() error {
			_, err := os.Stat(wireguardDir + "/flwg0.sock")
			return err
		})
	})
	return p
}
