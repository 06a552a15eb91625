// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"encoding/json"
	"fmt"
	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"net"
	"net/netip"
	"strings"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// Both hosts are the same but for what forwards: networks web and db, and inner, which is internal; a guest that
// netfilter masquerades; an outside. The sandboxes' own stacks take and send nothing: the fuzzer is both ends of every flow
// but those of the host's own sockets.
//
//	a1 a2  10.1.0.11 .12 ─ web ┐
//	b1     10.2.0.11 ───── db ──┤ host 192.0.2.1 ── out 192.0.2.254, 198.51.100.1
//	c1     10.3.0.11 ─── inner ─┤
//	guest  10.9.0.2  ───────────┘

type node struct {
	name    string
	network string // "": no sandbox
	addr4   netip.Addr
	addr6   netip.Addr
	mac     mac
}

func (n *node) addr(f lab.Family) netip.Addr {
	if f == lab.IPv6 {
		return n.addr6
	}
	return n.addr4
}

var nodes = []*node{
	{"a1", "web", netip.MustParseAddr("10.1.0.11"), netip.MustParseAddr("fd00:1::11"), mac{2, 0, 0, 1, 0, 0x11}},
	{"a2", "web", netip.MustParseAddr("10.1.0.12"), netip.MustParseAddr("fd00:1::12"), mac{2, 0, 0, 1, 0, 0x12}},
	{"b1", "db", netip.MustParseAddr("10.2.0.11"), netip.MustParseAddr("fd00:2::11"), mac{2, 0, 0, 2, 0, 0x11}},
	{"c1", "inner", netip.MustParseAddr("10.3.0.11"), netip.MustParseAddr("fd00:3::11"), mac{2, 0, 0, 3, 0, 0x11}},
	{"out", "", netip.MustParseAddr(lab.Outside4), netip.MustParseAddr(lab.Outside6), mac{2, 0, 0, 0, 0, 0xfe}},
	{"guest", "", netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("fd00:9::2"), mac{2, 0, 0, 9, 0, 2}},
	{"sink", "", netip.MustParseAddr("10.8.0.2"), netip.MustParseAddr("fd00:8::2"), mac{2, 0, 0, 8, 0, 2}},
}

func nodeOf(name string) *node {
	for _, n := range nodes {
		if n.name == name {
			return n
		}
	}
	panic("no node " + name)
}

// subnets of the networks by name; the first address is the gateway.
var subnets = map[string][2]string{
	"web":   {"10.1.0.", "fd00:1::"},
	"db":    {"10.2.0.", "fd00:2::"},
	"inner": {"10.3.0.", "fd00:3::"},
}

func gateway(network string, f lab.Family) netip.Addr {
	s := subnets[network]
	return netip.MustParseAddr(f.Of(s[0]+"1", s[1]+"1"))
}

// published are the ports of every address of the host, TCP and UDP, that are redirected to a port of a sandbox. From ownPort
// the sandbox opens flows, too.
var published = map[uint16]target{8080: {"a1", 80}, 8081: {"b1", 80}, ownPort: {"a1", ownPort}}

const ownPort = 4002

type target struct {
	name string
	port uint16
}

// twin is one of the two hosts.
type twin struct {
	name       string
	host       *world.Host
	judge      bool             // the kernel's twin
	ports      map[string]*port // by node
	macs       map[mac]string   // what a MAC is, for people and for comparing
	hop        map[string]mac   // by node: the MAC of its gateway
	netlink    *netlink.Handle
	collector  *collector  // of Fairlead's flows that are expired
	tables     []*ebpf.Map // Fairlead's confirmed flows, others, and more that is forgotten between sequences
	generation *ebpf.Map

	round   uint32          // of running a sequence: no two share IDs of fragments
	sockets map[int]*socket // of the host, by flow
	view    *view
}

