// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// plugin runs a program of a runtime on a lab's host, with a request, and returns its answer.
func plugin(l *lab.Lab, program, request string, env []string, args ...string) world.Result {
	l.Helper()
	path, err := lab.Program(program)
	if err != nil {
		l.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := world.Command(ctx, path, args...)
	cmd.Stdin, cmd.Env = strings.NewReader(request), append(os.Environ(), env...)
	r, err := l.Host.RunCommand(cmd)
	if err != nil {
		l.Fatal(err)
	}
	return r
}

// TestRuntimes attaches a container of a CNI runtime on one host, and one of podman's driver on the other, to
// a network of the cluster.
func TestRuntimes(t *testing.T) {
	p := newPair(t).start()
	a, b := p.a, p.b
	a.Fairlead("network", "create", "-d", "overlay", "-o", "fairlead.dns=true", "web")
	has(b, "web")
	pod, box := a.NewHost("pod"), b.NewHost("box")

	conf := `{"cniVersion":"1.1.0","name":"web","type":"fairlead-cni","driver":"overlay","host":"unix://` + a.Socket() + `"`
	cni := func(command, more string) world.Result {
		t.Helper()
		return plugin(a, "fairlead-cni", conf+more+"}", []string{
			"CNI_COMMAND=" + command, "CNI_CONTAINERID=pod", "CNI_NETNS=" + pod.NetNS(), "CNI_IFNAME=eth0", "CNI_PATH=/nowhere", "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=pod",
		})
	}
	added := cni("ADD", "")
	var result struct{ IPs []struct{ Address string } }
	if err := json.Unmarshal([]byte(added.Stdout), &result); err != nil || len(result.IPs) != 1 {
		t.Fatalf("ADD: %v, %s", err, added.Output())
	}
	address, _, _ := strings.Cut(result.IPs[0].Address, "/")

	options := `"options":{"fairlead.host":"unix://` + b.Socket() + `","fairlead.driver":"overlay"}`
	created := plugin(b, "fairlead-netavark", `{"name":"web","id":"`+strings.Repeat("a1", 32)+`","driver":"fairlead",`+options+`}`, nil, "create")
	if created.Code != 0 || !strings.Contains(created.Stdout, `"driver":"none"`) {
		t.Fatalf("create: %s", created.Output())
	}
	request := `{"container_id":"` + strings.Repeat("b2", 32) + `","container_name":"box","network":` + strings.TrimSpace(created.Stdout) +
		`,"network_options":{"interface_name":"eth0"}}`
	set := plugin(b, "fairlead-netavark", request, nil, "setup", box.NetNS())
	var status struct {
		Interfaces map[string]struct{ Subnets []struct{ IPNet string } }
	}
	if err := json.Unmarshal([]byte(set.Stdout), &status); err != nil || len(status.Interfaces["eth0"].Subnets) != 1 {
		t.Fatalf("setup: %v, %s", err, set.Output())
	}
	other, _, _ := strings.Cut(status.Interfaces["eth0"].Subnets[0].IPNet, "/")

	a.PingSoon(pod, other)
	b.PingSoon(box, address)
	gateway := a.Gateway("web", lab.IPv4)
	for _, query := range []struct {
		from       *world.Host
		name, want string
	}{{pod, "box.web.", other}, {box, "pod.web.", address}} {
		if got, err := lookup(query.from, gateway, query.name, 1); got != query.want {
			t.Errorf("%s is %q on the other host, %v; want %s", query.name, got, err, query.want)
		}
	}
	if r := cni("CHECK", `,"prevResult":`+added.Stdout); r.Code != 0 {
		t.Errorf("CHECK: %s", r.Output())
	}
	if r := cni("GC", `,"cni.dev/valid-attachments":[]`); r.Code != 0 {
		t.Errorf("GC: %s", r.Output())
	}
	if r := cni("DEL", ""); r.Code != 0 {
		t.Errorf("DEL: %s", r.Output())
	}
	if r := plugin(b, "fairlead-netavark", request, nil, "teardown", box.NetNS()); r.Code != 0 {
		t.Errorf("teardown: %s", r.Output())
	}
	b.Eventually(10*time.Second, func() error {
		if r := b.Try("network", "rm", "web"); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
}
