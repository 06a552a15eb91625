// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/test/lab"
)

// seen is a packet that came out somewhere.
type seen struct {
	node string
	p    *packet
	text string // what is compared
	rest string // of it without MACs and hop limit

	own   bool // sent by a socket of the host's
	again bool // it did so before
}

// place is one end of a flow as its other end sees it.
type place struct {
	proto      byte
	addr, peer netip.AddrPort
}

// view is what a twin has shown in this sequence: the ports that it chose, and where flows come out.
type view struct {
	names  map[place]string // a translated source's, by the flow that showed it first
	server map[int]*seen    // by flow: the last packet that came out of its other end
	client map[int]*seen    // by flow: the last answer that came back
	base   map[place]uint32 // by source of a socket's packets: its initial sequence number
	said   map[int]string   // by flow of a socket: its last words
	sent   map[string]bool  // what sockets of the host's sent
}

func newView() *view {
	return &view{map[place]string{}, map[int]*seen{}, map[int]*seen{}, map[place]uint32{}, map[int]string{}, map[string]bool{}}
}

// hostAddrs are the addresses that flows are translated to.
var hostAddrs = func() map[netip.Addr]bool {
	m := map[netip.Addr]bool{}
	for _, f := range lab.Families() {
		m[netip.MustParseAddr(f.Of(lab.Host4, lab.Host6))] = true
		for name := range subnets {
			m[gateway(name, f)] = true
		}
	}
	return m
}()

func (p *packet) from() place {
	return place{p.proto, netip.AddrPortFrom(p.src, p.sport), netip.AddrPortFrom(p.dst, p.dport)}
}

func (p *packet) to() place {
	return place{p.proto, netip.AddrPortFrom(p.dst, p.dport), netip.AddrPortFrom(p.src, p.sport)}
}

// portClass is what a translated port has to be, as netfilter has it: privileged ports stay privileged, and what a sandbox sends
// from its published port keeps that.
func portClass(fl *flow, p *packet) string {
	switch {
	case isICMP(p.proto):
		return ""
	case p.sport < 1024:
		return "privileged "
	case p.sport == ownPort && fl.Sport == ownPort && fl.Client == published[ownPort].name && slices.Contains(uplinkAddrs, p.src):
		return "published "
	}
	return ""
}

var uplinkAddrs = []netip.Addr{netip.MustParseAddr(lab.Host4), netip.MustParseAddr(lab.Host6)}

// ofSocket says whether a packet is one of a host's own socket, and not of somebody who poses as the socket.
func (v *view) ofSocket(p *packet) bool {
	base, ok := v.base[p.from()]
	return ok && p.seq-base < 1<<24
}

// name gives the source of a flow's packet a name if twins choose its port by themselves.
func (v *view) name(fl *flow, p *packet) {
	at := p.from()
	if question, _ := p.asks(); isICMP(p.proto) && !question {
		return // no port
	}
	if _, ok := v.names[at]; !ok && len(p.bad) == 0 && (hostAddrs[p.src] || p.sport != fl.Sport) {
		v.names[at] = portClass(fl, p) + "port of " + fl.name()
	}
}

// forget has the ports of a flow be anybody's again.
func (v *view) forget(fl *flow) {
	for at, name := range v.names {
		if strings.HasSuffix(name, "port of "+fl.name()) {
			delete(v.names, at)
			delete(v.base, at)
		}
	}
}

func (v *view) end(at place) string {
	if name, ok := v.names[at]; ok {
		return fmt.Sprintf("%v:<%s>", at.addr.Addr(), name)
	}
	if a := at.addr.Addr(); a.IsLinkLocalUnicast() && a.As16()[11] == 0xff { // made of a device's MAC
		return "link-local"
	}
	return at.addr.String()
}

// describe writes down what is compared of a packet: all but what may differ between two right ways to forward it (IP's
// id and offsets that follow from it, ports that were chosen, sequence numbers of the host's own sockets).
func (w *twin) describe(p *packet) string {
	var b strings.Builder
	for _, t := range p.tags {
		if t.VID != 0 { // the receiver's kernel takes those of VLAN 0 off
			fmt.Fprintf(&b, "tag %04x %d ", t.EtherType, t.VID)
		}
	}
	fmt.Fprintf(&b, "%s > %s ", w.macName(p.smac), w.macName(p.dmac))
	if !p.src.IsValid() {
		fmt.Fprintf(&b, "ethertype %04x %s", p.etherType, hex.EncodeToString(p.payload))
	} else {
		b.WriteString(w.view.describeIP(p))
	}
	return b.String()
}

func (w *twin) macName(m mac) string {
	if name, ok := w.macs[m]; ok {
		return name
	}
	return m.String()
}

func (v *view) describeIP(p *packet) string {
	var b strings.Builder
	fmt.Fprintf(&b, "ttl %d ", p.ttl)
	b.WriteString(v.describeRest(p))
	for _, bad := range p.bad {
		fmt.Fprintf(&b, " BAD %s", bad)
	}
	return b.String()
}

