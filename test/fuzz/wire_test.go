// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100
	etherQinQ = 0x88a8

	ipMore = 0x2000 // of the field with flags and offset
	ipDF   = 0x4000
)

type mac [6]byte

func (m mac) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// tag is an 802.1Q or 802.1ad tag.
type tag struct {
	EtherType uint16 // that announces it
	VID       uint16
}

// packet is a frame in parts. A packet that is sent is complete; a decoded one may end early.
type packet struct {
	dmac, smac mac
	tags       []tag  // outer first
	etherType  uint16 // of what follows the tags; 0: by the addresses

	src, dst netip.Addr
	proto    byte
	ttl      byte
	id       uint32
	offset   int // of a fragment, in bytes
	more     bool
	df       bool

	sport, dport uint16 // ICMP: the id is the question's source, the answer's destination
	seq, ack     uint32
	flags        byte
	window       uint16
	options      []byte
	icmpType     byte
	icmpCode     byte
	icmpRest     uint32
	payload      []byte // of an ICMP error: the packet it is about, from its IP header

	bad []string // what is wrong with a decoded one
}

const (
	fin, syn, rst, psh, ack = 0x01, 0x02, 0x04, 0x08, 0x10
)

func (p *packet) is6() bool { return p.src.Is6() }

// icmpError says whether it carries the packet that it is about.
func (p *packet) icmpError() bool {
	switch p.proto {
	case unix.IPPROTO_ICMP:
		return p.icmpType == 3 || p.icmpType == 4 || p.icmpType == 5 || p.icmpType == 11 || p.icmpType == 12
	case unix.IPPROTO_ICMPV6:
		return p.icmpType < 128
	}
	return false
}

// asks says whether it is a question of ICMP with an id, or the answer to one.
func (p *packet) asks() (question, answer bool) {
	switch p.proto {
	case unix.IPPROTO_ICMP:
		return p.icmpType == 8 || p.icmpType == 13 || p.icmpType == 17, p.icmpType == 0 || p.icmpType == 14 || p.icmpType == 18
	case unix.IPPROTO_ICMPV6:
		return p.icmpType == 128, p.icmpType == 129
	}
	return false, false
}

// layer4 is the transport header and the payload, with the checksum right.
func (p *packet) layer4() []byte {
	var b []byte
	sum := -1 // offset of the checksum
	switch p.proto {
	case unix.IPPROTO_TCP:
		b = binary.BigEndian.AppendUint16(b, p.sport)
		b = binary.BigEndian.AppendUint16(b, p.dport)
		b = binary.BigEndian.AppendUint32(b, p.seq)
		b = binary.BigEndian.AppendUint32(b, p.ack)
		b = append(b, byte(5+len(p.options)/4)<<4, p.flags)
		b = binary.BigEndian.AppendUint16(b, p.window)
		b = append(b, 0, 0, 0, 0)
		b = append(b, p.options...)
		sum = 16
	case unix.IPPROTO_UDP:
		b = binary.BigEndian.AppendUint16(b, p.sport)
		b = binary.BigEndian.AppendUint16(b, p.dport)
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(p.payload)))
		b = append(b, 0, 0)
		sum = 6
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		b = append(b, p.icmpType, p.icmpCode, 0, 0)
		question, answer := p.asks()
		switch {
		case question:
			b = binary.BigEndian.AppendUint16(b, p.sport)
			b = binary.BigEndian.AppendUint16(b, uint16(p.icmpRest))
		case answer:
			b = binary.BigEndian.AppendUint16(b, p.dport)
			b = binary.BigEndian.AppendUint16(b, uint16(p.icmpRest))
		default:
			b = binary.BigEndian.AppendUint32(b, p.icmpRest)
		}
		sum = 2
	}
	b = append(b, p.payload...)
	if sum >= 0 {
		c := checksum(p.pseudo(len(b)), b)
		if c == 0 && p.proto == unix.IPPROTO_UDP {
			c = 0xffff
		}
		binary.BigEndian.PutUint16(b[sum:], c)
	}
	return b
}

