// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// floodMark is FLOOD_MARK.
const floodMark = 0xf1a20000

// A broadcast to more members than one run can copy to is received again on its own device
// until each member has its copy, and counts once.
func TestFloodSlices(t *testing.T) {
	for slice := 1; slice <= 4; slice++ {
		runOnce(t, config{vars: map[string]any{"cfg_flood_slice": uint16(slice)}, noteRedirects: true}, []testCase{
			{name: fmt.Sprint("udp-broadcast_by_", slice, "-flood"), run: func(s *scenario, f family) {
				for from, others := range map[string][]string{"a": {"gw1", "b", "c"}, "gw1": {"a", "b", "c"}} {
					s.floodInSlices(f, from, others, slice)
				}
			}},
		})
	}
}

// A broadcast that is not received again on its own device is counted as incomplete: it was
// forwarded, and does not also count as dropped.
func TestFloodCut(t *testing.T) {
	w := newWorld(t, config{vars: map[string]any{"cfg_flood_slice": uint16(1)}})
	runIn(t, w, []testCase{{name: "udp-broadcast_of_device_down-cut", run: func(s *scenario, f family) {
		dev := s.names[s.members["a"].IfIndex]
		s.ns.ip(s.TB, "link set "+dev+" down") // it does not receive what it sends to itself
		defer s.ns.ip(s.TB, "link set "+dev+" up")
		for _, mark := range []uint32{0, floodMark | 1} {
			sending := s.from("a", s.between(f, "a", "b").with(func(p *packet) { p.proto, p.dmac = udp, broadcast() }))
			sending.skb.Mark = mark
			counted := events([]string{"flood_cut"})
			if mark == 0 {
				for _, name := range []string{"path flood", fmt.Sprint("from ", sending.member.Net), fmt.Sprint("to ", sending.member.Net)} {
					counted.add(name, len(sending.in))
				}
			}
			r := sending.do()
			if diff := cmp.Diff(counted, r.counts); diff != "" || r.verdict != shot {
				s.Errorf("mark %#x: verdict %s, counters that moved (-want +got):\n%s", mark, r.verdict, diff)
			}
		}
	}}})
}

func (s *scenario) floodInSlices(f family, from string, others []string, slice int) {
	s.Helper()
	p := s.between(f, from, "b").with(func(p *packet) { p.proto, p.dmac = udp, broadcast() })
	again := "clone " + s.names[s.members[from].IfIndex] + " flags 0x1" // BPF_F_INGRESS
	var heard, want []string
	for _, name := range others {
		want = append(want, "clone "+s.names[s.members[name].IfIndex])
	}
	for done := 0; done < len(others); done += slice {
		sending := s.from(from, p)
		counted := make(counts)
		if done > 0 {
			sending.skb.Mark = floodMark | uint32(done)
		} else {
			counted.add("path flood", len(sending.in))
			counted.add(fmt.Sprint("from ", sending.member.Net), len(sending.in))
			counted.add(fmt.Sprint("to ", sending.member.Net), len(sending.in))
		}
		r := sending.do()
		if diff := cmp.Diff(counted, r.counts); diff != "" || r.verdict != shot {
			s.Errorf("after %d copies: verdict %s, counters that moved (-want +got):\n%s", done, r.verdict, diff)
		}
		copies := slices.DeleteFunc(slices.Clone(r.to), func(to string) bool { return to == again })
		if n := min(slice, len(others)-done); len(copies) != n {
			s.Errorf("after %d copies: %v, want %d more", done, r.to, n)
		}
		if more := done+slice < len(others); more != slices.Contains(r.to, again) {
			s.Errorf("after %d copies: %v; want it sent again: %t", done, r.to, more)
		}
		heard = append(heard, copies...)
	}
	slices.Sort(heard)
	slices.Sort(want)
	if diff := cmp.Diff(want, heard); diff != "" {
		s.Errorf("copies (-want +got):\n%s", diff)
	}
}