func (v *view) describeRest(p *packet) string {
	var b strings.Builder
	if p.fragment() {
		fmt.Fprintf(&b, "%v > %v proto %d fragment at %d more %t", p.src, p.dst, p.proto, p.offset, p.more)
		fmt.Fprintf(&b, " %s", digest(p.payload))
		return b.String()
	}
	from, to := v.end(p.from()), v.end(p.to())
	switch p.proto {
	case unix.IPPROTO_TCP:
		seq, ackNumber, own := v.relative(p)
		fmt.Fprintf(&b, "TCP %s > %s %s seq %d ack %d", from, to, flagNames(p.flags), seq, ackNumber)
		if !own { // the host's stack chooses them by its route, which is not the same to a published port
			fmt.Fprintf(&b, " window %d options %x", p.window, p.options)
		}
	case unix.IPPROTO_UDP:
		fmt.Fprintf(&b, "UDP %s > %s", from, to)
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		fmt.Fprintf(&b, "ICMP %s > %s type %d code %d rest %d", from, to, p.icmpType, p.icmpCode, p.icmpRest)
		if p.icmpError() {
			fmt.Fprintf(&b, " about [%s]", v.describeRest(p.embedded()))
			return b.String()
		}
	default:
		fmt.Fprintf(&b, "proto %d %v > %v", p.proto, p.src, p.dst)
	}
	if p.proto == unix.IPPROTO_ICMP && p.icmpType == 14 { // the time of day
		return b.String()
	}
	fmt.Fprintf(&b, " payload %s", digest(p.payload))
	return b.String()
}

// digest tells a payload from others, in few words.
func digest(b []byte) string {
	if len(b) <= 16 {
		return hex.EncodeToString(b)
	}
	return fmt.Sprintf("%x... of %d bytes, sum %08x", b[:8], len(b), crc32.ChecksumIEEE(b))
}

// relative are the sequence numbers, counted from where a socket of the host's began if it is one's; own: it sent this.
func (v *view) relative(p *packet) (seq, ackNumber uint32, own bool) {
	seq, ackNumber = p.seq, p.ack
	if v.ofSocket(p) {
		seq, own = seq-v.base[p.from()], true
	} else if base, ok := v.base[p.to()]; ok {
		ackNumber -= base
	}
	return seq, ackNumber, own
}

// allMLD is where reports of multicast listeners go (RFC 3810 section 5.2.14).
var allMLD = netip.MustParseAddr("ff02::16")

// background says whether a packet is one that stacks send by themselves.
func background(p *packet) bool {
	if p.etherType == etherARP || p.proto == unix.IPPROTO_IGMP || p.dst == allMLD {
		return true
	}
	if p.proto == unix.IPPROTO_ICMPV6 {
		return p.icmpType >= 130 && p.icmpType <= 137 || p.icmpType == 143 || p.icmpType == 3 && p.icmpCode == 1
	}
	return p.proto == unix.IPPROTO_ICMP && p.icmpType == 11 && p.icmpCode == 1 // fragments that lay there for long
}

// collect returns the packets that came out at all nodes, reassembled if they came out as fragments. invalid reports whether
// connection tracking refused a packet, which is then copied to the sink.
func (w *twin) collect() (all []*seen, invalid bool, err error) {
	for _, n := range nodes {
		for w.ports[n.name] != nil {
			frame, unsummed, err := w.ports[n.name].receive()
			if err != nil {
				return nil, false, err
			}
			if frame == nil {
				break
			}
			p := decode(frame)
			if unsummed {
				p.bad = nil
			}
			switch {
			case background(p):
			case n.name == "sink":
				invalid = true
			default:
				all = append(all, &seen{node: n.name, p: p})
			}
		}
	}
	return reassemble(all), invalid, nil
}

// reassemble puts fragments together; those of a packet that is not complete stay as they are.
func reassemble(all []*seen) (out []*seen) {
	type key struct {
		node     string
		src, dst netip.Addr
		proto    byte
		id       uint32
	}
	groups := map[key][]*seen{}
	for _, s := range all {
		if !s.p.fragment() {
			out = append(out, s)
			continue
		}
		k := key{s.node, s.p.src, s.p.dst, s.p.proto, s.p.id}
		groups[k] = append(groups[k], s)
	}
	for _, group := range groups {
		out = append(out, whole(group)...)
	}
	return out
}

func whole(group []*seen) []*seen {
	sort.SliceStable(group, func(i, j int) bool { return group[i].p.offset < group[j].p.offset })
	var b []byte
	last := false
	for _, s := range group {
		if s.p.offset > len(b) {
			return group
		}
		if end := s.p.offset + len(s.p.payload); end > len(b) {
			b = append(b, s.p.payload[len(b)-s.p.offset:]...)
		}
		last = last || !s.p.more
	}
	if !last || group[0].p.offset != 0 {
		return group
	}
	p := *group[0].p
	p.more, p.offset = false, 0
	p.decodeLayer4(b)
	return []*seen{{node: group[0].node, p: &p}}
}

// texts describes all packets, sorted, for comparing.
func (w *twin) texts(all []*seen) {
	for _, s := range all {
		s.text, s.rest = s.node+": "+w.describe(s.p), w.view.describeRest(s.p)
		if _, _, s.own = w.view.relative(s.p); s.own {
			s.again = w.view.sent[s.text]
			w.view.sent[s.text] = true
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].text < all[j].text })
}