// pseudo is the pseudo header of RFC 9293 section 3.1 and RFC 8200 section 8.1.
func (p *packet) pseudo(length int) []byte {
	if p.proto == unix.IPPROTO_ICMP {
		return nil
	}
	b := append(p.src.AsSlice(), p.dst.AsSlice()...)
	return append(b, 0, p.proto, byte(length>>8), byte(length))
}

// ip wraps what follows the IP header into a packet.
func (p *packet) ip(payload []byte) []byte {
	var b []byte
	if !p.is6() {
		frag := uint16(p.offset / 8)
		if p.more {
			frag |= ipMore
		}
		if p.df {
			frag |= ipDF
		}
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+len(payload)))
		b = binary.BigEndian.AppendUint16(b, uint16(p.id))
		b = binary.BigEndian.AppendUint16(b, frag)
		b = append(b, p.ttl, p.proto, 0, 0)
		b = append(append(b, p.src.AsSlice()...), p.dst.AsSlice()...)
		binary.BigEndian.PutUint16(b[10:], checksum(nil, b))
		return append(b, payload...)
	}
	next := p.proto
	if p.offset > 0 || p.more {
		header := []byte{next, 0}
		frag := uint16(p.offset)
		if p.more {
			frag |= 1
		}
		header = binary.BigEndian.AppendUint16(header, frag)
		header = binary.BigEndian.AppendUint32(header, p.id)
		payload = append(header, payload...)
		next = unix.IPPROTO_FRAGMENT
	}
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = append(b, next, p.ttl)
	b = append(append(b, p.src.AsSlice()...), p.dst.AsSlice()...)
	return append(b, payload...)
}

// frame wraps an IP packet, or whatever etherType says.
func (p *packet) frame(payload []byte) []byte {
	b := append(append([]byte{}, p.dmac[:]...), p.smac[:]...)
	for _, t := range p.tags {
		b = binary.BigEndian.AppendUint16(b, t.EtherType)
		b = binary.BigEndian.AppendUint16(b, t.VID)
	}
	etherType := p.etherType
	if etherType == 0 {
		etherType = etherIPv4
		if p.is6() {
			etherType = etherIPv6
		}
	}
	b = binary.BigEndian.AppendUint16(b, etherType)
	return append(b, payload...)
}

// decode takes a received frame apart.
func decode(frame []byte) *packet {
	p := &packet{}
	if len(frame) < 14 {
		p.bad = append(p.bad, "short frame")
		return p
	}
	copy(p.dmac[:], frame)
	copy(p.smac[:], frame[6:])
	p.etherType = binary.BigEndian.Uint16(frame[12:])
	frame = frame[14:]
	for (p.etherType == etherVLAN || p.etherType == etherQinQ) && len(frame) >= 4 {
		p.tags = append(p.tags, tag{p.etherType, binary.BigEndian.Uint16(frame) & 0xfff})
		p.etherType = binary.BigEndian.Uint16(frame[2:])
		frame = frame[4:]
	}
	switch p.etherType {
	case etherIPv4, etherIPv6:
		p.decodeIP(frame)
	default:
		p.payload = frame
	}
	return p
}

// decodeIP takes an IP packet apart, which may be cut off if an ICMP error embeds it.
func (p *packet) decodeIP(b []byte) {
	if len(b) == 0 {
		p.bad = append(p.bad, "empty")
		return
	}
	ok := false
	if b[0]>>4 == 4 {
		b, ok = p.decodeIPv4(b)
	} else {
		b, ok = p.decodeIPv6(b)
	}
	if !ok {
		p.bad = append(p.bad, "IP header")
		return
	}
	p.decodeLayer4(b)
}

