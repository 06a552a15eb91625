// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
)

// The oldest kernel accepts a loop only if a jump goes back to its head ("back-edge from
// insn"). clang may lay one out so that a call, or another instruction that is not a jump,
// falls through into the head.
func TestBackEdges(t *testing.T) {
	for _, o := range objects(t)[sameCode:] {
		for name, p := range o.spec.Programs {
			g := newGraph(p.Instructions)
			for at := range g.begins {
				g.visit(at)
			}
			for _, at := range g.fallsBack {
				t.Errorf("%s: instruction %d of %s falls back into a loop, which kernel 6.1 refuses", name, at, g.function(at))
			}
		}
	}
}

// node is an instruction as check_cfg() of kernel 6.1 visits it.
type node struct {
	next   []int // offsets, in the order of visits
	jumps  bool  // and may be the head of a loop
	active bool  // its successors are being visited
	done   bool
}

type graph struct {
	nodes     map[int]*node
	begins    map[int]string // functions
	fallsBack []int
}

func newGraph(insns asm.Instructions) graph {
	g := graph{nodes: map[int]*node{}, begins: map[int]string{}}
	labels := map[string]int{}
	for it := insns.Iterate(); it.Next(); {
		if s := it.Ins.Symbol(); s != "" {
			labels[s] = int(it.Offset)
			if !strings.HasPrefix(s, "LBB") {
				g.begins[int(it.Offset)] = s
			}
		}
	}
	for it := insns.Iterate(); it.Next(); {
		g.nodes[int(it.Offset)] = newNode(it.Ins, int(it.Offset), labels)
	}
	return g
}

func newNode(ins *asm.Instruction, at int, labels map[string]int) *node {
	after := at + int(ins.Width())
	op := ins.OpCode.JumpOp()
	if !ins.OpCode.Class().IsJump() || op == asm.Call {
		return &node{next: []int{after}}
	}
	target, labelled := labels[ins.Reference()]
	if !labelled {
		target = after + int(ins.Offset)
	}
	switch op {
	case asm.Exit:
		return &node{}
	case asm.Ja:
		return &node{next: []int{target}, jumps: true}
	}
	return &node{next: []int{after, target}, jumps: true}
}

func (g *graph) visit(at int) {
	n := g.nodes[at]
	if n.active || n.done {
		return
	}
	n.active = true
	for _, to := range n.next {
		if g.nodes[to].active && !n.jumps {
			g.fallsBack = append(g.fallsBack, at)
		}
		g.visit(to)
	}
	n.active, n.done = false, true
}

// function returns the name of the function that an instruction is in.
func (g *graph) function(at int) string {
	for ; at > 0 && g.begins[at] == ""; at-- {
	}
	return g.begins[at]
}
