// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/control/attach"
	"github.com/fairlead-net/fairlead/control/model"
)

func TestDaemonAbsent(t *testing.T) {
	w := newWorld(t)
	conf := w.conf(keys{"host": "unix:///nowhere/api.sock"})
	_, err := w.Add(t.Context(), at("c1", "/proc/self/ns/net"), conf)
	w.refused(err, types.ErrTryAgainLater, `no daemon listens at /nowhere/api.sock; start it with "fairlead daemon", or name its socket with "host" in the network configuration`)
	w.refused(w.Del(t.Context(), at("c1", ""), conf), types.ErrTryAgainLater, "/nowhere/api.sock")
	w.refused(w.Check(t.Context(), at("c1", "/proc/self/ns/net"), w.conf(keys{"host": "unix:///nowhere/api.sock", "prevResult": keys{"cniVersion": "1.1.0"}})),
		types.ErrTryAgainLater, "/nowhere/api.sock")
	w.refused(w.GC(t.Context(), w.conf(keys{"host": "unix:///nowhere/api.sock", keyValid: []keys{}})), types.ErrTryAgainLater, "/nowhere/api.sock")
	w.refused(w.Plugin.Status(t.Context(), conf), types.ErrPluginNotAvailable, "/nowhere/api.sock")
	w.must(w.Plugin.Status(t.Context(), w.conf(nil)))
}

func TestDel(t *testing.T) {
	w := newWorld(t)
	ns := w.namespace("ns")
	conf, second := w.conf(nil), w.conf(keys{"name": "second"})
	a := at("c1", ns)
	w.add(a, conf)
	b := a
	b.IfName = "eth1"
	w.add(b, second)
	for _, other := range []Attachment{{ContainerID: "c1", IfName: "eth7"}, {ContainerID: "nobody", IfName: "eth0"}} {
		w.must(w.Del(t.Context(), other, conf))
	}
	w.must(w.Del(t.Context(), a, w.conf(keys{"name": "elsewhere", "misspelt": true}))) // DEL is not strict
	if n := w.Snapshot().Counts().Endpoints; n != 2 {
		t.Errorf("%d endpoints, want both", n)
	}
	w.must(w.Del(t.Context(), a, conf))
	w.must(w.Del(t.Context(), a, conf))
	if n := w.Snapshot().Counts().Endpoints; n != 1 || w.Names() != "cni-c1" {
		t.Errorf("%d endpoints of %s, want one of cni-c1", n, w.Names())
	}
	w.add(a, conf)
	w.must(os.Remove(ns)) // the namespace and everything in it no longer exist
	b.NetNS = ""
	w.must(w.Del(t.Context(), b, second))
	if got := w.Names(); got != "" {
		t.Errorf("sandboxes %s, want none", got)
	}
	// A sandbox that another program created is kept.
	_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{Name: "cni-mine", NetworkMode: "pods", Endpoint: model.EndpointSpec{Network: "pods"}})
	w.must(err)
	w.must(w.Del(t.Context(), at("mine", ""), conf))
	if got := w.Names(); got != "cni-mine" {
		t.Errorf("sandboxes %q, want cni-mine", got)
	}
}

// A container whose namespace ended without a DEL, at a reboot, can be added again.
func TestAddAfterTheNamespaceWent(t *testing.T) {
	w := newWorld(t)
	old := w.namespace("old")
	w.add(at("c1", old), w.conf(nil))
	w.must(os.Remove(old))
	again := w.namespace("again")
	w.add(at("c1", again), w.conf(nil))
	sb, err := w.Sandbox("cni-c1")
	w.must(err)
	if sb.NetNS != again || w.Snapshot().Counts().Endpoints != 1 {
		t.Errorf("sandbox = %+v, %d endpoints", sb, w.Snapshot().Counts().Endpoints)
	}
}

// A container that ended without a DEL does not keep its port and address forever.
func TestAddTakesFromTheDead(t *testing.T) {
	w := newWorld(t)
	old := w.namespace("old")
	conf := w.conf(keys{"subnets": []keys{{"subnet": "10.1.0.0/16"}}, "runtimeConfig": keys{
		"ips": []string{"10.1.0.9"}, "portMappings": []keys{{"hostPort": 8080, "containerPort": 80}},
	}})
	w.add(at("c1", old), conf)
	other := at("c2", w.namespace("other"))
	_, err := w.Add(t.Context(), other, conf)
	w.refused(err, errConflict, `"cni-c1"`)
	w.must(os.Remove(old))
	_, err = w.Add(t.Context(), other, conf)
	w.refused(err, errConflict, `"cni-c1"`) // the daemon still sees it
	for _, lives := range []error{
		&model.Refusal{Kind: model.ErrConflict, Text: "not at its path"}, // but its device exists
		&model.Refusal{Kind: model.ErrNotSupported, Text: "this kernel cannot tell"},
		errors.New("out of memory"),
	} {
		w.Broken = lives
		_, err = w.Add(t.Context(), other, conf)
		w.refused(err, errConflict, `"cni-c1"`)
		if got := w.Names(); got != "cni-c1" {
			t.Errorf("sandboxes %s while a check says %q, want cni-c1", got, lives)
		}
	}
	w.Broken = &model.Refusal{Kind: model.ErrVanished, Text: "gone"}
	w.add(other, conf)
	if got := w.Names(); got != "cni-c2" {
		t.Errorf("sandboxes %s, want cni-c2", got)
	}
}

