// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"fmt"
	"reflect"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/fairlead-net/fairlead/bpf"
)

// Layout describes how to convert values of one layout to another: field by field, by name. It
// works between any two versions in either direction, as long as a field keeps its name and its
// meaning. The zero Layout copies values as they are, and knows of no flows ([SameLayout] does).
type Layout struct {
	size  uint32 // of a converted value; 0: values are copied as they are
	moves []move
	state uint32 // offset of a flow's state in a converted value, which is never its first field; 0: no flows
}

// move copies n bytes of a value; the rest of the target's field is zero.
type move struct{ from, to, n uint32 }

// LayoutOf compares the values of a map in the kernel with those of a definition. It fails when
// the map has no description of its layout, or when a field exists in both with different kinds.
func LayoutOf(want *ebpf.MapSpec, have *ebpf.Map) (Layout, error) {
	to, ok := btf.UnderlyingType(want.Value).(*btf.Struct)
	if !ok {
		return Layout{}, fmt.Errorf("values of %s are not structs", want.Name)
	}
	h, err := have.Handle()
	if err != nil {
		return Layout{}, fmt.Errorf("read the layout of %s: %w", have, err)
	}
	defer h.Close()
	types, err := h.Spec(nil)
	if err != nil {
		return Layout{}, fmt.Errorf("read the layout of %s: %w", have, err)
	}
	var from *btf.Struct
	if err := types.TypeByName(to.Name, &from); err != nil {
		return Layout{}, fmt.Errorf("read the layout of %s: %w", have, err)
	}
	if from.Size != have.ValueSize() {
		return Layout{}, fmt.Errorf("values of %s are no struct %s", have, to.Name)
	}
	return newLayout(from, to)
}

// The state of a flow, which fits one byte.
const flowStruct, flowState = "ct_entry", "state"

// ended reports whether a TCP connection that one converted value has as established has ended
// according to the other.
func (l Layout) ended(established, other []byte) bool {
	if l.state == 0 {
		return false
	}
	before, after := bpf.TCCtState(established[l.state]), bpf.TCCtState(other[l.state])
	return before == bpf.TCCtStateCT_ESTABLISHED && after > before && after <= bpf.TCCtStateCT_CLOSE
}

// SameLayout returns the Layout that copies values of a map's definition as they are.
func SameLayout(spec *ebpf.MapSpec) Layout {
	value, ok := btf.UnderlyingType(spec.Value).(*btf.Struct)
	if !ok {
		return Layout{}
	}
	return Layout{state: stateOf(value)}
}

// stateOf returns the offset of the state if values are flows, or 0.
func stateOf(value *btf.Struct) uint32 {
	if value.Name != flowStruct {
		return 0
	}
	for _, m := range value.Members {
		if m.Name == flowState {
			return m.Offset.Bytes()
		}
	}
	return 0
}

func newLayout(from, to *btf.Struct) (Layout, error) {
	l := Layout{size: to.Size, state: stateOf(to)}
	old := make(map[string]btf.Member)
	for _, m := range from.Members {
		old[m.Name] = m
	}
	for _, m := range to.Members {
		o, ok := old[m.Name]
		if !ok {
			continue
		}
		n, err := common(o.Type, m.Type)
		if err != nil {
			return Layout{}, fmt.Errorf("convert field %s of struct %s: %w", m.Name, to.Name, err)
		}
		l.moves = append(l.moves, move{o.Offset.Bytes(), m.Offset.Bytes(), n})
	}
	return l, nil
}

// common returns how many bytes two fields of one name share. Integers, which are little-endian,
// may differ in width; anything else must have the same size.
func common(from, to btf.Type) (uint32, error) {
	a, err := btf.Sizeof(from)
	if err != nil {
		return 0, err
	}
	b, err := btf.Sizeof(to)
	if err != nil {
		return 0, err
	}
	_, fromInt := btf.UnderlyingType(from).(*btf.Int)
	_, toInt := btf.UnderlyingType(to).(*btf.Int)
	if a != b && !(fromInt && toInt) {
		return 0, fmt.Errorf("%d bytes became %d", a, b)
	}
	return uint32(min(a, b)), nil
}

// values converts a slice of byte arrays from readRaw into another one.
func (l Layout) values(vs reflect.Value) reflect.Value {
	if l.size == 0 {
		return vs
	}
	out := reflect.MakeSlice(bytesOf(l.size), vs.Len(), vs.Len())
	for i := range vs.Len() {
		src, dst := vs.Index(i).Bytes(), out.Index(i).Bytes()
		for _, m := range l.moves {
			copy(dst[m.to:m.to+m.n], src[m.from:m.from+m.n])
		}
	}
	return out
}
