// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket/layers"
)

// bench is a path to measure.
type bench struct {
	name string
	// prepare makes the flow, if there is one, and the packet to send repeatedly.
	prepare func(*scenario, family) *sent
	// fresh, if set, makes each packet begin a flow. The source port counts up; fresh names
	// the field that holds the upper half of the counter.
	fresh string
}

// benches lists the paths; docs/datapath.md has their cost.
func benches() []bench {
	l := protocols()[0]
	return []bench{
		{name: "l2_peer", prepare: func(s *scenario, f family) *sent { return s.from("a", s.between(f, "a", "b")) }},
		{name: "neighbour_answer", prepare: func(s *scenario, f family) *sent {
			if f.is4() {
				return s.from("a", s.asks("a", s.members["b"].IPv4))
			}
			return s.from("a", s.solicits("a", s.members["b"].IPv6))
		}},
		{name: "masquerade_known", prepare: func(s *scenario, f family) *sent {
			p, _ := s.confirm(f, "a", l)
			return s.from("a", p)
		}},
		{name: "masquerade_reply", prepare: func(s *scenario, f family) *sent {
			_, left := s.confirm(f, "a", l)
			return s.arrive(s.outside(left.answer("A")))
		}},
		{name: "publish_known", prepare: func(s *scenario, f family) *sent { return s.arrive(s.confirmPublished(f)) }},
		{name: "publish_answer", prepare: func(s *scenario, f family) *sent {
			got := s.toBackend(f, "b", s.confirmPublished(f), published()[0].backend())
			return s.from("b", got.answer("A"))
		}},
		{name: "host_arrives", prepare: func(s *scenario, f family) *sent {
			return s.arrive(s.client(f, l, at(f.uplink, 22)).with(func(p *packet) { p.flags = "A" }))
		}},
		{name: "host_leaves", prepare: func(s *scenario, f family) *sent {
			return s.leave(s.outside(packet{src: at(f.uplink, 22), dst: at(f.remote, 5000), proto: tcp, flags: "A"}), 0)
		}},
		{name: "masquerade_new", fresh: "destination port", prepare: func(s *scenario, f family) *sent {
			return s.from("a", s.via(f, "a", l, at(f.remote, l.dport)))
		}},
		{name: "publish_new", fresh: "source address", prepare: func(s *scenario, f family) *sent {
			return s.arrive(s.client(f, published()[0], at(f.uplink, publishTCP)))
		}},
	}
}

// confirmPublished begins a flow from a client outside to a published port and has it
// answered.
func (s *scenario) confirmPublished(f family) packet {
	s.Helper()
	l := published()[0]
	p := s.client(f, l, at(f.uplink, l.dport))
	got := s.toBackend(f, "b", p, l.backend())
	s.arrive(p).peer("b", got, "ct_created")
	s.replies(f, "b", got, p, l.reply)
	p.flags, got.flags = "A", "A"
	s.arrive(p).peer("b", got, "ct_confirmed")
	return p
}

// BenchmarkPath measures the cost of a program per packet, without the device it is
// redirected to.
func BenchmarkPath(b *testing.B) {
	w := newWorld(b, config{vars: with(featureVars(), map[string]any{"cfg_conntrack": uint8(1)})})
	for _, c := range benches() {
		for _, f := range families() {
			b.Run(c.name+"/"+f.name, func(b *testing.B) {
				b.StopTimer()
				w.forget(b)
				s := &scenario{TB: b, world: w}
				sending := c.prepare(s, f)
				idle := w.sender(b, sending, c.fresh, nil)
				busy := w.sender(b, sending, c.fresh, w.programs[sending.program])
				base := idle(200_000)
				b.StartTimer()
				spent := busy(b.N)
				b.StopTimer()
				// The cost of making the packet does not belong to the path.
				b.ReportMetric(float64(spent-base*time.Duration(b.N)/200_000)/float64(b.N), "ns/packet")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// sender returns a function that runs a program n times on fresh copies of a packet: a helper
// program overwrites the remains of the previous run with the original packet, and then calls
// the program to measure (nil for none).
func (w *world) sender(b *testing.B, p *sent, fresh string, program *ebpf.Program) func(n int) time.Duration {
	b.Helper()
	template, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 256, MaxEntries: 1})
	must(b, err)
	must(b, template.Put(uint32(0), append(make([]byte, 8, 256), append(p.in, make([]byte, 248-len(p.in))...)...)))
	next, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	must(b, err)
	if program != nil {
		must(b, next.Put(uint32(0), program))
	}
	wrapper, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "again", Type: ebpf.SchedCLS, License: "GPL", Instructions: again(template, next, p.in, fresh),
	})
	must(b, err)
	b.Cleanup(func() { template.Close(); next.Close(); wrapper.Close() })
	return func(n int) time.Duration {
		skb := p.skb
		opts := ebpf.RunOptions{Data: p.in, Context: &skb, Repeat: uint32(n)}
		var err error
		var spent time.Duration
		w.ns.do(func() {
			begin := time.Now()
			_, err = wrapper.Run(&opts)
			spent = time.Since(begin)
		})
		must(b, err)
		return spent
	}
}

// again writes the packet and calls the program in next.
func again(template, next *ebpf.Map, frame []byte, fresh string) asm.Instructions {
	const mark = 8 // offset in struct __sk_buff
	const l3 = 8 + 14
	source, l4 := int16(l3+8+14), int16(l3+40)
	if binary.BigEndian.Uint16(frame[12:]) == uint16(layers.EthernetTypeIPv4) {
		source, l4 = l3+12+2, l3+20
	}
	upper := map[string]int16{"destination port": l4 + 2, "source address": source}
	insns := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, template.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Reg(asm.R7, asm.R0),
	}
	if fresh != "" {
		insns = append(insns,
			asm.LoadMem(asm.R1, asm.R7, 0, asm.Word), asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R7, 0, asm.R1, asm.Word),
			asm.StoreMem(asm.R7, l4, asm.R1, asm.Half),
			asm.RSh.Imm(asm.R1, 16), asm.StoreMem(asm.R7, upper[fresh], asm.R1, asm.Half))
	}
	return append(insns,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.R7),
		asm.Add.Imm(asm.R3, 8),
		asm.Mov.Imm(asm.R4, int32(len(frame))),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
		asm.StoreImm(asm.R6, mark, 0, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, next.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, -1).WithSymbol("out"),
		asm.Return(),
	)
}