func newFairlead(l *lab.Lab) *twin {
	l.Helper()
	w := &twin{name: "fairlead", host: l.Host}
	l.Sysctl(l.Host, "ipv4/ip_forward", "1")
	l.Sysctl(l.Host, "ipv6/conf/all/forwarding", "1")
	inside := map[string]*world.Host{"out": l.Outside, "guest": w.addNode(l, "guest")}
	l.Must(l.Host, "nft", "-f", l.Write("host.nft", hostRules))
	l.IP(l.Outside, "link set eth0 address "+nodeOf("out").mac.String())
	l.StartDaemon("--cache-after", fmt.Sprint(*cacheFlag))
	for name, s := range subnets {
		args := []string{"network", "create", "--ipv6", "--subnet", s[0] + "0/24", "--subnet", s[1] + "/64"}
		if name == "inner" {
			args = append(args, "--internal")
		}
		l.Fairlead(append(args, name)...)
	}
	for _, n := range nodes {
		if n.network == "" {
			continue
		}
		args := []string{"--network", n.network, "--ip", n.addr4.String(), "--ip6", n.addr6.String(), "--mac-address", n.mac.String()}
		for host, to := range published {
			if to.name == n.name {
				args = append(args, "-p", fmt.Sprintf("%d:%d/tcp", host, to.port), "-p", fmt.Sprintf("%d:%d/udp", host, to.port))
			}
		}
		inside[n.name] = l.Sandbox(n.name, args...).Host
	}
	shared := map[string]*ebpf.Map{}
	for _, name := range []string{"fl_ct", "fl_ct_new", "fl_frag", "fl_held", "fl_ct_used"} {
		m := l.PinnedMap(name)
		l.Cleanup(func() { m.Close() })
		w.tables = append(w.tables, m)
		shared[name] = m
	}
	w.generation = l.PinnedMap("fl_generation")
	l.Cleanup(func() { w.generation.Close() })
	shared["fl_generation"] = w.generation
	w.collector = newCollector(l, shared)
	w.prepare(l, inside)
	return w
}

// hostRules are the host's own: another program masquerades the guest, and a firewall drops what the guest did
// not ask for.
const hostRules = `
table inet host {
	chain forward {
		type filter hook forward priority filter - 10
		iifname { eth0, guest } oifname { eth0, guest } jump own
	}
	chain input {
		type filter hook input priority filter
		ct state invalid drop
	}
	chain own {
		ct state established,related accept
		iifname guest oifname eth0 ct state new accept
		drop
	}
	chain post {
		type nat hook postrouting priority srcnat
		ip saddr 10.9.0.0/24 oifname eth0 masquerade
		ip6 saddr fd00:9::/64 oifname eth0 masquerade
	}
}
`

// addNode makes one behind a device of its own.
func (w *twin) addNode(l *lab.Lab, name string) *world.Host {
	l.Helper()
	n := nodeOf(name)
	h := l.NewHost(name)
	check(l, world.Cable(
		world.End{Host: w.host, Device: name, Addresses: []string{n.addr4.Prev().String() + "/24", n.addr6.Prev().String() + "/64"}},
		world.End{Host: h, Device: "eth0", Addresses: []string{n.addr4.String() + "/24", n.addr6.String() + "/64"}},
	))
	l.IP(h, "link set eth0 address "+n.mac.String())
	return h
}

func newKernel(l *lab.Lab) *twin {
	l.Helper()
	w := &twin{name: "kernel", host: l.NewHost("kernel"), judge: true}
	l.Sysctl(w.host, "ipv4/ip_forward", "1")
	l.Sysctl(w.host, "ipv6/conf/all/forwarding", "1")
	out := l.NewHost("out")
	n := nodeOf("out")
	check(l, world.Cable(
		world.End{Host: w.host, Device: "eth0", Addresses: []string{lab.Host4 + "/24", lab.Host6 + "/64"}},
		world.End{Host: out, Device: "eth0", Addresses: []string{n.addr4.String() + "/24", n.addr6.String() + "/64"}},
	))
	l.IP(out, "link set eth0 address "+n.mac.String())
	l.IP(w.host, "route add default via "+lab.Outside4, "route add ::/0 via "+lab.Outside6)
	inside := map[string]*world.Host{"out": out, "guest": w.addNode(l, "guest"), "sink": w.addNode(l, "sink")}
	for name, s := range subnets {
		l.IP(w.host, "link add "+name+" type bridge mcast_snooping 0", "link set "+name+" up",
			"addr add "+s[0]+"1/24 dev "+name, "addr add "+s[1]+"1/64 dev "+name+" nodad")
		l.Sysctl(w.host, "ipv4/conf/"+name+"/route_localnet", "1")
		l.Sysctl(w.host, "ipv4/conf/"+name+"/send_redirects", "0")
	}
	for _, n := range nodes {
		if n.network == "" {
			continue
		}
		sandbox := l.NewHost(n.name)
		check(l, world.Cable(world.End{Host: w.host, Device: n.name},
			world.End{Host: sandbox, Device: "eth0", Addresses: []string{n.addr4.String() + "/24", n.addr6.String() + "/64"}}))
		l.IP(sandbox, "link set eth0 address "+n.mac.String())
		l.IP(w.host, "link set "+n.name+" master "+n.network, "link set dev "+n.name+" type bridge_slave hairpin on learning off flood off")
		inside[n.name] = sandbox
		l.Must(w.host, "bridge", "fdb", "replace", n.mac.String(), "dev", n.name, "master", "static")
	}
	l.Must(w.host, "nft", "-f", l.Write("kernel.nft", kernelRules()+hostRules))
	w.prepare(l, inside)
	return w
}

