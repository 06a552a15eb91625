// SPDX-License-Identifier: Apache-2.0

// Package desired holds the desired state of this node as immutable snapshots with indices.
// Two snapshots share what did not change, so a new one, and the difference of two, cost what
// changed and not what they hold.
package desired

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired/persistent"
	"github.com/fairlead-net/fairlead/control/model"
)

// Snapshot is all desired state of this node. Neither it nor anything it points to changes
// after it was handed out. The zero Snapshot is empty.
type Snapshot struct {
	Rev uint64

	networks  table[model.Network]
	sandboxes table[model.Sandbox]
	endpoints table[model.Endpoint]
	publishes persistent.Map[uint32, *model.Publish]
	published persistent.Map[string, uint32] // IDs of publishes, by endpoint and ID
	pools     table[model.AddressPool]
	services  table[model.Service]
}

// table is objects by ID, and an index: keys of objects, each with the object's ID behind a zero
// byte. The index refers to an object by ID, so it changes only when one of its keys does.
type table[V any] struct {
	rows  persistent.Map[string, *V]
	index persistent.Map[string, struct{}]
}

func (t table[V]) get(id string) *V {
	v, _ := t.rows.Get(id)
	return v
}

// put sets an object, or deletes it when v is nil. keys returns the keys of an object in the index.
func (t *table[V]) put(id string, v *V, keys func(*V) []string) {
	var now []string
	if v != nil {
		now = keys(v)
	}
	if old := t.get(id); old != nil {
		for _, key := range keys(old) {
			if !slices.Contains(now, key) {
				t.index = t.index.Delete(key + "\x00" + id)
			}
		}
	}
	for _, key := range now {
		t.index = t.index.Put(key+"\x00"+id, struct{}{})
	}
	if v == nil {
		t.rows = t.rows.Delete(id)
	} else {
		t.rows = t.rows.Put(id, v)
	}
}

// with yields the objects that have a key in the index, by ID; of a key that is the beginning of
// longer ones, those too, in the order of the keys.
func (t table[V]) with(key string) iter.Seq[*V] {
	return func(yield func(*V) bool) {
		for at := range t.index.From(key + "\x00") {
			if !strings.HasPrefix(at, key+"\x00") || !yield(t.get(at[strings.LastIndexByte(at, 0)+1:])) {
				return
			}
		}
	}
}

// byPrefix yields the objects whose ID begins with prefix.
func (t table[V]) byPrefix(prefix string) iter.Seq[*V] {
	return func(yield func(*V) bool) {
		for id, v := range t.rows.From(prefix) {
			if !strings.HasPrefix(id, prefix) || !yield(v) {
				return
			}
		}
	}
}

// Keys of the indices.
func networkKeys(n *model.Network) []string {
	keys := []string{keyName(n.Name)}
	if n.OriginalName != "" && n.OriginalName != n.Name {
		keys = append(keys, keyName(n.OriginalName))
	}
	if n.EngineNetwork != "" {
		keys = append(keys, keyEngineID(n.EngineNetwork))
	}
	return keys
}

func sandboxKeys(sb *model.Sandbox) []string {
	keys := []string{keyName(sb.Name), keyMode(sb.NetworkMode)}
	if sb.OriginalName != "" && sb.OriginalName != sb.Name {
		keys = append(keys, keyName(sb.OriginalName))
	}
	if sb.NetNS != "" {
		keys = append(keys, keyNetNS(sb.NetNS))
	}
	if sb.EngineID != "" {
		keys = append(keys, keyEngineID(sb.EngineID))
	}
	return keys
}

func endpointKeys(ep *model.Endpoint) []string {
	keys := []string{
		keyNetwork(ep.NetworkID), keyMAC(ep.NetworkID, ep.MAC),
		fmt.Sprintf("%s\x00%08x", keySandbox(ep.SandboxID), ep.Order),
	}
	for _, a := range []netip.Addr{ep.IPv4.Addr(), ep.IPv6.Addr()} {
		if a.IsValid() {
			keys = append(keys, keyAddr(ep.NetworkID, a))
		}
	}
	for _, alias := range ep.Aliases {
		keys = append(keys, keyAlias(ep.NetworkID, alias))
	}
	return keys
}

func poolKeys(*model.AddressPool) []string { return nil }

func keyName(name string) string                  { return "name\x00" + name }
func keyMode(mode string) string                  { return "mode\x00" + mode }
func keyNetNS(path string) string                 { return "netns\x00" + path }
func keyEngineID(id string) string                { return "engine\x00" + id }
func keyNetwork(id string) string                 { return "network\x00" + id }
func keySandbox(id string) string                 { return "sandbox\x00" + id }
func keyMAC(network string, mac model.MAC) string { return "mac\x00" + network + "\x00" + mac.String() }
func keyAddr(network string, addr netip.Addr) string {
	return "addr\x00" + network + "\x00" + addr.String()
}

func keyPublish(p *model.Publish) string { return fmt.Sprintf("%s\x00%08x", p.EndpointID, p.ID) }

// Network returns a network by ID; nil if there is none. So do the next four.
func (s *Snapshot) Network(id string) *model.Network { return s.networks.get(id) }

// Sandbox returns a sandbox by ID.
func (s *Snapshot) Sandbox(id string) *model.Sandbox { return s.sandboxes.get(id) }