func TestCheck(t *testing.T) {
	w := newWorld(t)
	a := at("c1", "/proc/self/ns/net")
	var prev keys
	w.must(json.Unmarshal([]byte(w.add(a, w.conf(nil))), &prev))
	conf := w.conf(keys{"prevResult": prev})
	w.must(w.Check(t.Context(), a, conf))
	w.refused(w.Check(t.Context(), a, w.conf(nil)), types.ErrInvalidNetworkConfig, "prevResult")
	b := a
	b.IfName = "eth1"
	w.refused(w.Check(t.Context(), b, conf), types.ErrUnknownContainer, "no interface eth1 in network pods")
	w.refused(w.Check(t.Context(), at("c2", a.NetNS), conf), types.ErrUnknownContainer, "container c2")
	w.refused(w.Check(t.Context(), at("c1", "/elsewhere"), conf), types.ErrInvalidEnvironmentVariables, "not /elsewhere")
	var id string
	for ep := range w.Snapshot().Endpoints() {
		id = ep.ID
	}
	gateway := netip.MustParseAddr(prev["routes"].([]any)[0].(map[string]any)["gw"].(string))
	for _, tt := range []struct {
		routes any
		want   []netip.Addr
	}{
		{prev["routes"], []netip.Addr{gateway}},
		{[]keys{{"dst": "0.0.0.0/0", "gw": "192.0.2.9"}, {"dst": "192.0.2.0/24", "gw": gateway}}, nil}, // of another plugin
		{nil, nil},
	} {
		now := maps.Clone(prev)
		now["routes"] = tt.routes
		w.must(w.Check(t.Context(), a, w.conf(keys{"prevResult": now})))
		if diff := cmp.Diff(api.Expected{EndpointID: id, Gateways: tt.want}, w.Expected, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("routes %v: compared (-want +got):\n%s", tt.routes, diff)
		}
	}
	for _, part := range []string{"interfaces", "ips", "routes"} {
		now := maps.Clone(prev)
		now[part] = []any{nil}
		w.refused(w.Check(t.Context(), a, w.conf(keys{"prevResult": now})), types.ErrDecodingFailure, "prevResult: null")
	}
	w.Broken = &model.Refusal{Kind: model.ErrConflict, Text: "cracked"}
	w.refused(w.Check(t.Context(), a, conf), errConflict, "cracked")
	w.Broken = nil
	iface := prev["interfaces"].([]any)[0].(map[string]any)
	mac := iface["mac"]
	iface["mac"] = "02:00:00:00:00:09" // set by a later plugin
	w.refused(w.Check(t.Context(), a, w.conf(keys{"prevResult": prev})), errConflict, "not 02:00:00:00:00:09")
	iface["mac"] = strings.ToUpper(mac.(string))
	w.must(w.Check(t.Context(), a, w.conf(keys{"prevResult": prev})))
	prev["ips"].([]any)[0].(map[string]any)["address"] = "10.9.9.9/24"
	w.refused(w.Check(t.Context(), a, w.conf(keys{"prevResult": prev})), errConflict, "no address 10.9.9.9/24")
}

func TestGC(t *testing.T) {
	w := newWorld(t)
	conf, second := w.conf(nil), w.conf(keys{"name": "second"})
	for i, id := range []string{"keep", "drop", "half"} {
		a := at(id, w.namespace(fmt.Sprint(i)))
		w.add(a, conf)
		if id == "half" {
			a.IfName = "eth1"
			w.add(a, second)
		}
	}
	_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{Name: "lodger", NetworkMode: "pods", Endpoint: model.EndpointSpec{Network: "pods"}})
	w.must(err)
	w.refused(w.GC(t.Context(), conf), types.ErrInvalidNetworkConfig, "would remove everything")
	valid := []keys{{"containerID": "keep", "ifname": "eth0"}, {"containerID": "half", "ifname": "eth9"}}
	w.must(w.GC(t.Context(), w.conf(keys{keyValid: valid})))
	if got := w.Names(); got != "cni-half cni-keep lodger" {
		t.Errorf("sandboxes after GC: %s", got)
	}
	w.must(w.GC(t.Context(), w.conf(keys{keyValid: []keys{}})))
	w.must(w.GC(t.Context(), w.conf(keys{keyValid: []keys{}, "name": "second"})))
	w.must(w.GC(t.Context(), w.conf(keys{keyValid: nil, "name": "nowhere"})))
	if got := w.Names(); got != "lodger" {
		t.Errorf("sandboxes after GC of all: %s", got)
	}
}

func TestTwoErrorsAsOne(t *testing.T) {
	w := &world{T: t}
	first := &model.Refusal{Kind: model.ErrInvalid, Text: "first"}
	second := types.NewError(types.ErrIOFailure, "second", "")
	w.refused(both(first, second), types.ErrInvalidNetworkConfig, "first; second")
	w.refused(both(nil, second), types.ErrIOFailure, "second")
	w.refused(coded(errors.Join(first, first)), types.ErrInvalidNetworkConfig, "first")
	if err := both(nil, nil); err != nil {
		t.Errorf("both of nil: %v", err)
	}
}

// No input of the runtime causes a panic.
func FuzzAdd(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"pods","type":"x","runtimeConfig":{"portMappings":[{"hostPort":1}]}}`))
	f.Add([]byte(`{"name":"pods","prevResult":{"ips":[{"interface":7}]},"runtimeConfig":null,"subnets":[null]}`))
	p := Plugin{Stderr: new(bytes.Buffer), Dial: func(string) (attach.Daemon, error) { return client.New("unix:///nowhere") }}
	f.Fuzz(func(t *testing.T, conf []byte) {
		a := at("c1", "/proc/self/ns/net")
		_, err := p.Add(t.Context(), a, conf)
		for _, err := range []error{err, p.Check(t.Context(), a, conf), p.GC(t.Context(), conf)} {
			var e *types.Error
			if err != nil && !errors.As(err, &e) {
				t.Errorf("error without a code: %v", err)
			}
		}
	})
}
