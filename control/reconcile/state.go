// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/maps"
)

// network is what was made of a model.Network.
type network struct {
	id       string
	want     *model.Network // nil: to be removed
	gateway  uint32         // ifindex of the end with the addresses; 0: not there
	hostPort uint32         // ifindex of the end with the program
	entries  entries
	macs     map[netip.Addr]model.MAC // that addresses of members have, or had last
	dirty    bool                     // something is still to be done
	lastErr  string                   // what, as it was logged
}

func (n *network) usable() bool { return n.want != nil && n.hostPort != 0 }

// hostPortSpec is what the host port shall be like.
func (n *network) hostPortSpec() rtnl.HostPort {
	return rtnl.HostPort{
		NetworkID: n.id, MAC: n.want.GatewayMAC, MTU: mtu(n.want),
		Addrs: gatewayPrefixes(n.want), IPv6: n.want.EnableIPv6,
	}
}

// mtu of a network's devices.
func mtu(n *model.Network) int {
	if n.MTU == 0 {
		return model.DefaultMTU
	}
	return n.MTU
}

// sandbox is what was made of a model.Sandbox.
type sandbox struct {
	id        string
	want      *model.Sandbox
	dirty     bool
	gone      bool // its namespace is not there
	goneAt    time.Time
	untracked []uint32 // inner ends whose packets are not tracked
	number    int32    // by which the watch over sandboxes knows it; -1: it does not
	lastErr   string
}

// managesNetNS reports whether there is a namespace to configure: none with the
// host's, another sandbox's is configured there, and a foreign one's by the
// container engine.
func (b *sandbox) managesNetNS() bool {
	return b.want != nil && !b.want.Foreign && b.want.NetNS != "" && (b.want.Owned || !isShared(b.want))
}

// endpoint is what was made of a model.Endpoint.
type endpoint struct {
	id        string
	want      *model.Endpoint // nil: to be removed
	hostIf    uint32          // ifindex of the host end; 0: not there
	peerIf    uint32          // of the end in the sandbox
	published bool            // its entries say that a published port leads here
	finished  bool            // bears its alias: the inside was configured
	entries   entries
	dirty     bool
	lastErr   string
}

// wantedEndpoint is an endpoint that shall have devices; nil: there is none, or
// its sandbox has not joined yet.
func wantedEndpoint(s *model.Snapshot, id string) *model.Endpoint {
	if e := s.Endpoints[id]; e != nil && e.SandboxID != "" {
		return e
	}
	return nil
}

// isForeign reports whether a container engine moves the endpoint's inner end
// into its sandbox, and configures it there.
func isForeign(s *model.Snapshot, e *model.Endpoint) bool {
	b := s.Sandboxes[e.SandboxID]
	return b != nil && b.Foreign
}

// publish is what was made of a model.Publish.
type publish struct {
	id   uint32
	want *model.Publish
	runs []portRun
}

// flowFilter chooses flows to be removed.
type flowFilter struct {
	devices   map[uint32]bool     // host ends that are gone
	publishes map[uint32]bool     // publishes that are gone or lead elsewhere
	addrs     map[netip.Addr]bool // addresses the host lost
	members   map[member]bool     // addresses that endpoints lost
}

// member is an address of an endpoint with the host end given.
type member struct {
	device uint32
	addr   netip.Addr
}

func (f *flowFilter) device(ifindex uint32) {
	if ifindex != 0 {
		set(&f.devices, ifindex)
	}
}
func (f *flowFilter) publish(id uint32) { set(&f.publishes, id) }
func (f *flowFilter) addr(a netip.Addr) { set(&f.addrs, a) }
func (f *flowFilter) member(device uint32, a netip.Addr) {
	if device != 0 {
		set(&f.members, member{device, a})
	}
}

func (f *flowFilter) empty() bool {
	return len(f.devices)+len(f.publishes)+len(f.addrs)+len(f.members) == 0
}

func (f *flowFilter) merge(o *flowFilter) {
	for k := range o.devices {
		f.device(k)
	}
	for k := range o.publishes {
		f.publish(k)
	}
	for k := range o.addrs {
		f.addr(k)
	}
	for k := range o.members {
		f.member(k.device, k.addr)
	}
}

// match reports whether the flow belongs to something that is gone. An
// address counts where the flow was translated to it, or came to it.
func (f *flowFilter) match(fl maps.Flow) bool {
	return f.devices[fl.InIf] || f.devices[fl.OutIf] || f.publishes[fl.Publish] ||
		fl.NATSrc && f.addrs[fl.Reply.Dst.Addr()] || fl.NATDst && f.addrs[fl.Orig.Dst.Addr()] ||
		f.members[member{fl.InIf, fl.Orig.Src.Addr()}] || f.members[member{fl.OutIf, fl.Reply.Src.Addr()}]
}

func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[k] = v
}

func set[K comparable](m *map[K]bool, k K) {
	put(m, k, true)
}