func (p *packet) decodeIPv4(b []byte) (rest []byte, ok bool) {
	if len(b) < 20 {
		return nil, false
	}
	length, header := int(binary.BigEndian.Uint16(b[2:])), int(b[0]&15)*4
	if header < 20 || header > len(b) || length < header {
		return nil, false
	}
	if checksum(nil, b[:header]) != 0 {
		p.bad = append(p.bad, "IP checksum")
	}
	if length > len(b) {
		p.bad = append(p.bad, "length")
	}
	p.id = uint32(binary.BigEndian.Uint16(b[4:]))
	frag := binary.BigEndian.Uint16(b[6:])
	p.df, p.more, p.offset = frag&ipDF != 0, frag&ipMore != 0, int(frag&0x1fff)*8
	p.ttl, p.proto = b[8], b[9]
	p.src, _ = netip.AddrFromSlice(b[12:16])
	p.dst, _ = netip.AddrFromSlice(b[16:20])
	return b[header:min(length, len(b))], true
}

func (p *packet) decodeIPv6(b []byte) (rest []byte, ok bool) {
	if len(b) < 40 {
		return nil, false
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	p.proto, p.ttl = b[6], b[7]
	p.src, _ = netip.AddrFromSlice(b[8:24])
	p.dst, _ = netip.AddrFromSlice(b[24:40])
	if 40+length > len(b) {
		p.bad = append(p.bad, "length")
	}
	rest = b[40:min(40+length, len(b))]
	if p.proto == unix.IPPROTO_FRAGMENT && len(rest) >= 8 {
		p.proto = rest[0]
		frag := binary.BigEndian.Uint16(rest[2:])
		p.offset, p.more = int(frag&0xfff8), frag&1 != 0
		p.id = binary.BigEndian.Uint32(rest[4:])
		rest = rest[8:]
	}
	return rest, true
}

func (p *packet) fragment() bool { return p.more || p.offset > 0 }

func (p *packet) decodeLayer4(b []byte) {
	p.payload = b
	if p.fragment() {
		return
	}
	whole := checksum(p.pseudo(len(b)), b) == 0
	switch p.proto {
	case unix.IPPROTO_TCP:
		if len(b) < 20 || int(b[12]>>4)*4 < 20 || int(b[12]>>4)*4 > len(b) {
			p.ports(b)
			p.bad = append(p.bad, "TCP header")
			return
		}
		p.ports(b)
		p.seq, p.ack = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
		p.flags, p.window = b[13], binary.BigEndian.Uint16(b[14:])
		p.options, p.payload = b[20:int(b[12]>>4)*4], b[int(b[12]>>4)*4:]
	case unix.IPPROTO_UDP:
		if len(b) < 8 {
			p.bad = append(p.bad, "UDP header")
			return
		}
		p.ports(b)
		p.payload = b[8:]
		whole = whole || (b[6] == 0 && b[7] == 0 && !p.is6())
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		if len(b) < 8 {
			p.bad = append(p.bad, "ICMP header")
			return
		}
		p.icmpType, p.icmpCode, p.icmpRest = b[0], b[1], binary.BigEndian.Uint32(b[4:])
		question, answer := p.asks()
		if question {
			p.sport, p.icmpRest = uint16(p.icmpRest>>16), p.icmpRest&0xffff
		} else if answer {
			p.dport, p.icmpRest = uint16(p.icmpRest>>16), p.icmpRest&0xffff
		}
		p.payload = b[8:]
	default:
		return
	}
	if !whole {
		p.bad = append(p.bad, "checksum")
	}
}

func (p *packet) ports(b []byte) {
	if len(b) >= 4 {
		p.sport, p.dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	}
}

// embedded is the packet that an ICMP error is about. Its checksum is not judged, for it may be cut off.
func (p *packet) embedded() *packet {
	in := &packet{}
	in.decodeIP(p.payload)
	in.bad = nil
	return in
}

func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts { // each but the last has an even length
		for i, c := range b {
			sum += uint32(c) << (8 * (1 - i%2))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func flagNames(f byte) string {
	var names []string
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"} {
		if f>>i&1 == 1 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "+")
}
