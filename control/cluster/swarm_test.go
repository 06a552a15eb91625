// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/cluster/kv/memory"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/verbtest"
)

// swarmWeb is the ID that a swarm gave its network.
const swarmWeb = "6u5lzw0ojc5jhi641ccc0use3"

// inSwarm is the request for that network, on a manager and on each host.
func inSwarm(name string) model.NetworkSpec {
	return model.NetworkSpec{
		Name: name, Subnets: []model.SubnetSpec{{Prefix: netip.MustParsePrefix("10.64.0.0/24"), Gateway: verbtest.Addr("10.64.0.1")}},
		Options: map[string]string{model.OptMTU: "1400", model.OptNetwork: "web"},
	}
}

// joinSwarm does what the engine of a host does before its first container.
func (h *host) joinSwarm(change func(*model.NetworkSpec)) error {
	spec := inSwarm("docker-" + swarmWeb[:12])
	spec.EngineID = swarmWeb
	if change != nil {
		change(&spec)
	}
	_, err := h.Engine.CreateNetwork(h.T.Context(), spec)
	return err
}

// runInSwarm does what docker run does.
func (h *host) runInSwarm(name, address string) (*model.Endpoint, error) {
	spec := model.EndpointSpec{EngineID: verbtest.EngineID(name), IPv4: verbtest.Addr(address)}
	if _, err := h.ReserveEndpoint(h.T.Context(), swarmWeb, spec); err != nil {
		return nil, err
	}
	return h.JoinEndpoint(h.T.Context(), spec.EngineID, "docker-"+name, "/run/x/"+name)
}

// A network of a swarm is one of the cluster from its allocation on, and has the addresses that the swarm
// chooses; it is removed when the last container has left.
func TestSwarmNetwork(t *testing.T) {
	s := memory.New()
	a, b := newHost(t, s, "a").registered(), newHost(t, s, "b").registered()
	store := s.Open()
	defer store.Close()
	if err := a.joinSwarm(nil); !errors.Is(err, model.ErrNotFound) || !strings.Contains(err.Error(), "of the swarm does not exist") {
		t.Errorf("a network that no manager allocated: %v", err)
	}
	for _, h := range []*host{a, a, b} { // another manager becomes the leader
		if err := h.AllocateNetwork(t.Context(), swarmWeb, inSwarm("docker-x")); err != nil {
			t.Fatal(err)
		}
	}
	n := b.has("web")
	if n.Swarm != swarmWeb || n.MTU != 1400 || n.VNI == 0 {
		t.Errorf("the network is %+v", n)
	}
	for _, h := range []*host{a, b, b} {
		if err := h.joinSwarm(nil); err != nil {
			t.Fatal(err)
		}
	}
	for want, change := range map[string]func(*model.NetworkSpec){
		"internal": func(s *model.NetworkSpec) { s.Internal = true },
		"--ipv6": func(s *model.NetworkSpec) {
			s.Subnets = append(s.Subnets, model.SubnetSpec{Prefix: netip.MustParsePrefix("fd00:64::/64")})
		},
		"--subnet": func(s *model.NetworkSpec) { s.Subnets[0].Prefix = netip.MustParsePrefix("10.65.0.0/24") },
	} {
		if err := b.joinSwarm(change); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", want, err)
		}
	}
	one, err1 := a.runInSwarm("one", "10.64.0.3")
	two, err2 := b.runInSwarm("two", "10.64.0.4")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if _, err := a.runInSwarm("three", "10.64.0.4"); !errors.Is(err, model.ErrConflict) {
		t.Errorf("an address of another host: %v", err)
	}
	settled(t, store, n.ID, a, b)
	if held := holders(t, store, n.ID); len(held) != 2 {
		t.Errorf("held are %v, want those of the containers", held)
	}

	before := a.Snapshot()
	_, err := a.CreateSandbox(t.Context(), model.SandboxSpec{Name: "mine", NetworkMode: "web"})
	a.Refused(before, err, model.ErrForbidden, "swarm")
	_, err = a.CreateService(t.Context(), model.ServiceSpec{Name: "shop", Network: "web"})
	a.Refused(before, err, model.ErrForbidden, "swarm")

	// An address moves to another host.
	if err := b.ReleaseEndpoint(t.Context(), two.ID); err != nil {
		t.Fatal(err)
	}
	three, err := a.runInSwarm("three", "10.64.0.4")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.RemoveEngineNetwork(t.Context(), swarmWeb); err != nil {
		t.Error(err)
	}

	// The swarm frees the network on another host before its last containers have gone.
	if err := b.FreeNetwork(t.Context(), swarmWeb); err != nil {
		t.Fatal(err)
	}
	if err := b.Engine.Reap(t.Context()); err != nil || b.Snapshot().Network(n.ID) == nil {
		t.Errorf("the network is gone with members in it: %v", err)
	}
	for _, ep := range []*model.Endpoint{one, three} {
		if err := a.ReleaseEndpoint(t.Context(), ep.ID); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "the network is removed", func() error {
		if err := b.Engine.Reap(t.Context()); err != nil {
			return err
		}
		if a.Snapshot().Network(n.ID) != nil || b.Snapshot().Network(n.ID) != nil {
			return fmt.Errorf("it is there: a %+v, b %+v", a.Snapshot().Network(n.ID), b.Snapshot().Network(n.ID))
		}
		return nil
	})
	if err := a.RemoveEngineNetwork(t.Context(), swarmWeb); err != nil {
		t.Errorf("the engine removes the network late: %v", err)
	}
	if err := a.FreeNetwork(t.Context(), swarmWeb); err != nil {
		t.Errorf("the swarm frees it again: %v", err)
	}
	a.Check()
	b.Check()
}
