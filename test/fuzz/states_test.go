// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bpf"
)

// phase is how far a TCP connection is, as a twin's connection tracking has it.
type phase string

const (
	unknown phase = "unknown"
	opening phase = "opening"
	open    phase = "open"
	closing phase = "closing"
)

// fairleadPhase looks a flow up in the tables of flows that are confirmed and that are not.
func fairleadPhase(confirmed, unconfirmed *ebpf.Map, at place) (phase, error) {
	key := bpf.TCTuple{Proto: at.proto, Sport: network(at.addr.Port()), Dport: network(at.peer.Port())}
	key.Saddr.B, key.Daddr.B = at.addr.Addr().As16(), at.peer.Addr().As16()
	var e bpf.TCCtEntry
	p := open
	err := confirmed.Lookup(&key, &e)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		p = opening
		err = unconfirmed.Lookup(&key, &e)
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return unknown, nil
	}
	switch state := bpf.TCCtState(e.State); {
	case state > bpf.TCCtStateCT_ESTABLISHED:
		p = closing
	case state == bpf.TCCtStateCT_ESTABLISHED && p == opening:
		p = unknown // picked up in its middle, after it was forgotten
	}
	return p, err
}

// network puts a port into network byte order.
func network(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

// kernelPhases are those of all flows that the kernel tracks, by where their first packet went.
func (w *twin) kernelPhases(family netlink.InetFamily) (map[place]phase, error) {
	phases := map[place]phase{}
	flows, err := w.netlink.ConntrackTableList(netlink.ConntrackTable, family)
	if err != nil {
		return nil, fmt.Errorf("list the kernel's flows: %w", err)
	}
	for _, f := range flows {
		tcp, ok := f.ProtoInfo.(*netlink.ProtoInfoTCP)
		if !ok {
			continue
		}
		src, _ := netip.AddrFromSlice(f.Forward.SrcIP)
		dst, _ := netip.AddrFromSlice(f.Forward.DstIP)
		at := place{unix.IPPROTO_TCP, netip.AddrPortFrom(src.Unmap(), f.Forward.SrcPort), netip.AddrPortFrom(dst.Unmap(), f.Forward.DstPort)}
		switch tcp.State { // enum tcp_conntrack of <linux/netfilter/nf_conntrack_tcp.h>
		case 1, 2, 9:
			phases[at] = opening
		case 3:
			phases[at] = open
		default:
			phases[at] = closing
		}
	}
	return phases, nil
}

// compareStates compares how far each connection is that began with a SYN.
func (f *fuzzer) compareStates(s *sequence) (found []difference, ends string) {
	f.Helper()
	var flows []int
	begun := map[int]bool{}
	for _, st := range s.Steps {
		fl := s.Flows[st.Flow]
		if st.Kind == "time" || fl.Proto != unix.IPPROTO_TCP || fl.Client == "host" || begun[st.Flow] {
			continue
		}
		if at := networkOf(fl.Client); at != "" && at == networkOf(backend(&fl)) {
			continue // the kernel's bridge translates some of their packets only
		}
		begun[st.Flow] = true
		if st.Kind == "forward" && st.Flags == syn {
			flows = append(flows, st.Flow)
		}
	}
	if len(flows) == 0 {
		return nil, ""
	}
	family := netlink.InetFamily(unix.AF_INET)
	if s.Flows[0].Dst.Is6() {
		family = unix.AF_INET6
	}
	theirs, err := f.kernel.kernelPhases(family)
	check(f.Lab, err)
	for _, k := range flows {
		at := s.Flows[k].place()
		ours, err := fairleadPhase(f.fairlead.tables[0], f.fairlead.tables[1], at)
		check(f.Lab, err)
		d := difference{seq: s, step: len(s.Steps) - 1, flowOf: k, fairlead: stateSeen(ours), kernel: stateSeen(theirs[at])}
		if d.fairlead.text == d.kernel.text || d.fairlead.text == string(unknown) || d.kernel.text == string(unknown) {
			continue // each forgets by its own rules
		}
		more, shown := f.compare(d, []*seen{d.fairlead}, []*seen{d.kernel})
		found = append(found, more...)
		if shown != "" {
			ends = shown
		}
	}
	return found, ends
}

func stateSeen(p phase) *seen {
	if p == "" {
		p = unknown
	}
	return &seen{node: "state", p: &packet{}, text: string(p), rest: string(p)}
}

// place is where the flow's first packet goes from its client.
func (f *flow) place() place {
	src := f.Src
	if f.Client == "host" {
		src = unspecified(f.Dst)
	} else if !src.IsValid() {
		src = nodeOf(f.Client).addr(familyOf(f.Dst))
	}
	return place{f.Proto, netip.AddrPortFrom(src, f.Sport), netip.AddrPortFrom(f.Dst, f.Dport)}
}

// name tells the flow from others: two of one client with the same addresses and ports are one.
func (f *flow) name() string {
	at := f.place()
	return fmt.Sprintf("%s %d %v to %v", f.Client, f.Proto, at.addr, at.peer)
}
