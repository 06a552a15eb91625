// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// redirects records where the programs redirect to: a test run returns the verdict but not
// the device. Each call of a redirecting helper is replaced by a call of a function that
// records the arguments and then calls the helper; nothing else in the object changes.
type redirects struct {
	log *ebpf.Map
}

// redirect is one call of a redirecting helper.
type redirect struct {
	kind    string
	ifindex uint32
	flags   uint64
	nextHop netip.Addr // of neigh
}

const (
	redirectSlots = 16
	redirectSize  = 48
)

// redirector is a helper that redirects, and the registers of its arguments.
type redirector struct {
	kind           string
	helper         asm.BuiltinFunc
	args           int
	ifindex, flags asm.Register
}

func redirectors() []redirector {
	return []redirector{
		{"redirect", asm.FnRedirect, 2, asm.R1, asm.R2},
		{"peer", asm.FnRedirectPeer, 2, asm.R1, asm.R2},
		{"neigh", asm.FnRedirectNeigh, 4, asm.R1, asm.R4},
		{"clone", asm.FnCloneRedirect, 3, asm.R2, asm.R3},
	}
}

// noteRedirects changes the object's programs so that they record redirects.
func noteRedirects(tb testing.TB, spec *ebpf.CollectionSpec) *redirects {
	tb.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "redirects", Type: ebpf.Array, KeySize: 4, ValueSize: 8 + redirectSlots*redirectSize, MaxEntries: 1,
	})
	must(tb, err)
	tb.Cleanup(func() { m.Close() })
	for _, p := range spec.Programs {
		for kind, r := range redirectors() {
			name := "note_" + r.kind
			var line fmt.Stringer // the verifier requires one for each function
			calls := 0
			for i := range p.Instructions {
				ins := &p.Instructions[i]
				if s := ins.Source(); s != nil {
					line = s
				}
				if ins.IsBuiltinCall() && asm.BuiltinFunc(ins.Constant) == r.helper {
					ins.Src, ins.Constant = asm.PseudoCall, -1
					*ins = ins.WithReference(name)
					calls++
				}
			}
			if calls > 0 {
				note := r.note(m, kind, name)
				note[0] = note[0].WithSource(line)
				p.Instructions = append(p.Instructions, note...)
			}
		}
	}
	return &redirects{log: m}
}

// note returns the function that replaces the helper.
func (r redirector) note(log *ebpf.Map, kind int, name string) asm.Instructions {
	u64 := &btf.Int{Name: "u64", Size: 8}
	proto := &btf.FuncProto{Return: u64}
	var insns asm.Instructions
	// The arguments are kept on the stack across calls.
	for i := range r.args {
		reg := asm.R1 + asm.Register(i)
		insns = append(insns, asm.StoreMem(asm.RFP, slot(reg), reg, asm.DWord))
		proto.Params = append(proto.Params, btf.FuncParam{Name: fmt.Sprint("arg", i), Type: u64})
	}
	insns[0] = btf.WithFuncMetadata(insns[0].WithSymbol(name), &btf.Func{Name: name, Type: proto})
	insns = append(insns,
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, log.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, name+"_call"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.R1),
		asm.Add.Imm(asm.R2, 1),
		asm.StoreMem(asm.R0, 0, asm.R2, asm.DWord),
		asm.And.Imm(asm.R1, redirectSlots-1),
		asm.Mul.Imm(asm.R1, redirectSize),
		asm.Add.Reg(asm.R0, asm.R1),
		asm.Mov.Imm(asm.R1, int32(kind)),
		asm.StoreMem(asm.R0, 8, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.RFP, slot(r.ifindex), asm.DWord),
		asm.StoreMem(asm.R0, 16, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.RFP, slot(r.flags), asm.DWord),
		asm.StoreMem(asm.R0, 24, asm.R1, asm.DWord),
	)
	if r.kind == "neigh" {
		// Without a next hop, the kernel looks it up.
		insns = append(insns, asm.LoadMem(asm.R2, asm.RFP, slot(asm.R2), asm.DWord),
			asm.StoreImm(asm.R0, 32, 0, asm.Word), asm.JEq.Imm(asm.R2, 0, name+"_call"))
		for i := range int16(5) { // struct bpf_redir_neigh
			insns = append(insns,
				asm.LoadMem(asm.R1, asm.R2, i*4, asm.Word), asm.StoreMem(asm.R0, 32+i*4, asm.R1, asm.Word))
		}
	}
	for i := range r.args {
		reg := asm.R1 + asm.Register(i)
		load := asm.LoadMem(reg, asm.RFP, slot(reg), asm.DWord)
		if i == 0 {
			load = load.WithSymbol(name + "_call")
		}
		insns = append(insns, load)
	}
	return append(insns, r.helper.Call(), asm.Return())
}

// slot returns the stack slot of an argument.
func slot(r asm.Register) int16 { return -8 - 8*int16(r) }

// take returns the calls since its last call.
func (r *redirects) take(tb testing.TB) []redirect {
	tb.Helper()
	var b []byte
	must(tb, r.log.Lookup(uint32(0), &b))
	must(tb, r.log.Put(uint32(0), make([]byte, len(b))))
	var calls []redirect
	for i := range min(binary.NativeEndian.Uint64(b), redirectSlots) {
		e := b[8+i*redirectSize:]
		c := redirect{
			kind:    redirectors()[binary.NativeEndian.Uint64(e)].kind,
			ifindex: binary.NativeEndian.Uint32(e[8:]),
			flags:   binary.NativeEndian.Uint64(e[16:]),
		}
		switch family := binary.NativeEndian.Uint32(e[24:]); {
		case c.kind != "neigh", family == 0:
		case family == 2:
			c.nextHop = netip.AddrFrom4([4]byte(e[28:]))
		default:
			c.nextHop = netip.AddrFrom16([16]byte(e[28:]))
		}
		calls = append(calls, c)
	}
	return calls
}

// show formats the call with the device's name: "neigh up0 via 192.0.2.1".
func (c redirect) show(names map[uint32]string) string {
	s := c.kind + " " + names[c.ifindex]
	if c.nextHop.IsValid() {
		s += " via " + c.nextHop.String()
	}
	if c.flags != 0 {
		s += fmt.Sprintf(" flags %#x", c.flags)
	}
	return s
}