// kernelRules are what Docker's bridge driver makes for such networks, with the isolation of modes nat and
// internal, and what anti-spoofing takes on a bridge.
func kernelRules() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("table inet fuzz {")
	p("chain raw { type filter hook prerouting priority raw")
	for _, s := range subnets {
		p("iifname { eth0, guest } ip daddr %s0/24 fib daddr type != local drop", s[0])
		p("iifname { eth0, guest } ip6 daddr %s/64 fib daddr type != local drop", s[1])
	}
	p("}")
	for _, chain := range []string{"pre { type nat hook prerouting priority dstnat; iifname inner return", "local { type nat hook output priority -100"} {
		p("chain %s; fib daddr type local jump published; }", chain)
	}
	p("chain published {")
	for host, to := range published {
		n := nodeOf(to.name)
		p("meta nfproto ipv4 meta l4proto { tcp, udp } th dport %d dnat ip to %s:%d", host, n.addr4, to.port)
		p("meta nfproto ipv6 ip6 daddr != ::1 meta l4proto { tcp, udp } th dport %d dnat ip6 to [%s]:%d", host, n.addr6, to.port)
	}
	p("}")
	p("chain post { type nat hook postrouting priority srcnat")
	for name, s := range subnets {
		if name != "inner" {
			p("ip saddr %s0/24 oifname { eth0, guest } masquerade", s[0])
			p("ip6 saddr %s/64 oifname { eth0, guest } masquerade", s[1])
		}
		p("oifname %s fib saddr type local masquerade", name)
	}
	for _, s := range subnets { // the backend sees the gateway for its neighbours, as under Docker
		p("ct status dnat ip saddr %s0/24 masquerade", s[0])
		p("ct status dnat ip6 saddr %s/64 masquerade", s[1])
	}
	p("}")
	p("chain forward { type filter hook forward priority filter; policy drop")
	for name := range subnets { // mostly bridged; members reach each other
		p("iifname %s oifname %s ct state invalid accept", name, name)
	}
	p("ct state invalid drop")
	p("ct state established,related accept")
	p("ct status dnat accept")
	for name := range subnets {
		p("iifname %s oifname %s accept", name, name)
	}
	p("iifname { web, db } oifname { eth0, guest } accept")
	p("iifname guest oifname eth0 accept")
	p("}")
	p("chain input { type filter hook input priority filter")
	p("iifname inner ip daddr != 10.3.0.1 drop")
	p("iifname inner ip6 daddr != { fd00:3::1, fe80::/10, ff00::/8 } drop")
	p("}")
	p("}")
	for _, f := range lab.Families() { // what connection tracking finds invalid is seen at the sink
		p("table %s fuzz {", f.Of("ip", "ip6"))
		for _, hook := range []string{"forward", "input"} {
			p("chain %s { type filter hook %s priority filter - 20; ct state invalid dup to %s device sink; }", hook, hook, nodeOf("sink").addr(f))
		}
		p("}")
	}
	p("table bridge fuzz {")
	p("chain in { type filter hook prerouting priority -300")
	for _, n := range nodes {
		if n.network != "" {
			p("iifname %s jump %s", n.name, n.name)
		}
	}
	p("}")
	for _, n := range nodes {
		if n.network == "" {
			continue
		}
		p("chain %s {", n.name)
		p("ether saddr != %s drop", n.mac)
		p("ether type { 0x8100, 0x88a8 } drop")
		p("ether type arp arp saddr ip != %s drop", n.addr4)
		p("ether type arp arp saddr ether != %s drop", n.mac)
		p("ether type ip ip saddr != { %s, 0.0.0.0 } drop", n.addr4)
		p("ether type ip ip saddr 0.0.0.0 ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 drop")
		p("ether type ip6 ip6 saddr != { %s, ::, %s } drop", n.addr6, linkLocal(n.mac))
		p("ether type ip6 ip6 saddr :: ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 drop")
		p("}")
	}
	p("}")
	return b.String()
}

// linkLocal is the address that an interface with this MAC gives itself (RFC 4291 appendix A).
func linkLocal(m mac) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}

