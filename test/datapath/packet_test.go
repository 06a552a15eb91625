// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-net/fairlead/maps"
)

const (
	tcp  = layers.IPProtocolTCP
	udp  = layers.IPProtocolUDP
	sctp = layers.IPProtocolSCTP
	// echo is ICMP or ICMPv6 echo, depending on the addresses' family. The id is stored where
	// other protocols have a port: the source port in a request, the destination port in a
	// reply.
	echo = layers.IPProtocol(253)
	// gre stands for all protocols without ports.
	gre = layers.IPProtocolGRE
)

// packet describes the contents of a packet. An expected packet is a copy with other fields.
type packet struct {
	smac, dmac maps.MAC
	src, dst   netip.AddrPort
	proto      layers.IPProtocol
	flags      string // TCP: letters of SAFRP
	seq, ack   uint32 // TCP: relative to firstSeq
	wscale     uint8  // TCP: option of a SYN; 0 for none
	ttl, tos   uint8
	noDF       bool
	id         uint16 // IPv4
	frag       *fragment
	noSum      bool      // UDP without a checksum
	mss        uint16    // TCP option; 0 for none
	icmp       *icmpKind // an ICMP message other than echo; payload is its body
	ext        []byte    // IPv6 extension headers as they are; ext's first is extProto
	extProto   layers.IPProtocol
	options    []layers.IPv4Option
	payload    string
}

// fragment is a part of a packet: bytes [offset, offset+n) of what follows the IP header.
type fragment struct {
	offset, n int
	more      bool
}

type icmpKind struct {
	typ, code uint8
	rest      uint32 // MTU of "too big"
}

func (p packet) with(change func(*packet)) packet {
	change(&p)
	return p
}

// answer returns the reply of the receiver of p, unrouted.
func (p packet) answer(flags string) packet {
	p.src, p.dst, p.smac, p.dmac, p.flags = p.dst, p.src, p.dmac, p.smac, flags
	p.seq, p.ack = p.ack, p.seq
	p.ttl = 64
	return p
}

// routed returns p after a hop.
func (p packet) routed() packet {
	p.ttl--
	return p
}

func (p packet) is4() bool { return p.dst.Addr().Is4() }

func (p packet) bytes(tb testing.TB) []byte {
	tb.Helper()
	eth := &layers.Ethernet{SrcMAC: p.smac[:], DstMAC: p.dmac[:], EthernetType: layers.EthernetTypeIPv6}
	if p.is4() {
		eth.EthernetType = layers.EthernetTypeIPv4
	}
	return serialize(tb, eth, gopacket.Payload(p.ipBytes(tb)))
}

// ipBytes returns the packet without its Ethernet header.
func (p packet) ipBytes(tb testing.TB) []byte {
	tb.Helper()
	proto, body := p.l4(tb)
	if f := p.frag; f != nil {
		body = body[f.offset : f.offset+f.n]
	}
	if p.is4() {
		ip := p.ip4(proto)
		return serialize(tb, ip, gopacket.Payload(body))
	}
	if p.frag != nil {
		h := []byte{byte(proto), 0, byte(p.frag.offset >> 8), byte(p.frag.offset), 0, 0, byte(p.id >> 8), byte(p.id)}
		if p.frag.more {
			h[3] |= 1
		}
		body, proto = append(h, body...), layers.IPProtocolIPv6Fragment
	}
	if len(p.ext) > 0 {
		ext := append([]byte(nil), p.ext...)
		body, proto = append(ext, body...), p.extProto
	}
	return serialize(tb, p.ip6(proto), gopacket.Payload(body))
}

func (p packet) ip4(proto layers.IPProtocol) *layers.IPv4 {
	ip := &layers.IPv4{
		Version: 4, TTL: p.ttl, TOS: p.tos, Id: p.id, Protocol: proto, Options: p.options,
		SrcIP: p.src.Addr().AsSlice(), DstIP: p.dst.Addr().AsSlice(),
	}
	if !p.noDF {
		ip.Flags = layers.IPv4DontFragment
	}
	if f := p.frag; f != nil {
		ip.Flags, ip.FragOffset = 0, uint16(f.offset/8)
		if f.more {
			ip.Flags = layers.IPv4MoreFragments
		}
	}
	return ip
}

