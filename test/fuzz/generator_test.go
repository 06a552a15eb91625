// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/test/lab"
)

// flow is the sender, the receiver and the protocol of some packets. Nothing keeps its packets from being nonsense.
type flow struct {
	Client string     // node, or "host": a socket of the host's own
	DMAC   string     `json:",omitempty"` // node; "": the gateway
	Src    netip.Addr // "": the client's
	Dst    netip.Addr
	Proto  byte
	Sport  uint16 // ICMP: the id
	Dport  uint16 // ICMP: the type
}

// step is one thing that happens.
type step struct {
	Kind string // forward, reverse, error, connect, close, time
	Flow int

	Node   string `json:",omitempty"` // error: its sender; "": the end that got the flow's last packet
	Flags  byte   `json:",omitempty"` // of TCP
	Seq    int32  `json:",omitempty"` // off the right one
	Ack    int32  `json:",omitempty"`
	Window uint16 `json:",omitempty"`
	Len    int    `json:",omitempty"` // of the payload
	TTL    byte   `json:",omitempty"` // 0: 64
	Type   byte   `json:",omitempty"` // of an ICMP error
	Code   byte   `json:",omitempty"`
	Back   bool   `json:",omitempty"` // error: about an answer, to the server
	Forged bool   `json:",omitempty"` // error: about a packet of the flow that never was
	Tags   []tag  `json:",omitempty"`
	Frags  []int  `json:",omitempty"` // which fragments are sent, in which order
	ID     uint16 `json:",omitempty"`
	Cut    int    `json:",omitempty"` // bytes of the IP packet that are sent; 0: all
	Sleep  uint32 `json:",omitempty"` // time: seconds that pass
	Flip   int    `json:",omitempty"` // byte of the IP packet that is wrong; 0: none
}

// sequence is what both twins go through.
type sequence struct {
	Flows []flow
	Steps []step
}

