// SPDX-License-Identifier: Apache-2.0

package desired_test

import (
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// world is what a snapshot should hold, as plain maps that are searched from end to end.
type world struct {
	networks  map[string]*model.Network
	sandboxes map[string]*model.Sandbox
	endpoints map[string]*model.Endpoint
	publishes map[uint32]*model.Publish
}

func (w world) clone() world {
	return world{maps.Clone(w.networks), maps.Clone(w.sandboxes), maps.Clone(w.endpoints), maps.Clone(w.publishes)}
}

func randomID(r *rand.Rand) string { return fmt.Sprintf("%02x%062x", r.IntN(4), r.IntN(12)) }

// change changes one object at random, in both.
func (w world) change(r *rand.Rand, e *desired.Edit) {
	id, gone := randomID(r), r.IntN(4) == 0
	name := fmt.Sprint("n", r.IntN(5))
	switch r.IntN(4) {
	case 0:
		n := &model.Network{ID: id, Name: name, OriginalName: fmt.Sprint("n", r.IntN(5))}
		e.PutNetwork(id, set(w.networks, id, n, gone))
	case 1:
		sb := &model.Sandbox{ID: id, Name: name, EngineID: fmt.Sprint("e", r.IntN(3)), NetNS: fmt.Sprint("/ns/", r.IntN(3))}
		sb.NetworkMode = fmt.Sprint("mode", r.IntN(3))
		e.PutSandbox(id, set(w.sandboxes, id, sb, gone))
	case 2:
		ep := &model.Endpoint{ID: id, NetworkID: randomID(r), SandboxID: randomID(r), Order: r.IntN(300), MAC: model.MAC{2, byte(r.IntN(4))}}
		if r.IntN(2) == 0 {
			ep.IPv4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(20))}), 24)
		}
		if r.IntN(2) == 0 {
			ep.IPv6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 15: byte(r.IntN(20))}), 64)
		}
		e.PutEndpoint(id, set(w.endpoints, id, ep, gone))
	case 3:
		n := uint32(r.IntN(20))
		e.PutPublish(n, set(w.publishes, n, &model.Publish{ID: n}, gone))
	}
}

func set[K comparable, V any](m map[K]*V, k K, v *V, gone bool) *V {
	if gone {
		delete(m, k)
		return nil
	}
	m[k] = v
	return v
}

// where returns the objects of m that match, by key.
func where[V any](m map[string]*V, match func(*V) bool) (list []*V) {
	for _, id := range slices.Sorted(maps.Keys(m)) {
		if match(m[id]) {
			list = append(list, m[id])
		}
	}
	return list
}

func all[V any](*V) bool { return true }

func check[V any](t *testing.T, what string, got iter.Seq[*V], want []*V) {
	t.Helper()
	if list := slices.Collect(got); !slices.Equal(list, want) {
		t.Fatalf("%s: %d objects %v, want %d %v", what, len(list), list, len(want), want)
	}
}

func (w world) check(t *testing.T, s *desired.Snapshot) {
	t.Helper()
	check(t, "networks", s.Networks(), where(w.networks, all))
	check(t, "sandboxes", s.Sandboxes(), where(w.sandboxes, all))
	check(t, "endpoints", s.Endpoints(), where(w.endpoints, all))
	if got := (desired.Counts{Networks: len(w.networks), Sandboxes: len(w.sandboxes), Endpoints: len(w.endpoints), Publishes: len(w.publishes)}); s.Counts() != got {
		t.Fatalf("counts %+v, want %+v", s.Counts(), got)
	}
	for i := range 5 {
		name, mode, path, engine := fmt.Sprint("n", i), fmt.Sprint("mode", i), fmt.Sprint("/ns/", i), fmt.Sprint("e", i)
		check(t, name, s.NetworksNamed(name), where(w.networks, func(n *model.Network) bool { return n.Name == name || n.OriginalName == name }))
		check(t, name, s.SandboxesNamed(name), where(w.sandboxes, func(sb *model.Sandbox) bool { return sb.Name == name || sb.OriginalName == name }))
		check(t, mode, s.SandboxesInMode(mode), where(w.sandboxes, func(sb *model.Sandbox) bool { return sb.NetworkMode == mode }))
		check(t, path, s.SandboxesAt(path), where(w.sandboxes, func(sb *model.Sandbox) bool { return sb.NetNS == path }))
		check(t, engine, s.SandboxesByEnginePrefix(engine), where(w.sandboxes, func(sb *model.Sandbox) bool { return sb.EngineID == engine }))
		prefix := fmt.Sprintf("%02x", i)
		check(t, prefix, s.SandboxesByPrefix(prefix), where(w.sandboxes, func(sb *model.Sandbox) bool { return strings.HasPrefix(sb.ID, prefix) }))
	}
	for id := range w.endpoints {
		of := w.endpoints[id]
		own := where(w.endpoints, func(ep *model.Endpoint) bool { return ep.SandboxID == of.SandboxID })
		slices.SortStableFunc(own, func(a, b *model.Endpoint) int { return a.Order - b.Order })
		check(t, "endpoints of a sandbox", s.EndpointsOf(of.SandboxID), own)
		check(t, "members", s.Members(of.NetworkID), where(w.endpoints, func(ep *model.Endpoint) bool { return ep.NetworkID == of.NetworkID }))
		check(t, "MAC", s.MembersWithMAC(of.NetworkID, of.MAC), where(w.endpoints, func(ep *model.Endpoint) bool {
			return ep.NetworkID == of.NetworkID && ep.MAC == of.MAC
		}))
		if a := of.IPv4.Addr(); a.IsValid() {
			holders := where(w.endpoints, func(ep *model.Endpoint) bool { return ep.NetworkID == of.NetworkID && ep.IPv4.Addr() == a })
			if got := s.MemberWithAddr(of.NetworkID, a); got != holders[0] {
				t.Fatalf("%v is of %v, want %v", a, got, holders[0])
			}
		}
	}
}

// Random changes beside plain maps: every snapshot keeps what it had, the indices find what a
// search finds, and the difference of any two snapshots, applied to one, makes the other.
func TestAgainstPlainMaps(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	type version struct {
		s *desired.Snapshot
		w world
	}
	versions := []version{{&desired.Snapshot{}, world{
		map[string]*model.Network{}, map[string]*model.Sandbox{}, map[string]*model.Endpoint{}, map[uint32]*model.Publish{},
	}}}
	for range 3000 {
		from := versions[r.IntN(len(versions))]
		e, w := from.s.Edit(), from.w.clone()
		for range 1 + r.IntN(4) {
			w.change(r, e)
		}
		s := e.Done()
		w.check(t, s)
		other := versions[r.IntN(len(versions))]
		replayed := other.w.clone()
		for c := range desired.DiffEndpoints(other.s, s) {
			if replayed.endpoints[c.ID] != c.Old || c.Old == c.New {
				t.Fatalf("change of %s from %v to %v, was %v", c.ID, c.Old, c.New, replayed.endpoints[c.ID])
			}
			set(replayed.endpoints, c.ID, c.New, c.New == nil)
		}
		if !maps.Equal(replayed.endpoints, w.endpoints) {
			t.Fatal("the difference, applied to the old snapshot, does not make the new one")
		}
		if len(versions) < 30 {
			versions = append(versions, version{s, w})
		} else {
			versions[r.IntN(len(versions))] = version{s, w}
		}
	}
	for _, v := range versions {
		v.w.check(t, v.s)
	}
}