// Endpoint returns an endpoint by ID.
func (s *Snapshot) Endpoint(id string) *model.Endpoint { return s.endpoints.get(id) }

// Publish returns a published port by ID.
func (s *Snapshot) Publish(id uint32) *model.Publish {
	p, _ := s.publishes.Get(id)
	return p
}

// Pool returns an address pool of a container engine by ID.
func (s *Snapshot) Pool(id string) *model.AddressPool { return s.pools.get(id) }

// Networks yields the networks in the order of their IDs. The next four do the same.
func (s *Snapshot) Networks() iter.Seq[*model.Network] { return s.networks.rows.Values() }

// Sandboxes yields the sandboxes.
func (s *Snapshot) Sandboxes() iter.Seq[*model.Sandbox] { return s.sandboxes.rows.Values() }

// Endpoints yields the endpoints.
func (s *Snapshot) Endpoints() iter.Seq[*model.Endpoint] { return s.endpoints.rows.Values() }

// Publishes yields the published ports.
func (s *Snapshot) Publishes() iter.Seq[*model.Publish] { return s.publishes.Values() }

// PublishesOf yields the published ports that an endpoint serves, by ID.
func (s *Snapshot) PublishesOf(endpointID string) iter.Seq[*model.Publish] {
	return func(yield func(*model.Publish) bool) {
		for at, id := range s.published.From(endpointID + "\x00") {
			if !strings.HasPrefix(at, endpointID+"\x00") || !yield(s.Publish(id)) {
				return
			}
		}
	}
}

// Pools yields the address pools of container engines.
func (s *Snapshot) Pools() iter.Seq[*model.AddressPool] { return s.pools.rows.Values() }

// Counts is how many objects of each kind a snapshot has.
type Counts struct{ Networks, Sandboxes, Endpoints, Publishes, Pools, Services int }

// Counts returns the number of objects of each kind.
func (s *Snapshot) Counts() Counts {
	return Counts{s.networks.rows.Len(), s.sandboxes.rows.Len(), s.endpoints.rows.Len(), s.publishes.Len(), s.pools.rows.Len(), s.services.rows.Len()}
}

// NetworksNamed yields the networks that a name finds, now or as they were created.
func (s *Snapshot) NetworksNamed(name string) iter.Seq[*model.Network] {
	return s.networks.with(keyName(name))
}

// SandboxesNamed yields the sandboxes that a name finds, now or as they were created.
func (s *Snapshot) SandboxesNamed(name string) iter.Seq[*model.Sandbox] {
	return s.sandboxes.with(keyName(name))
}

// NetworksByPrefix yields the networks whose ID begins with prefix.
func (s *Snapshot) NetworksByPrefix(prefix string) iter.Seq[*model.Network] {
	return s.networks.byPrefix(prefix)
}

// SandboxesByPrefix yields the sandboxes whose ID begins with prefix.
func (s *Snapshot) SandboxesByPrefix(prefix string) iter.Seq[*model.Sandbox] {
	return s.sandboxes.byPrefix(prefix)
}

// EndpointsByPrefix yields the endpoints whose ID begins with prefix.
func (s *Snapshot) EndpointsByPrefix(prefix string) iter.Seq[*model.Endpoint] {
	return s.endpoints.byPrefix(prefix)
}

// SandboxesByEnginePrefix yields the sandboxes whose ID in their container engine begins with
// prefix.
func (s *Snapshot) SandboxesByEnginePrefix(prefix string) iter.Seq[*model.Sandbox] {
	return func(yield func(*model.Sandbox) bool) {
		for at := range s.sandboxes.index.From(keyEngineID(prefix)) {
			if !strings.HasPrefix(at, keyEngineID(prefix)) || !yield(s.Sandbox(at[strings.LastIndexByte(at, 0)+1:])) {
				return
			}
		}
	}
}

// SandboxesInMode yields the sandboxes with a network mode.
func (s *Snapshot) SandboxesInMode(mode string) iter.Seq[*model.Sandbox] {
	return s.sandboxes.with(keyMode(mode))
}

// SandboxesAt yields the sandboxes whose network namespace has a path.
func (s *Snapshot) SandboxesAt(netns string) iter.Seq[*model.Sandbox] {
	return s.sandboxes.with(keyNetNS(netns))
}

// EndpointsOf yields a sandbox's endpoints in the order of attachment.
func (s *Snapshot) EndpointsOf(sandboxID string) iter.Seq[*model.Endpoint] {
	return s.endpoints.with(keySandbox(sandboxID))
}

// Members yields a network's endpoints in the order of their IDs.
func (s *Snapshot) Members(networkID string) iter.Seq[*model.Endpoint] {
	return s.endpoints.with(keyNetwork(networkID))
}

// HasMembers reports whether a network has an endpoint.
func (s *Snapshot) HasMembers(networkID string) bool {
	for range s.Members(networkID) {
		return true
	}
	return false
}

// MembersWithMAC yields a network's endpoints that have a hardware address.
func (s *Snapshot) MembersWithMAC(networkID string, mac model.MAC) iter.Seq[*model.Endpoint] {
	return s.endpoints.with(keyMAC(networkID, mac))
}

// MemberWithAddr returns the endpoint of a network that has an address; nil if none has.
func (s *Snapshot) MemberWithAddr(networkID string, addr netip.Addr) *model.Endpoint {
	for ep := range s.endpoints.with(keyAddr(networkID, addr)) {
		return ep
	}
	return nil
}
