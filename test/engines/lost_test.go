// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"fmt"
	"strings"
	"time"
)

// The subnets of the network and of the pool that the engine loses.
const (
	lostSubnet = "10.71.0.0/24"
	lostPool   = "10.72.0.0/24" // of Fairlead's IPAM
)

// loses has the engine remove networks while Fairlead does not hear of it. A minute later
// Fairlead has forgotten them, which lost looks for after the other scenes.
func (d *docker) loses() {
	d.Helper()
	d.docker("network", "create", "-d", "fairlead", "--subnet", lostSubnet, "lost")
	d.docker("network", "create", "-d", "fairlead", "--ipam-driver", "fairlead", "--subnet", lostPool, "lost-pool")
	d.docker("network", "create", "-d", "fairlead", "lost-at-once")
	atOnce := d.firstName("lost-at-once")
	d.Refused(1, []string{"docker network rm", "fairlead network rm --force"}, "network", "rm", atOnce)
	d.Refused(1, []string{"is managed by", "(use: docker network rm "}, "network", "rm", "--force", atOnce)
	d.lost = []string{"lost", "lost-pool", d.firstName("lost"), d.firstName("lost-pool")}
	d.StopDaemon()
	stop := d.activate("--state-dir", "/proc/nowhere")
	d.docker("network", "rm", "lost", "lost-pool", "lost-at-once")
	stop()
	d.StartDaemon()
	d.Fairlead("network", "rm", "--force", atOnce)
	if names := d.networks(); len(names) != 5 {
		d.Errorf("networks are %q, want two that the engine has no more", names)
	}
}

// firstName is what Fairlead calls a network until it has learnt its name, and finds it
// by later.
func (d *docker) firstName(network string) string {
	d.Helper()
	return "docker-" + d.docker("network", "inspect", "--format", "{{.Id}}", network)[:12]
}

func (d *docker) networks() []string {
	d.Helper()
	return strings.Fields(d.Fairlead("network", "ls", "--format", "{{.Name}}"))
}

// lost wants what loses lost forgotten: the names and subnets are free.
func lost(d *docker) {
	d.Eventually(90*time.Second, func() error {
		if names := d.networks(); len(names) != 3 {
			return fmt.Errorf("networks are %q", names)
		}
		return nil
	})
	d.lost = nil
	d.docker("network", "create", "-d", "fairlead", "--subnet", lostSubnet, "lost")
	d.docker("network", "create", "-d", "fairlead", "--ipam-driver", "fairlead", "--subnet", lostPool, "lost-pool")
	d.Fairlead("network", "inspect", d.firstName("lost"))
	d.docker("network", "rm", "lost", "lost-pool")
}
