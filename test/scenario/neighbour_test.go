// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// Neighbours that know the old MAC of a sandbox reach it immediately after it is recreated
// with the same addresses and another MAC: the kernel would take 7 s or more to resolve the
// address again.
func TestSameAddressAnotherMAC(t *testing.T) {
	t.Parallel()
	const atOnce = 3 * time.Second // on a busy machine
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web", "--subnet", "10.93.0.0/24", "--subnet", "fd93::/64")
		peer := l.Sandbox("peer", "--network", web)
		for _, mac := range []string{"02:42:00:00:00:01", "02:42:00:00:00:02", ""} {
			flags := []string{"--network", web, "--ip", "10.93.0.9", "--ip6", "fd93::9"}
			if mac != "" {
				flags = append(flags, "--mac-address", mac)
			}
			again := l.Sandbox("again", flags...)
			l.Echo(again.Host, 7)
			for _, f := range lab.Families() {
				began := time.Now()
				if err := l.Reach(atOnce, l.Host, "udp", f.Of("10.93.0.9", "fd93::9"), 7); err != nil {
					l.Errorf("MAC %q: %v", mac, err)
				}
				if err := l.Reach(atOnce, peer.Host, "udp", f.Of("10.93.0.9", "fd93::9"), 7); err != nil {
					l.Errorf("MAC %q: %v", mac, err)
				}
				t.Logf("MAC %q: reached in IPv%s within %v", mac, f, time.Since(began))
			}
			l.Fairlead("rm", "-f", "again")
		}
	})
}
