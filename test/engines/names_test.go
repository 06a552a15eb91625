// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"errors"
	"path/filepath"
	"strings"
	"time"
)

// Containers and networks are called what Docker calls them, wherever Fairlead shows
// them, also after docker rename; a name that Fairlead has assigned stays with its holder.
func names(d *docker) {
	d.docker("network", "create", "-d", "fairlead", "web")
	for range 5 { // at once
		id := d.docker("run", "-d", "-P", "--expose", "80", "--network", "web", image)
		if out := d.Fairlead("port", id, "80/tcp"); !strings.HasPrefix(out, "0.0.0.0:") {
			d.Errorf("fairlead port: %q", out)
		}
		d.docker("rm", "-f", id)
	}
	d.run("ben", "--network", "web", "-p", "18080:80")
	d.shown("ben", "{{.ID}}")
	shows := func(want string, args ...string) {
		d.Helper()
		d.Eventually(10*time.Second, func() error {
			if out := d.Try(args...).Output(); !strings.Contains(out, want) {
				return errors.New(strings.Join(args, " ") + " shows " + out)
			}
			return nil
		})
	}
	shows("web", "network", "ls", "--format", "{{.Name}}")
	shows(`"Name": "ben"`, "network", "inspect", "web")
	shows("80/tcp -> 0.0.0.0:18080", "port", "ben")
	shows("80/tcp -> 0.0.0.0:18080", "port", d.docker("inspect", "--format", "{{.Id}}", "ben"))
	made := "docker-" + filepath.Base(d.docker("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", "ben"))
	shows("80/tcp -> 0.0.0.0:18080", "port", made)
	shows(`"Name": "web"`, "network", "inspect", d.firstName("web"))
	if d.Metrics()[`fairlead_published_ports{network="web"}`] != 1 {
		d.Error("the metrics do not call the network web")
	}
	d.docker("rename", "ben", "benjamin")
	shows("80/tcp -> 0.0.0.0:18080", "port", "benjamin")
	d.Refused(1, []string{"no such sandbox"}, "port", "ben")

	d.Fairlead("sandbox", "create", "mine", "--network", "none")
	d.Fairlead("network", "create", "ours")
	d.docker("network", "create", "-d", "fairlead", "ours")
	d.run("mine", "--network", "ours")
	shows("docker-", "inspect", d.docker("inspect", "--format", "{{.Id}}", "mine")) // once that is learnt
	if got := d.Fairlead("ps", "--filter", "network="+d.firstName("ours"), "--format", "{{.Names}}"); !strings.HasPrefix(got, "docker-") {
		d.Errorf("a container whose name another has is called %s", got)
	}
	d.Refused(1, []string{"is managed by a container engine"}, "rm", "benjamin")
	d.Refused(1, []string{"docker network rm web"}, "network", "rm", "web")
	d.Refused(1, []string{"docker network rm web"}, "network", "create", "web")
	d.docker("rm", "-f", "benjamin", "mine")
	d.docker("network", "rm", "web", "ours")
	d.Fairlead("rm", "mine")
	d.Fairlead("network", "rm", "ours")
}
