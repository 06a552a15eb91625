// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
)

const (
	stackLimit = 512 // MAX_BPF_STACK
	// Before 6.8 the verifier rounds each frame up to this many bytes, after that to 16 if
	// programs are compiled (kernel commit 6b4a64bafd10).
	frameUnit = 32
)

// No call chain exceeds the stack by the rule of the oldest kernel, which counts more than
// this machine's.
func TestStack(t *testing.T) {
	for _, o := range objects(t)[sameCode:] {
		for name, p := range o.spec.Programs {
			depth, chain := newFrames(p.Instructions).deepest(name)
			if depth > stackLimit {
				t.Errorf("%s needs %d bytes of stack on kernel 6.1, more than %d: %s", name, depth, stackLimit, strings.Join(chain, ", "))
			}
			t.Logf("%s: %d: %s", name, depth, strings.Join(chain, ", "))
		}
	}
}

// frames holds the functions of a program.
type frames struct {
	bytes map[string]int // of its frame
	calls map[string][]string
}

func newFrames(insns asm.Instructions) frames {
	f := frames{bytes: make(map[string]int), calls: make(map[string][]string)}
	var in string
	var copies [16]bool // registers that hold the frame pointer
	for _, ins := range insns {
		if s := ins.Symbol(); s != "" && !strings.HasPrefix(s, "LBB") {
			in = s
		}
		var offset int
		switch class := ins.OpCode.Class(); {
		case ins.IsFunctionCall() || ins.IsFunctionReference():
			f.calls[in] = append(f.calls[in], ins.Reference())
		case class.IsLoad() && ins.Src == asm.R10, class.IsStore() && ins.Dst == asm.R10:
			offset = -int(ins.Offset)
		case class.IsALU() && ins.OpCode.ALUOp() == asm.Add && ins.OpCode.Source() == asm.ImmSource && copies[ins.Dst]:
			offset = -int(ins.Constant)
		}
		if class := ins.OpCode.Class(); class.IsALU() || class.IsLoad() {
			copies[ins.Dst] = class.IsALU() && ins.OpCode.ALUOp() == asm.Mov && ins.OpCode.Source() == asm.RegSource && ins.Src == asm.R10
		}
		f.bytes[in] = max(f.bytes[in], offset)
	}
	return f
}

// deepest returns the call chain from a function that uses the most stack, and how much.
func (f frames) deepest(name string) (depth int, chain []string) {
	for _, c := range f.calls[name] {
		if d, ch := f.deepest(c); d > depth {
			depth, chain = d, ch
		}
	}
	own := max(frameUnit, (f.bytes[name]+frameUnit-1)/frameUnit*frameUnit)
	return depth + own, slices.Concat([]string{fmt.Sprintf("%s %d", name, f.bytes[name])}, chain)
}