// prepare opens the packet sockets and silences the nodes' own stacks.
func (w *twin) prepare(l *lab.Lab, inside map[string]*world.Host) {
	l.Helper()
	check(l, w.host.Do(func() (err error) {
		w.netlink, err = netlink.NewHandle(unix.NETLINK_NETFILTER)
		return err
	}))
	l.Cleanup(w.netlink.Close)
	// Fairlead does not distinguish close_wait from the other state in which one side has closed. The kernels of both hosts
	// masquerade the guest.
	l.Sysctl(w.host, "netfilter/nf_conntrack_tcp_timeout_close_wait", "120")
	w.ports, w.macs, w.hop, w.sockets = map[string]*port{}, map[mac]string{}, map[string]mac{}, map[int]*socket{}
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, value := range []struct{ name, value string }{
			{"ipv4/icmp_ratelimit", "0"}, {"ipv4/icmp_msgs_per_sec", "1000000"}, {"ipv6/icmp/ratelimit", "0"},
			{"ipv4/tcp_timestamps", "0"}, {"ipv4/tcp_invalid_ratelimit", "0"}, {"ipv4/conf/all/rp_filter", "0"},
			{"ipv4/conf/eth0/rp_filter", "0"}, {"ipv4/conf/guest/rp_filter", "0"}, {"ipv4/conf/all/send_redirects", "0"},
			{"ipv4/conf/eth0/send_redirects", "0"}, {"ipv4/conf/guest/send_redirects", "0"},
			{"ipv4/conf/all/accept_redirects", "0"}, {"ipv6/conf/all/accept_redirects", "0"},
		} {
			if strings.HasPrefix(value.name, family) {
				l.Sysctl(w.host, value.name, value.value)
			}
		}
	}
	for _, n := range nodes {
		if n.network != "" {
			w.hop[n.name] = gatewayMAC(l, inside[n.name], gateway(n.network, lab.IPv4))
			w.macs[w.hop[n.name]] = "gateway of " + n.network
			if w.judge { // a bridge forgets its neighbours when its ports change its own MAC
				w.neighbour(l, n, n.network)
			}
		}
		w.macs[n.mac] = n.name
	}
	for name, device := range map[string]string{"out": "eth0", "guest": "guest", "sink": "sink"} {
		if inside[name] == nil {
			continue
		}
		w.hop[name] = deviceMAC(l, w.host, device)
		w.macs[w.hop[name]] = "host"
		w.neighbour(l, nodeOf(name), device)
	}
	for name, h := range inside {
		l.Must(h, "nft", "-f", l.Write("mute.nft", mute))
		w.ports[name] = newPort(l, h)
	}
	l.Cleanup(func() {
		for _, p := range w.ports {
			p.close()
		}
		w.closeSockets()
	})
}

// neighbour tells the host of one for good: nodes do not answer.
func (w *twin) neighbour(l *lab.Lab, n *node, device string) {
	l.Helper()
	for _, a := range []netip.Addr{n.addr4, n.addr6} {
		l.IP(w.host, fmt.Sprintf("neigh replace %v lladdr %v dev %s nud permanent", a, n.mac, device))
	}
}

// mute keeps a node's own stack from taking or sending anything. Packet sockets see what arrives before that.
var mute = fmt.Sprintf(`
table netdev mute {
	chain in { type filter hook ingress device eth0 priority 0; policy drop; }
	chain out { type filter hook egress device eth0 priority 0; policy drop; meta mark %d accept; }
}
`, ourMark)

// gatewayMAC is the MAC of the gateway, as a sandbox finds it.
func gatewayMAC(l *lab.Lab, sandbox *world.Host, gw netip.Addr) (m mac) {
	l.Helper()
	l.Ping(sandbox, gw.String())
	var found []struct{ LLAddr string }
	check(l, json.Unmarshal([]byte(l.Must(sandbox, "ip", "-json", "neigh", "show", gw.String())), &found))
	if len(found) != 1 {
		l.Fatalf("%s knows no neighbour %v", sandbox.Name, gw)
	}
	hw, err := net.ParseMAC(found[0].LLAddr)
	check(l, err)
	copy(m[:], hw)
	return m
}

func deviceMAC(l *lab.Lab, h *world.Host, name string) (m mac) {
	l.Helper()
	check(l, h.Do(func() error {
		dev, err := net.InterfaceByName(name)
		if err == nil {
			copy(m[:], dev.HardwareAddr)
		}
		return err
	}))
	return m
}

// flush forgets all flows.
func (w *twin) flush() error {
	for _, m := range w.tables {
		empty := lab.Empty
		if m.Type() == ebpf.Array {
			empty = zero
		}
		if err := empty(m); err != nil {
			return fmt.Errorf("empty %v: %w", m, err)
		}
	}
	if err := w.endDecisions(); err != nil {
		return err
	}
	return w.netlink.ConntrackTableFlush(netlink.ConntrackTable)
}

// endDecisions ends Fairlead's cached decisions, as its daemon does whenever it has written to a table.
func (w *twin) endDecisions() error {
	if w.generation == nil {
		return nil
	}
	return change(w.generation, func(_ uint32, generation *uint64) { *generation += 1 << 32 })
}

// zero has an array hold nothing.
func zero(m *ebpf.Map) error {
	value := make([]byte, m.ValueSize())
	for i := range m.MaxEntries() {
		if err := m.Put(i, value); err != nil {
			return err
		}
	}
	return nil
}

func check(l *lab.Lab, err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}