func (s sequence) String() string {
	b, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// minimise leaves out steps, then flows, while what is left shows the same.
func (s sequence) minimise(shows func(sequence) bool) sequence {
	for i := len(s.Steps) - 1; i >= 0; i-- {
		less := sequence{s.Flows, slices.Delete(slices.Clone(s.Steps), i, i+1)}
		if shows(less) {
			s = less
		}
	}
	used := map[int]int{}
	less := sequence{}
	for _, st := range s.Steps {
		if st.Kind == "time" {
			less.Steps = append(less.Steps, st)
			continue
		}
		k, ok := used[st.Flow]
		if !ok {
			k = len(less.Flows)
			used[st.Flow] = k
			less.Flows = append(less.Flows, s.Flows[st.Flow])
		}
		st.Flow = k
		less.Steps = append(less.Steps, st)
	}
	if shows(less) {
		return less
	}
	return s
}

// generator makes sequences from a seed.
type generator struct{ *rand.Rand }

func newGenerator(seed uint64) generator {
	return generator{rand.New(rand.NewPCG(seed, 0))}
}

func pick[T any](g generator, of ...T) T { return of[g.IntN(len(of))] }

// in says yes once in n times.
func (g generator) in(n int) bool { return g.IntN(n) == 0 }

// ports are few, so that flows meet.
func (g generator) port() uint16 { return pick[uint16](g, 700, 4000, 4001, 40000) }

var internet = map[lab.Family]netip.Addr{
	lab.IPv4: netip.MustParseAddr(lab.Internet4), lab.IPv6: netip.MustParseAddr(lab.Internet6),
}

func (g generator) sequence() sequence {
	var s sequence
	family := pick(g, lab.IPv4, lab.IPv4, lab.IPv6)
	for i := range 1 + g.IntN(5) {
		f := g.flow(family)
		if i > 0 && g.in(2) { // of the same client, from the same port
			before := s.Flows[g.IntN(len(s.Flows))]
			if before.Proto == f.Proto && before.Client != f.DMAC && (before.Client == "host") == (f.Client == "host") {
				f.Client, f.Sport, f.Src = before.Client, before.Sport, before.Src
			}
		}
		if f.Dport == f.Sport && !isICMP(f.Proto) { // the observer distinguishes the directions by their ports
			f.Dport = 8081
		}
		if !slices.ContainsFunc(s.Flows, func(other flow) bool { return other.name() == f.name() }) {
			s.Flows = append(s.Flows, f)
		}
	}
	for range 3 + g.IntN(25) {
		k := g.IntN(len(s.Flows))
		s.Steps = append(s.Steps, g.steps(k, s.Flows[k])...)
	}
	if g.in(3) {
		for range 1 + g.IntN(2) {
			s.Steps = slices.Insert(s.Steps, g.IntN(len(s.Steps)), step{Kind: "time", Sleep: pick(g, sleeps...)})
		}
	}
	return s
}

// flow begins anywhere and leads anywhere.
func (g generator) flow(family lab.Family) flow {
	host := netip.MustParseAddr(family.Of(lab.Host4, lab.Host6))
	f := flow{
		Client: pick(g, "a1", "a1", "a2", "b1", "c1", "out", "out", "guest", "host"),
		Proto:  pick[byte](g, unix.IPPROTO_TCP, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP),
		Sport:  g.port(),
	}
	to := pick(g, "published", "published", "published", "outside", "outside", "member", "direct", "host")
	if f.Client == "host" {
		f.Proto = pick[byte](g, unix.IPPROTO_TCP, unix.IPPROTO_UDP)
		to = pick(g, "published", "loopback", "direct", "outside")
		if family == lab.IPv6 && to == "loopback" {
			to = "published"
		}
	}
	switch to {
	case "published":
		f.Dst, f.Dport = host, pick[uint16](g, 8080, 8080, 8081, ownPort)
		if g.in(8) {
			f.Dst = gateway(pick(g, "web", "db"), family)
		}
	case "loopback":
		f.Dst, f.Dport = netip.MustParseAddr("127.0.0.1"), pick[uint16](g, 8080, 8081)
	case "outside":
		f.Dst, f.Dport = pick(g, nodeOf("out").addr(family), internet[family]), 80
	case "member": // as on an Ethernet
		f.DMAC = pick(g, "a1", "a2")
		f.Dst, f.Dport = nodeOf(f.DMAC).addr(family), 80
		f.Client = pick(g, "a1", "a2", "b1")
		if f.Client == f.DMAC {
			f.Client = "b1"
		}
	case "direct": // an address that is perhaps not the client's to reach
		f.Dst, f.Dport = nodeOf(pick(g, "a1", "a2", "b1", "c1", "guest")).addr(family), 80
	case "host":
		f.Dst, f.Dport = pick(g, host, gateway(pick(g, "web", "db", "inner"), family)), pick[uint16](g, 9, 53)
	}
	if f.Client != "host" && f.Client != "guest" && g.in(6) { // not its own, or another of it
		f.Src = pick(g, nodeOf("a1").addr(family), nodeOf("a2").addr(family), nodeOf("b1").addr(family), host, internet[family],
			gateway("web", family), netip.MustParseAddr(family.Of("127.0.0.1", "::1")), netip.MustParseAddr(family.Of("224.0.0.1", "fe80::99")))
	}
	if f.Client == published[ownPort].name && g.in(3) {
		f.Sport = ownPort
	}
	if f.Proto == unix.IPPROTO_ICMP {
		f.Dport = 8
		if family == lab.IPv6 {
			f.Proto, f.Dport = unix.IPPROTO_ICMPV6, 128
		}
		if g.in(5) {
			f.Dport = uint16(pick(g, 0, 13, 13, 17, 200))
			if family == lab.IPv6 {
				f.Dport = uint16(pick(g, 129, 139, 139, 200, 100))
			}
		}
	}
	return f
}

// steps are what happens to flow k at once: mostly one thing.
func (g generator) steps(k int, f flow) []step {
	if f.Client == "host" {
		return g.socketSteps(k, f)
	}
	if f.Proto == unix.IPPROTO_TCP {
		return g.tcpSteps(k)
	}
	if g.in(6) {
		return g.talk(k, 0)
	}
	switch g.IntN(8) {
	case 0, 1, 2, 3:
		return []step{g.odd(step{Kind: "forward", Flow: k, Len: g.length()})}
	case 4, 5, 6:
		return []step{g.odd(step{Kind: "reverse", Flow: k, Len: g.length()})}
	default:
		return []step{g.error(k)}
	}
}

func (g generator) length() int { return pick(g, 0, 1, 8, 33, 600) }

// handshake opens a TCP connection, perhaps not quite.
func (g generator) handshake(k int) []step {
	steps := []step{
		{Kind: "forward", Flow: k, Flags: syn},
		{Kind: "reverse", Flow: k, Flags: syn | ack},
		{Kind: "forward", Flow: k, Flags: ack},
	}
	if g.in(2) {
		return append(steps, g.talk(k, ack|psh)...)
	}
	return steps[:1+g.IntN(3)]
}

// talk is several packets that change nothing, as most are: Fairlead caches where they go.
func (g generator) talk(k int, flags byte) (steps []step) {
	for range 2 + g.IntN(7) {
		s := step{Kind: pick(g, "forward", "reverse"), Flow: k, Flags: flags, Len: g.length()}
		if g.in(6) {
			s = g.odd(s)
		}
		steps = append(steps, s)
	}
	return steps
}

func (g generator) tcpSteps(k int) []step {
	switch g.IntN(8) {
	case 0, 1:
		return g.handshake(k)
	case 2:
		return []step{g.error(k)}
	}
	s := step{Kind: pick(g, "forward", "reverse"), Flow: k}
	s.Flags = pick[byte](g, syn, syn|ack, ack, ack, ack, ack|psh, ack|fin, ack|fin, rst, rst|ack, fin, 0, syn|rst, 0xff)
	if s.Flags&psh != 0 || g.in(4) {
		s.Len = g.length()
	}
	if g.in(4) { // what a stranger would guess
		s.Seq = pick[int32](g, -1, 1, 1000, 100000, 1<<30, -1<<30)
	}
	if g.in(4) {
		s.Ack = pick[int32](g, -1, 1, 1000, 100000, 1<<30, -1<<30)
	}
	return []step{g.odd(s)}
}

// socketSteps use a socket of the host's; what it does by itself follows.
func (g generator) socketSteps(k int, f flow) []step {
	if f.Proto == unix.IPPROTO_UDP {
		return []step{pick(g, step{Kind: "connect", Flow: k}, step{Kind: "reverse", Flow: k, Len: g.length()}, step{Kind: "close", Flow: k}, g.error(k))}
	}
	switch g.IntN(6) {
	case 0, 1:
		return []step{{Kind: "connect", Flow: k}}
	case 2, 3:
		return []step{{Kind: "connect", Flow: k}, {Kind: "reverse", Flow: k, Flags: syn | ack}}
	case 4:
		return []step{{Kind: "reverse", Flow: k, Flags: pick[byte](g, rst, ack, ack|psh, ack|fin), Len: g.length()}}
	default:
		return []step{{Kind: "close", Flow: k}}
	}
}

// error is an ICMP error about the flow's last packet.
func (g generator) error(k int) step {
	s := step{Kind: "error", Flow: k, Back: g.in(3), Type: pick[byte](g, 3, 3, 11, 12, 4, 5), Code: byte(g.IntN(5))}
	if s.Type == 11 {
		s.Code = 0 // 1 comes by itself, later
	}
	if g.in(3) {
		s.Node = pick(g, "a1", "a2", "b1", "c1", "out")
	}
	if g.in(6) {
		s.Cut = pick(g, 24, 28, 40, 48, 52)
	}
	return s
}

// odd makes a packet strange, seldom.
func (g generator) odd(s step) step {
	switch g.IntN(24) {
	case 0:
		s.TTL = pick[byte](g, 1, 2)
	case 1, 2:
		s.Tags = pick(g, []tag{{etherVLAN, 0}}, []tag{{etherVLAN, 100}}, []tag{{etherVLAN, 0}, {etherVLAN, 0}}, []tag{{etherQinQ, 0}},
			[]tag{{etherVLAN, 0}, {etherVLAN, 100}}, []tag{{etherVLAN, 0}, {etherVLAN, 0}, {etherVLAN, 0}}, []tag{{etherQinQ, 0}, {etherVLAN, 0}})
	case 3, 4, 5:
		s.Len, s.ID = fragmentSize*(1+g.IntN(3)), uint16(1+g.IntN(0xfffe))
		s.Frags = g.Perm(s.Len/fragmentSize + 1) // with the header, the last one is short
		switch g.IntN(6) {
		case 0: // one is lost
			s.Frags = s.Frags[1:]
		case 1: // one comes twice
			s.Frags = append(s.Frags, s.Frags[0])
		case 2, 3:
			for i := range s.Frags {
				s.Frags[i] = i
			}
		}
	case 6:
		s.Cut = 20 + g.IntN(24)
	case 7:
		s.Flip = pick(g, 1, 2, 3, 4, 5, 7, 8, 10, 11, 20, 21, 22, 23, 40+g.IntN(8)) // neither protocol nor destination
	}
	return s
}
