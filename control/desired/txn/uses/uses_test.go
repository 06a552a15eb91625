// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"net/netip"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/schema"
)

type published []model.PortBinding

func (p published) Bindings() []model.PortBinding { return p }

func TestMeets(t *testing.T) {
	network := func(id, name, prefix string) *Set {
		u := New()
		n := &model.Network{ID: id, Name: name}
		n.Index = uint32(len(prefix))
		n.Subnets = []model.Subnet{{Prefix: netip.MustParsePrefix(prefix)}}
		u.Write(schema.PrefixNetwork+id, nil, n)
		return u
	}
	endpoint := func(id, networkID, sandboxID, addr string) *Set {
		u := New()
		u.Write(schema.PrefixEndpoint+id, nil, &model.Endpoint{
			ID: id, NetworkID: networkID, SandboxID: sandboxID, MAC: model.MAC{5: id[0]},
			IPv4: netip.PrefixFrom(netip.MustParseAddr(addr), 24),
		})
		return u
	}
	ports := func(sandbox string, port, count uint16) *Set {
		u := New()
		u.Write(schema.PrefixPublish+sandbox, nil, published{{Proto: model.TCP, HostPort: port, Count: count}})
		return u
	}
	needs := func(key string) *Set {
		u := New()
		u.Need(key)
		return u
	}
	for what, tc := range map[string]struct {
		a, b *Set
		want bool
	}{
		"two networks":                           {network("a", "web", "10.1.0.0/16"), network("b", "db", "10.22.0.0/16"), false},
		"networks of one name":                   {network("a", "web", "10.1.0.0/16"), network("b", "web", "10.22.0.0/16"), true},
		"networks whose subnets overlap":         {network("a", "web", "10.1.0.0/16"), network("b", "db", "10.1.128.0/17"), true},
		"two endpoints of a network":             {endpoint("a", "n", "x", "10.1.0.2"), endpoint("b", "n", "y", "10.1.0.3"), false},
		"two endpoints of a sandbox":             {endpoint("a", "n", "x", "10.1.0.2"), endpoint("b", "m", "x", "10.2.0.3"), true},
		"endpoints of one address":               {endpoint("a", "n", "x", "10.1.0.2"), endpoint("b", "n", "y", "10.1.0.2"), true},
		"one address in two networks":            {endpoint("a", "n", "x", "10.1.0.2"), endpoint("b", "m", "y", "10.1.0.2"), false},
		"an endpoint, and its network":           {endpoint("a", "n", "x", "10.1.0.2"), network("n", "web", "10.1.0.0/16"), true},
		"an endpoint, and a need of its network": {endpoint("a", "n", "x", "10.1.0.2"), needs(schema.PrefixNetwork + "n"), false},
		"an endpoint, and a need of it":          {endpoint("a", "n", "x", "10.1.0.2"), needs(schema.PrefixEndpoint + "a"), true},
		"ranges of ports that overlap":           {ports("x", 80, 3), ports("y", 82, 1), true},
		"ranges of ports that do not":            {ports("x", 80, 2), ports("y", 82, 1), false},
		"ports of a sandbox, and endpoints":      {ports("x", 80, 2), endpoint("a", "n", "x", "10.1.0.2"), true},
	} {
		if got, back := tc.a.Meets(tc.b), tc.b.Meets(tc.a); got != tc.want || back != tc.want {
			t.Errorf("%s: meet %v, the other way %v, want %v", what, got, back, tc.want)
		}
	}
	u := needs("key")
	if u.Sets("key") {
		t.Error("a needed key is set")
	}
	u.Write("key", nil, nil)
	if u.Need("key"); !u.Sets("key") {
		t.Error("a key that is set and needed is not set")
	}
}
