// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// TestPodmanOverlay makes a network of a cluster a network of podman: the cluster allocates the addresses of
// containers and sandboxes, and the network outlives podman's.
func TestPodmanOverlay(t *testing.T) {
	lab.EmbeddedStore(t)
	e := newEngineWith(t, lab.Config{DaemonArgs: []string{"--store", "embed", "--store-token", "none"}})
	e.installPlugin()
	e.importImage()
	create := []string{"network", "create", "-d", "fairlead", "-o", "fairlead.driver=overlay"}
	e.refused("network shop does not exist in the cluster", append(create, "shop")...)
	e.Eventually(20*time.Second, func() error {
		if r := e.Try("network", "create", "-d", "overlay", "--ipv6", "-o", "fairlead.dns=true", "shop"); r.Code != 0 {
			return fmt.Errorf("%s", r.Stderr)
		}
		return nil
	})
	e.refused("the configuration says", append(create, "-o", "mtu=1300", "shop")...)
	e.podman(append(create, "shop")...)
	e.httpd("anna", "--network", "shop", "-p", "8080:80")
	e.httpd("ben", "--network", "shop")
	anna, ben, cli := e.address("anna", "shop"), e.address("ben", "shop"), e.Sandbox("cli", "--network", "shop")
	if anna.IPAddress == ben.IPAddress || cli.IP4.String() == ben.IPAddress || anna.GlobalIPv6Address == "" {
		t.Errorf("anna has %+v, ben %+v, cli %v", anna, ben, cli.IP4)
	}
	e.served(e.Outside, "http://"+lab.Host4+":8080/")
	e.served(cli.Host, "http://"+anna.IPAddress+"/")
	if got := e.podman("exec", "ben", "wget", "-qO-", "http://anna/"); got != "served" {
		t.Errorf("asked as anna, the container answers %q", got)
	}
	e.refused("Address already in use", "run", "--rm", "--network", "shop:ip="+cli.IP4.String(), image, "/bin/busybox", "true")
	e.podman("restart", "--time", "0", "anna")
	e.served(e.Outside, "http://"+lab.Host4+":8080/")
	e.podman("rm", "--all", "--force", "--time", "0")
	e.podman("network", "rm", "shop")
	e.Remove(cli)
	e.Eventually(10*time.Second, func() error {
		if held := e.Fairlead("ipam", "ls", "-q", "shop"); held != "" {
			return fmt.Errorf("held: %s", held)
		}
		return nil
	})
	e.Fairlead("network", "rm", "shop")
}
