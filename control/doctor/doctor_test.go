// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/loader/probe"
)

func TestDiagnosis(t *testing.T) {
	kernel := probe.Feature{Name: "kernel", OK: true, Required: true, Why: "Linux 6.1.0"}
	tcx := probe.Feature{Name: "tcx", Why: "tried", Consequence: "clsact instead."}
	bpffs := probe.Feature{Name: "bpffs", Required: true, Why: "not found", Consequence: "Mount it."}
	for _, test := range []struct {
		name string
		list []probe.Feature
		want string
	}{
		{"all available", []probe.Feature{kernel}, `Fairlead can work here. (Linux 6.1.0)

Available
  kernel: Linux 6.1.0
`},
		{"optional missing", []probe.Feature{kernel, tcx}, `Fairlead can work here; some optional features are missing. (Linux 6.1.0)

Optional, missing
  tcx: tried
    clsact instead.

Available
  kernel: Linux 6.1.0
`},
		{"required missing", []probe.Feature{kernel, tcx, bpffs}, `Fairlead cannot work here. (Linux 6.1.0)

Required, missing
  bpffs: not found
    Mount it.

Optional, missing
  tcx: tried
    clsact instead.

Available
  kernel: Linux 6.1.0
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := diagnosis(probe.Features{Release: "6.1.0", List: test.list})
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDoctorWithoutDaemon(t *testing.T) {
	var out bytes.Buffer
	if _, err := Report(t.Context(), &out, "unix://"+filepath.Join(t.TempDir(), "api.sock")); err != nil {
		t.Fatal(err)
	}
	for _, section := range []string{"\nDaemon\n  ", "\n  shaping: "} {
		if !strings.Contains(out.String(), section) {
			t.Errorf("no %q in:\n%s", section, &out)
		}
	}
}

func TestShaping(t *testing.T) {
	for _, tt := range []struct {
		err  error
		ok   bool
		text string
	}{
		{nil, true, "it works"},
		{&model.Refusal{Kind: model.ErrNotSupported, Text: "no"}, false, "sch_tbf"},
		{errors.New("EPERM"), false, "could not be tried (EPERM)"},
	} {
		got := shaping(tt.err)
		if got.OK != tt.ok || got.Required || !strings.Contains(got.Why, tt.text) || (got.Consequence == "") != tt.ok {
			t.Errorf("%v: %+v", tt.err, got)
		}
	}
}

func TestDoctorNamesBypassedRules(t *testing.T) {
	if got := bypassed(nil, nil); got != "" {
		t.Errorf("no rules: %q", got)
	}
	if got := bypassed([]string{"nft table ip filter, chain DOCKER-USER"}, nil); !strings.Contains(got, "\n  nft table ip filter, chain DOCKER-USER\n") {
		t.Errorf("a rule: %q", got)
	}
	if got := bypassed(nil, errors.New("no netlink")); !strings.Contains(got, "published ports: no netlink") {
		t.Errorf("an error: %q", got)
	}
}

// The report names the store and each host that does not work, with the remedy.
func TestDescribeCluster(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	nodes := []api.Node{
		{Name: "a", Self: true, Status: api.NodeUp},
		{Name: "b", Status: api.NodeUp, Device: "eth0", Address: "192.0.2.2"},
		{Name: "c", Status: api.NodeUp, Address: "192.0.2.3"},
		{Name: "d", Status: api.NodeDown, Device: "eth0", Address: "192.0.2.4", LastSeen: since},
	}
	well := &api.ClusterStatus{Store: "etcd://192.0.2.1:2379", Reachable: true, Number: 1, Nodes: 1}
	if got := describeCluster(well, nodes[:2]); len(got) > 0 {
		t.Errorf("nothing is wrong, and the report says %q", got)
	}
	ill := &api.ClusterStatus{Store: "etcd://192.0.2.1:2379", Since: since, Error: "connection refused", Waiting: 2}
	want := []string{
		"the store etcd://192.0.2.1:2379 does not answer since 2026-01-02 03:04:05: connection refused (what runs goes on; sandboxes cannot join shared networks)",
		"this host is not registered since the daemon's start (see its log)",
		"other hosts do not know the sandboxes here of 2 networks yet",
		"there is no route to host c at 192.0.2.3 (add one, or correct its --advertise)",
		"host d at 192.0.2.4 is down since 2026-01-02 03:04:05 (if it does not come back: fairlead node rm d)",
	}
	if diff := cmp.Diff(want, describeCluster(ill, nodes)); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestPathProblems(t *testing.T) {
	node := api.Node{Name: "b", Address: "192.0.2.2", Device: "eth0", Status: api.NodeUp}
	for _, test := range []struct {
		path api.NodePath
		want string // begins the line; "": there is none
	}{
		{api.NodePath{State: model.PathWorks, Probes: 20, LargeProbes: 20, Lost: 1}, ""},
		{api.NodePath{Probes: 2, LargeProbes: 2, Lost: 1}, ""},
		{api.NodePath{State: model.PathWorks, Probes: 20, LargeProbes: 20, Lost: 2, LargeLost: 2}, "4 of the last 40 probes of host b at 192.0.2.2 got no answer: packets are lost"},
		{api.NodePath{State: model.PathOutbound}, "packets to host b at 192.0.2.2 do not arrive, and those from there do (let firewalls pass UDP to the VXLAN port of that host,"},
		{api.NodePath{State: model.PathSilent, Encrypted: true}, "no packets of encrypted networks arrive from host b at 192.0.2.2 (let firewalls pass UDP to the WireGuard port of both hosts,"},
		{api.NodePath{State: model.PathLargeOutbound, LargeSize: 1450}, "packets with 1450 bytes to host b at 192.0.2.2 do not arrive, and smaller ones do (raise the MTU"},
		{api.NodePath{State: model.PathLarge, LargeSize: 1450}, "no packets with 1450 bytes arrive from host b at 192.0.2.2, and smaller ones do (raise the MTU"},
	} {
		node.Paths = []api.NodePath{test.path}
		got := describeCluster(&api.ClusterStatus{Reachable: true, Number: 1}, []api.Node{node})
		if test.want == "" && len(got) > 0 || test.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], test.want)) {
			t.Errorf("%+v: %q, want %q", test.path, got, test.want)
		}
	}
}

func TestLinkProblems(t *testing.T) {
	on := func(driver, parent string) api.Network {
		return api.Network{Name: "n" + parent, Driver: driver, Options: map[string]string{model.OptParent: parent}}
	}
	networks := []api.Network{{Name: "web", Driver: model.DriverBridge}, on(model.DriverLAN, "eth0"), on(model.DriverLAN, "eth1"), on(model.DriverMacvlan, "eth1"), {Name: "n", Driver: model.DriverLAN}}
	got := linkProblems(networks, func(parent string) string {
		if parent == "eth1" {
			return "; that is down"
		}
		return ""
	})
	if diff := cmp.Diff([]string{"neth1: on eth1; that is down"}, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestUncarriedNetworks(t *testing.T) {
	networks := []api.Network{
		{Name: "web", Driver: model.DriverBridge},
		{Name: "lan", Driver: model.DriverMacvlan, Uncarried: true, Options: map[string]string{model.OptParent: "eth0"}},
		{Name: "alone", Driver: model.DriverIPvlan, Uncarried: true},
	}
	const want = `
Networks whose packets no program of Fairlead sees, counts, checks or publishes
  lan: macvlan on eth0; that is down
  alone: ipvlan on a parent of its own
`
	if got := describeUncarried(networks, func(parent string) string { return "; that is down" }); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := describeUncarried(networks[:1], nil); got != "" {
		t.Errorf("without such networks: %q", got)
	}
}