func (p packet) ip6(proto layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{
		Version: 6, HopLimit: p.ttl, TrafficClass: p.tos, NextHeader: proto,
		SrcIP: p.src.Addr().AsSlice(), DstIP: p.dst.Addr().AsSlice(),
	}
}

// l4 returns the whole layer 4, including its checksum, and its protocol number.
func (p packet) l4(tb testing.TB) (layers.IPProtocol, []byte) {
	tb.Helper()
	proto := p.proto
	if proto == echo || p.icmp != nil {
		proto = layers.IPProtocolICMPv6
		if p.is4() {
			proto = layers.IPProtocolICMPv4
		}
	}
	var network gopacket.NetworkLayer = p.ip6(proto)
	if p.is4() {
		network = p.ip4(proto)
	}
	switch proto {
	case tcp:
		return proto, serialize(tb, p.tcp(tb, network), gopacket.Payload(p.payload))
	case udp:
		h := &layers.UDP{SrcPort: layers.UDPPort(p.src.Port()), DstPort: layers.UDPPort(p.dst.Port())}
		must(tb, h.SetNetworkLayerForChecksum(network))
		b := serialize(tb, h, gopacket.Payload(p.payload))
		if p.noSum {
			b[6], b[7] = 0, 0
		}
		return proto, b
	case sctp:
		return proto, serialize(tb, &layers.SCTP{
			SrcPort: layers.SCTPPort(p.src.Port()), DstPort: layers.SCTPPort(p.dst.Port()),
		}, gopacket.Payload(p.payload))
	case layers.IPProtocolICMPv4, layers.IPProtocolICMPv6:
		return proto, p.icmpBytes(tb, network)
	}
	return proto, []byte(p.payload)
}

func (p packet) tcp(tb testing.TB, network gopacket.NetworkLayer) *layers.TCP {
	h := &layers.TCP{
		SrcPort: layers.TCPPort(p.src.Port()), DstPort: layers.TCPPort(p.dst.Port()),
		Seq: firstSeq + p.seq, Ack: firstSeq + p.ack, Window: 64240,
		SYN: strings.Contains(p.flags, "S"), ACK: strings.Contains(p.flags, "A"),
		FIN: strings.Contains(p.flags, "F"), RST: strings.Contains(p.flags, "R"),
		PSH: strings.Contains(p.flags, "P"),
	}
	if p.mss != 0 {
		h.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: binary.BigEndian.AppendUint16(nil, p.mss)}}
	}
	if h.SYN {
		h.Seq--
	}
	if h.SYN && p.wscale != 0 {
		h.Options = append(h.Options, layers.TCPOption{OptionType: layers.TCPOptionKindNop},
			layers.TCPOption{OptionType: layers.TCPOptionKindWindowScale, OptionLength: 3, OptionData: []byte{p.wscale}})
	}
	must(tb, h.SetNetworkLayerForChecksum(network))
	return h
}

// firstSeq is the sequence number of the first byte of both sides, unless a packet sets
// another: each packet repeats the data of the previous one.
const firstSeq = 0x01020304

// echoRequest returns the type of an echo request of the packet's family.
func (p packet) echoRequest() uint8 {
	if p.is4() {
		return layers.ICMPv4TypeEchoRequest
	}
	return layers.ICMPv6TypeEchoRequest
}

