// SPDX-License-Identifier: Apache-2.0

package overlay

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/tc"
	"github.com/fairlead-net/fairlead/loader"
	"github.com/fairlead-net/fairlead/maps"
)

const (
	network = 1
	vni     = 4097
	port    = 4789
)

// config describes a lab.
type config struct {
	kernel       bool // the second host has a bridge and a VXLAN device instead of Fairlead
	v6           bool // the underlay
	mtu          int  // of the network; 0: what the underlay allows
	containerMTU int  // 0: that of the network
	flags        maps.EndpointFlags
	third        bool // there is a third host
}

func (c config) String() string {
	far, under := "fairlead", "ipv4"
	if c.kernel {
		far = "kernel"
	}
	if c.v6 {
		under = "ipv6"
	}
	return fmt.Sprintf("far=%s under=%s", far, under)
}

// node is one of the hosts with its container.
type node struct {
	number    uint16
	host, ctr *world.Host
	set       *maps.Set // nil if it does not run Fairlead
	// Indices of the uplink, of the container's host end, and of the datapath's end of the host port.
	up, hv, hp uint32
}

// lab is the nodes and the router between them.
type lab struct {
	testing.TB
	config
	router *world.Host
	nodes  []*node // from 1 on
}

func underlay(n uint16, v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("fd98:%d::2", n))
	}
	return netip.AddrFrom4([4]byte{10, 98, byte(n), 2})
}

// inside returns an address in the network: 1 is the gateway, 11 and 12 are the containers, 101 and
// 102 the hosts themselves.
func inside(n uint16, v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("fd50::%d", n))
	}
	return netip.AddrFrom4([4]byte{10, 50, 0, byte(n)})
}

func insideMAC(n uint16) maps.MAC { return maps.MAC{2, 0x42, 10, 50, 0, byte(n)} }

func macText(m maps.MAC) string { return net.HardwareAddr(m[:]).String() }

const (
	gateway   = 1
	container = 10  // plus the node's number
	self      = 100 // likewise
)

func newLab(tb testing.TB, cfg config) *lab {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Fatal("these tests make network namespaces and load programs: run them as root")
	}
	if cfg.mtu == 0 {
		cfg.mtu = 1450
		if cfg.v6 {
			cfg.mtu = 1430
		}
	}
	if cfg.containerMTU == 0 {
		cfg.containerMTU = cfg.mtu
	}
	l := &lab{TB: tb, config: cfg}
	l.router = l.newHost("router")
	count := uint16(2)
	if cfg.third {
		count++
	}
	l.nodes = make([]*node, count+1)
	for n := uint16(1); n <= count; n++ {
		l.nodes[n] = l.newNode(n)
	}
	for n := uint16(1); n <= count; n++ {
		if n == 2 && cfg.kernel {
			l.startKernel(l.nodes[n])
		} else {
			l.startFairlead(l.nodes[n])
		}
	}
	return l
}

func (l *lab) newHost(name string) *world.Host {
	l.Helper()
	h, err := world.New(name)
	l.must(err)
	l.Cleanup(h.Close)
	for _, f := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		l.must(h.Sysctl(f, "1"))
	}
	return h
}

// newNode makes a host, its cable to the router, and its container.
func (l *lab) newNode(n uint16) *node {
	l.Helper()
	v := &node{number: n, host: l.newHost(fmt.Sprint("host", n)), ctr: l.newHost(fmt.Sprint("container", n))}
	l.must(world.Cable(
		world.End{Host: v.host, Device: "up0", Addresses: []string{underlay(n, false).String() + "/24", underlay(n, true).String() + "/64"}},
		world.End{Host: l.router, Device: fmt.Sprint("r", n), Addresses: []string{fmt.Sprintf("10.98.%d.1/24", n), fmt.Sprintf("fd98:%d::1/64", n)}},
	))
	l.ip(v.host, fmt.Sprintf("route add default via 10.98.%d.1", n), fmt.Sprintf("route add default via fd98:%d::1", n))
	l.must(world.Cable(
		world.End{Host: v.host, Device: "hv"},
		world.End{Host: v.ctr, Device: "eth0", Addresses: []string{
			inside(container+n, false).String() + "/24", inside(container+n, true).String() + "/64"}},
	))
	l.ip(v.host, fmt.Sprintf("link set hv mtu %d", l.containerMTU))
	l.ip(v.ctr, fmt.Sprintf("link set eth0 address %s mtu %d", macText(insideMAC(container+n)), l.containerMTU),
		// The one of the device's first MAC is not a member's.
		"addr flush dev eth0 scope link", fmt.Sprintf("addr add %s/64 dev eth0 nodad", linkLocal(insideMAC(container+n))),
		"route add default via "+inside(gateway, false).String(), "route add default via "+inside(gateway, true).String())
	v.up, v.hv = l.ifindex(v.host, "up0"), l.ifindex(v.host, "hv")
	return v
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *lab) ip(h *world.Host, commands ...string) {
	l.Helper()
	l.must(h.IP(commands...))
}

