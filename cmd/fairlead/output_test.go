// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/apitest"
	"github.com/fairlead-net/fairlead/control/model"
)

// populated returns a world with a network and four sandboxes.
func populated(t *testing.T) *world {
	w := newWorld(t)
	w.ok("network", "create", "--ipv6", "--subnet", "10.5.0.0/24", "--subnet", "fd00:5::/64", "--gateway", "10.5.0.9", "--ip-range", "10.5.0.128/25",
		"--aux-address", "router=10.5.0.8", "--label", "env=prod", "--attachable", "-o", "com.docker.network.driver.mtu=1400", "web")
	w.fake.Add(model.Sandbox{
		Name: "front", NetworkMode: "web", NetNS: "/run/fairlead/netns/front", Hostname: "front", Command: []string{"nginx", "-g", "daemon off; error_log stderr;"},
		Labels: map[string]string{"tier": "1"}, Expose: []model.PortProto{{Port: 443, Count: 1, Proto: model.TCP}},
		Ports: []model.PortBinding{
			{HostPort: 8080, Port: 80, Count: 1, Proto: model.TCP, From: "10.0.0.0/8,192.0.2.7/32,2001:db8::/32"},
			{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 9000, Port: 9000, Count: 11, Proto: model.UDP},
			{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 9011, Port: 9011, Count: 1, Proto: model.UDP},
			{HostIP: netip.MustParseAddr("fd00::7"), HostPort: 53, Port: 5353, Count: 1, Proto: model.UDP},
		},
	}, "web", "bridge")
	w.fake.Add(model.Sandbox{Name: "done", NetworkMode: "none", PID: 1, Exited: true, ExitCode: 3, Command: []string{"false"}, Created: apitest.Created().Add(time.Hour)})
	w.fake.Add(model.Sandbox{Name: "unseen", NetworkMode: "host", PID: 1, Exited: true, ExitCode: -1, Created: apitest.Created().Add(89 * time.Minute)})
	w.fake.Add(model.Sandbox{Name: "box", NetworkMode: "bridge", Created: apitest.Created().Add(-72 * time.Hour)}, "bridge")
	w.fake.FlowList = []api.Flow{{Protocol: "tcp", State: "established", Source: "10.5.0.2:4000", Destination: "192.0.2.1:80", ReplySource: "192.0.2.1:80",
		ReplyDestination: "198.51.100.1:4000", Network: "web", AgeSeconds: 61.4, ExpiresSeconds: 86400}}
	return w
}

func TestOutputs(t *testing.T) {
	w := populated(t)
	var all strings.Builder
	for _, line := range []string{
		"network ls", "network ls -q", "network ls --no-trunc --filter type=custom", "network ls --format json --filter name=web",
		`network ls --filter label=env --format table_{{.Name}}\t{{.Label_"env"}}\t{{.IPv6}}`, "network ls --format {{.Name}}:{{.Driver}}",
		"network inspect web", "network inspect -f {{.Name}}_{{len_.Containers}}_{{(index_.IPAM.Config_0).Subnet}} web bridge",
		"ps", "ps -a", "ps -aq --no-trunc", "ps --filter status=exited --format {{.Names}}_{{.Status}}", "ps -a --format json --filter name=box",
		"ps -aq --filter publish=8000-8100", "ps -aq --filter publish=8080/udp", "ps -aq --filter expose=9011/udp --filter expose=443 --filter name=front",
		"inspect front", "inspect --format {{json_.NetworkSettings.Networks.web.IPAddress}} front",
		"port front", "port front 80", "port front 5353/udp",
		"ct ls", "ct ls -q --filter proto=tcp --filter port=80 --limit 5", "ct flush",
		"status", "status --format {{.Attach}}",
	} {
		args := strings.Fields(line)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "_", " ")
		}
		out := w.ok(args...)
		out = strings.ReplaceAll(out, w.fake.State.RunDir, "/run/fairlead")
		all.WriteString("$ fairlead " + strings.Join(args, " ") + "\n" + out + "\n")
	}
	golden(t, "outputs.txt", all.String())
	w.fake.Add(model.Sandbox{Name: "loose", NetworkMode: "web"}) // it was disconnected
	if out := w.ok("ps", "-a", "--filter", "name=loose", "--format", "{{.Networks}}"); out != "\n" {
		t.Errorf("networks of a sandbox without any: %s", out)
	}
	if want := (api.FlowFilter{}); w.fake.Filter != want {
		t.Errorf("filter of ct flush: %+v", w.fake.Filter)
	}
}

func TestInspectShowsWhatThereIs(t *testing.T) {
	w := populated(t)
	code, out, stderr := w.run("network", "inspect", "-f", "{{.Name}}", "web", "nothing", "bridge")
	if code != 1 || out != "web\nbridge\n" || stderr != "fairlead: network nothing not found (see: fairlead network ls)\n" {
		t.Errorf("got %d, %q, %q", code, out, stderr)
	}
}

func TestRemovals(t *testing.T) {
	w := populated(t)
	code, out, stderr := w.run("network", "rm", "nothing", "web")
	if code != 1 || out != "web\n" || stderr != "fairlead: network nothing not found (see: fairlead network ls)\n" {
		t.Errorf("network rm: got %d, %q, %q", code, out, stderr)
	}
	if out := w.ok("network", "rm", "-f", "nothing"); out != "" {
		t.Errorf("network rm -f: %q", out)
	}
	if last := w.fake.Events[len(w.fake.Events)-1]; last != "force nothing" {
		t.Errorf("network rm -f asked for %q", last)
	}
	if out := w.ok("rm", "done", "box"); out != "done\nbox\n" {
		t.Errorf("rm: %q", out)
	}
	if out := w.ok("rm", "-f", "nobody"); out != "" {
		t.Errorf("rm -f: %q", out)
	}
	w.ok("network", "create", "spare")
	if out := w.ok("network", "prune", "-f", "--filter", "until=10m"); out != "Deleted Networks:\nspare\n\n" {
		t.Errorf("prune: %q", out)
	}
	w.ok("network", "create", "spare")
	w.env.stdin = strings.NewReader("y\n")
	if out := w.ok("network", "prune"); !strings.Contains(out, "[y/N] Deleted Networks:\nspare\n") {
		t.Errorf("confirmed prune: %q", out)
	}
	w.ok("network", "disconnect", "-f", "bridge", "front")
	if last := w.fake.Events[len(w.fake.Events)-1]; last != "disconnect bridge front force=true" {
		t.Errorf("disconnect: %q", last)
	}
}

func TestAge(t *testing.T) {
	now := apitest.Created()
	for d, want := range map[time.Duration]string{
		-time.Hour: "0 seconds ago", time.Second: "1 second ago", 59 * time.Second: "59 seconds ago", time.Minute: "1 minute ago",
		time.Hour: "1 hour ago", 47 * time.Hour: "47 hours ago", 48 * time.Hour: "2 days ago",
	} {
		if got := age(now, now.Add(-d)); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}