// icmpBytes returns an echo message, or the one in p.icmp.
func (p packet) icmpBytes(tb testing.TB, network gopacket.NetworkLayer) []byte {
	kind := icmpKind{typ: p.echoRequest(), rest: uint32(p.src.Port())<<16 | 1}
	if p.dst.Port() != 0 {
		kind = icmpKind{typ: layers.ICMPv4TypeEchoReply, rest: uint32(p.dst.Port())<<16 | 1}
		if !p.is4() {
			kind.typ = layers.ICMPv6TypeEchoReply
		}
	}
	if p.icmp != nil {
		kind = *p.icmp
	}
	body := append([]byte{byte(kind.rest >> 24), byte(kind.rest >> 16), byte(kind.rest >> 8), byte(kind.rest)}, p.payload...)
	if p.is4() {
		return serialize(tb, &layers.ICMPv4{
			TypeCode: layers.CreateICMPv4TypeCode(kind.typ, kind.code),
			Id:       uint16(kind.rest >> 16), Seq: uint16(kind.rest),
		}, gopacket.Payload(p.payload))
	}
	h := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind.typ, kind.code)}
	must(tb, h.SetNetworkLayerForChecksum(network))
	return serialize(tb, h, gopacket.Payload(body))
}

// arp is an ARP packet in its Ethernet frame.
type arp struct {
	smac, dmac        maps.MAC
	op                uint16
	sender, target    maps.MAC // hardware addresses
	senderIP, target4 netip.Addr
}

func (a arp) bytes(tb testing.TB) []byte {
	tb.Helper()
	return serialize(tb,
		&layers.Ethernet{SrcMAC: a.smac[:], DstMAC: a.dmac[:], EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4,
			HwAddressSize: 6, ProtAddressSize: 4, Operation: a.op,
			SourceHwAddress: a.sender[:], SourceProtAddress: a.senderIP.AsSlice(),
			DstHwAddress: a.target[:], DstProtAddress: a.target4.AsSlice(),
		})
}

// nd is a message of neighbour discovery, or another link-local ICMPv6 message.
type nd struct {
	smac, dmac maps.MAC
	src, dst   netip.Addr
	typ        uint8
	flags      uint32 // of an advertisement
	target     netip.Addr
	option     uint8 // 1 source, 2 target link-layer address; 0 for none
	lladdr     maps.MAC
	hops       uint8 // 0 means 255
}

func (n nd) bytes(tb testing.TB) []byte {
	tb.Helper()
	body := []byte{byte(n.flags >> 24), byte(n.flags >> 16), byte(n.flags >> 8), byte(n.flags)}
	if n.target.IsValid() {
		body = append(body, n.target.AsSlice()...)
	}
	if n.option != 0 {
		body = append(append(body, n.option, 1), n.lladdr[:]...)
	}
	ip := &layers.IPv6{
		Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6,
		SrcIP: n.src.AsSlice(), DstIP: n.dst.AsSlice(),
	}
	if n.hops != 0 {
		ip.HopLimit = n.hops
	}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(n.typ, 0)}
	must(tb, icmp.SetNetworkLayerForChecksum(ip))
	return serialize(tb,
		&layers.Ethernet{SrcMAC: n.smac[:], DstMAC: n.dmac[:], EthernetType: layers.EthernetTypeIPv6},
		ip, icmp, gopacket.Payload(body))
}

// raw is a frame with any EtherType.
type raw struct {
	smac, dmac maps.MAC
	ethertype  uint16
	payload    string
}

func (r raw) bytes(tb testing.TB) []byte {
	tb.Helper()
	return serialize(tb,
		&layers.Ethernet{SrcMAC: r.smac[:], DstMAC: r.dmac[:], EthernetType: layers.EthernetType(r.ethertype)},
		gopacket.Payload(r.payload))
}

// literal is a frame as it is.
type literal []byte

func (l literal) bytes(testing.TB) []byte { return l }

// frame is anything that can be sent.
type frame interface {
	bytes(testing.TB) []byte
}

func serialize(tb testing.TB, l ...gopacket.SerializableLayer) []byte {
	tb.Helper()
	buf := gopacket.NewSerializeBuffer()
	must(tb, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...))
	return buf.Bytes()
}

// dump formats a frame for a human reader.
func dump(b []byte) string {
	var lines strings.Builder
	for _, l := range gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default).Layers() {
		if l.LayerType() == gopacket.LayerTypeDecodeFailure || l.LayerType() == gopacket.LayerTypePayload {
			break
		}
		fmt.Fprintln(&lines, gopacket.LayerString(l))
	}
	return lines.String() + hex.Dump(b)
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func mac(s string) maps.MAC {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return maps.MAC(m)
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