// run runs a program that must succeed, and returns its output.
func (l *lab) run(h *world.Host, name string, args ...string) string {
	l.Helper()
	r, err := h.Run(context.Background(), name, args...)
	if err != nil || r.Code != 0 {
		l.Fatalf("%s %s on %s: %v, status %d: %s", name, strings.Join(args, " "), h.Name, err, r.Code, r.Output())
	}
	return r.Stdout
}

func (l *lab) ifindex(h *world.Host, name string) uint32 {
	l.Helper()
	var dev *net.Interface
	l.must(h.Do(func() (err error) {
		dev, err = net.InterfaceByName(name)
		return err
	}))
	return uint32(dev.Index)
}

// startKernel makes the second host's bridge and VXLAN device.
func (l *lab) startKernel(v *node) {
	l.Helper()
	extra := ""
	if l.v6 {
		extra = " udp6zerocsumrx"
	}
	l.ip(v.host, fmt.Sprintf("link add br0 mtu %d type bridge", l.mtu),
		fmt.Sprintf("link add vx0 mtu %d type vxlan id %d dstport %d local %s%s", l.mtu, vni, port, underlay(v.number, l.v6), extra),
		"link set vx0 master br0", "link set hv master br0", "link set vx0 up", "link set br0 up")
	l.run(v.host, "bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "vx0", "dst", underlay(3-v.number, l.v6).String())
}

// startFairlead loads the programs of a host, fills the tables and attaches.
func (l *lab) startFairlead(v *node) {
	l.Helper()
	l.ip(v.host, fmt.Sprintf("link add gw address %s mtu %d type veth peer name hp mtu %d", macText(insideMAC(gateway)), l.mtu, l.mtu),
		"link set gw up", "link set hp up")
	v.hp = l.ifindex(v.host, "hp")
	for _, v6 := range []bool{false, true} {
		bits := map[bool]string{false: "/24", true: "/64"}[v6]
		own := inside(self+v.number, v6)
		l.ip(v.host, fmt.Sprintf("addr add %s%s dev gw noprefixroute%s", inside(gateway, v6), bits, map[bool]string{true: " nodad"}[v6]),
			fmt.Sprintf("addr add %s dev gw noprefixroute%s", own, map[bool]string{true: " nodad"}[v6]),
			fmt.Sprintf("route add %s dev gw src %s", netip.PrefixFrom(own, map[bool]int{false: 24, true: 64}[v6]).Masked(), own))
	}
	dir := filepath.Join(l.TempDir(), "bpf")
	var d *loader.Datapath
	l.must(v.host.Do(func() error {
		h, err := rtnl.New()
		if err != nil {
			return err
		}
		l.Cleanup(func() { h.Close() })
		d, err = loader.Open(loader.Config{
			BPFDir: dir, NetnsCookie: uint64(v.number), VXLANPort: port,
			CTMax: 1024, MaxEndpoints: 1024, MaxPublishes: 64, MaxPeers: 1024,
		}, tc.NewFilters(h))
		return err
	}))
	l.Cleanup(func() { d.Close() }) // the pins end with the host's mounts, the attachments with its devices
	v.set = d.Maps()
	l.fill(v)
	l.must(v.host.Do(func() error {
		for _, at := range []struct {
			dev  uint32
			hook loader.Hook
		}{{v.hv, loader.FromEndpoint}, {v.hp, loader.FromEndpoint}, {v.up, loader.FromUplink}, {v.up, loader.ToUplink}} {
			if _, err := d.Attach(int(at.dev), at.hook); err != nil {
				return err
			}
		}
		return d.Commit()
	}))
}

// fill writes the tables of a node: its container, its host port, and the other nodes.
func (l *lab) fill(v *node) {
	l.Helper()
	put := func(_ bool, err error) { l.Helper(); l.must(err) }
	hp := v.hp
	gw := maps.Endpoint{
		IfIndex: hp, Net: network, MAC: insideMAC(gateway), GatewayMAC: insideMAC(gateway),
		IPv4: inside(gateway, false), IPv6: inside(gateway, true),
		Gateway4: inside(gateway, false), Gateway6: inside(gateway, true),
		Flags: maps.HostPort | maps.AntiSpoof | maps.ICC | maps.Masquerade, HostPortIf: hp, GatewayIf: l.ifindex(v.host, "gw"),
	}
	ctr := gw
	ctr.IfIndex, ctr.MAC, ctr.Flags = v.hv, insideMAC(container+v.number), gw.Flags&^maps.HostPort|l.flags
	ctr.IPv4, ctr.IPv6 = inside(container+v.number, false), inside(container+v.number, true)
	for _, m := range []maps.Endpoint{gw, ctr} {
		put(v.set.Endpoints.Put(m))
		put(v.set.FDB.Put(maps.FDBEntry{Net: network, MAC: m.MAC, IfIndex: m.IfIndex, Flags: m.Flags}))
		for _, a := range []netip.Addr{m.IPv4, m.IPv6, linkLocal(m.MAC)} {
			put(v.set.Neighbours.Put(maps.Neighbour{Net: network, Addr: a, MAC: m.MAC, IfIndex: m.IfIndex, Flags: m.Flags}))
		}
	}
	for _, v6 := range []bool{false, true} {
		own := inside(self+v.number, v6)
		put(v.set.Neighbours.Put(maps.Neighbour{Net: network, Addr: own, MAC: gw.MAC, IfIndex: hp, Flags: gw.Flags}))
		for _, a := range []netip.Addr{own, inside(gateway, v6), underlay(v.number, v6)} {
			put(v.set.HostAddrs.Put(a))
		}
		put(v.set.Subnets.Put(maps.Subnet{Prefix: netip.PrefixFrom(own, map[bool]int{false: 24, true: 64}[v6]).Masked(), Net: network}))
	}
	put(v.set.Uplinks.Put(maps.Uplink{IfIndex: v.up, IPv4: underlay(v.number, false), IPv6: underlay(v.number, true)}))
	put(v.set.Tunnels.Put(maps.Tunnel{Net: network, VNI: vni, MTU: uint16(l.mtu), NodeMAC: insideMAC(self + v.number),
		GatewayMAC: gw.MAC, HostPortIf: hp}))
	put(v.set.VNIs.Put(maps.VNI{VNI: vni, Net: network}))
	var others []uint16
	for other := range uint16(len(l.nodes)) {
		if other != 0 && other != v.number {
			l.fillNode(v, other)
			others = append(others, other)
		}
	}
	put(v.set.TunnelNodes.Set(network, others))
}

// fillNode writes what a node knows of another.
func (l *lab) fillNode(v *node, other uint16) {
	l.Helper()
	put := func(_ bool, err error) { l.Helper(); l.must(err) }
	put(v.set.Nodes.Put(maps.Node{ID: other, Local: underlay(v.number, l.v6), Remote: underlay(other, l.v6), IfIndex: v.up, MTU: uint16(l.mtu)}))
	put(v.set.NodeAddrs.Put(maps.NodeAddr{Addr: underlay(other, l.v6), Node: other}))
	for _, n := range []uint16{container + other, self + other} {
		mac := insideMAC(n)
		l.must(v.set.PeerFDB.Put(maps.PeerFDBEntry{Net: network, MAC: mac, Node: other, Host: n > self}))
		for _, a := range []netip.Addr{inside(n, false), inside(n, true), linkLocal(mac)} {
			l.must(v.set.PeerNeighbours.Put(maps.PeerNeighbour{Net: network, Addr: a, MAC: mac, Node: other}))
		}
	}
}

// linkLocal returns the link-local address that an interface derives from its MAC.
func linkLocal(m maps.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// counters returns what the programs of a node have counted, without zeros.
func (l *lab) counters(v *node) map[string]uint64 {
	l.Helper()
	all := make(map[string]uint64)
	if v.set == nil {
		return all
	}
	for kind, read := range map[string]func() (map[string]maps.Counter, error){
		"drop": v.set.Counters.Drops, "path": v.set.Counters.Paths, "event": v.set.Counters.Events,
	} {
		m, err := read()
		l.must(err)
		for name, c := range m {
			if c.Packets != 0 {
				all[kind+" "+name] = c.Packets
			}
		}
	}
	return all
}

// explain logs the counters if the test failed.
func (l *lab) explain() {
	if l.Failed() {
		for _, v := range l.nodes[1:] {
			l.Logf("%s: %v", v.host.Name, l.counters(v))
		}
	}
}

// equal compares what was received with what was sent.
func equal(got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	return fmt.Errorf("received %d bytes of %d, which differ from byte %d on", len(got), len(want), at)
}
