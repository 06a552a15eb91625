// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	stdmaps "maps"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/loader/probe"
	"github.com/fairlead-net/fairlead/loader/tables"
	"github.com/fairlead-net/fairlead/maps"
)

// objects are the three configured BPF objects of the datapath, before loading.
type objects struct {
	tc, sock, gc *ebpf.CollectionSpec
}

func (o objects) all() []*ebpf.CollectionSpec {
	return []*ebpf.CollectionSpec{o.tc, o.sock, o.gc}
}

// readObjects reads the embedded objects.
func readObjects() (objects, error) {
	var o objects
	for _, l := range []struct {
		load func() (*ebpf.CollectionSpec, error)
		spec **ebpf.CollectionSpec
	}{{bpf.LoadTC, &o.tc}, {bpf.LoadSock, &o.sock}, {bpf.LoadGC, &o.gc}} {
		spec, err := l.load()
		if err != nil {
			return objects{}, fmt.Errorf("read embedded object: %w", err)
		}
		*l.spec = spec
	}
	return o, nil
}

// configure writes the configuration into the objects' read-only data and map sizes.
func (o objects) configure(cfg Config, have probe.Flags) error {
	for _, spec := range o.all() {
		if err := configure(spec, cfg, have); err != nil {
			return err
		}
	}
	return nil
}

// configure writes the configuration into one object. An object lacks the variables
// that it does not use.
func configure(spec *ebpf.CollectionSpec, cfg Config, have probe.Flags) error {
	values := map[string]any{
		bpf.TCVarCfgNetnsCookie: cfg.NetnsCookie,
		bpf.TCVarCfgFibSrc:      flag(have.FIBSrc),
		bpf.TCVarCfgConntrack:   flag(have.Conntrack),
		bpf.TCVarCfgVxlanPort:   cfg.VXLANPort,
		bpf.TCVarCfgDecapL3:     flag(have.DecapL3),
		bpf.TCVarCfgKernCtx:     flag(have.KernCtx),
	}
	if !have.Conntrack {
		removeKfuncs(spec, "bpf_skb_ct_lookup", "bpf_ct_release")
	}
	if !have.KernCtx {
		removeKfuncs(spec, "bpf_cast_to_kern_ctx")
	}
	if cfg.SNATPorts != (PortRange{}) {
		values[bpf.TCVarCfgSnatMin], values[bpf.TCVarCfgSnatMax] = cfg.SNATPorts.min, cfg.SNATPorts.max
	}
	if cfg.CacheAfter != 0 {
		values[bpf.TCVarCfgCache] = uint8(max(0, cfg.CacheAfter))
	}
	if cfg.CTMax != 0 {
		values[bpf.TCVarCfgCtMax] = cfg.CTMax
	}
	if v := spec.Variables[bpf.TCVarCfgTimeout]; v != nil {
		seconds := make([]uint32, bpf.TCCtStateCT_STATE_MAX)
		if err := v.Get(seconds); err != nil {
			return fmt.Errorf("read default timeouts: %w", err)
		}
		for state, d := range cfg.Timeouts.byState() {
			if d != 0 {
				seconds[state] = uint32(d / time.Second)
			}
		}
		values[bpf.TCVarCfgTimeout] = seconds
	}
	for name, value := range values {
		if v := spec.Variables[name]; v != nil {
			if err := v.Set(value); err != nil {
				return fmt.Errorf("set %s: %w", name, err)
			}
		}
	}
	sizes := map[string]uint32{
		bpf.TCMapFlCt:         cfg.CTMax,
		bpf.TCMapFlCtNew:      cfg.CTMax / 4,
		bpf.TCMapFlEndpoint:   cfg.MaxEndpoints,
		bpf.TCMapFlFdb:        cfg.MaxEndpoints,
		bpf.SockMapFlResolver: cfg.MaxEndpoints,
		bpf.TCMapFlNeigh:      3 * cfg.MaxEndpoints, // IPv4, IPv6, link-local
		bpf.TCMapFlService:    cfg.MaxPublishes,
		bpf.TCMapFlBackend:    cfg.MaxPublishes,
		bpf.TCMapFlPeerFdb:    cfg.MaxPeers,
		bpf.TCMapFlPeerNeigh:  3 * cfg.MaxPeers,
		bpf.TCMapFlTunnelNode: cfg.MaxPeers,
	}
	if cfg.VXLANPort == 0 {
		for _, name := range overlayMaps {
			sizes[name] = 1
		}
	}
	for name, size := range sizes {
		if m := spec.Maps[name]; m != nil && size != 0 {
			m.MaxEntries = size
		}
	}
	return nil
}

// overlayMaps lists the tables that stay empty without an overlay. The buckets of empty ones of the
// default sizes would occupy 14 MB.
var overlayMaps = []string{
	bpf.TCMapFlVni, bpf.TCMapFlTunnel, bpf.TCMapFlTunnelNode, bpf.TCMapFlNode, bpf.TCMapFlNodeAddr,
	bpf.TCMapFlPeerFdb, bpf.TCMapFlPeerNeigh, bpf.TCMapFlGroup,
}

// removeKfuncs replaces unreachable kfunc calls with no-ops. The verifier resolves kfuncs (and
// requires a JIT) before it eliminates dead code.
func removeKfuncs(spec *ebpf.CollectionSpec, names ...string) {
	for _, p := range spec.Programs {
		for i, ins := range p.Instructions {
			if ins.IsKfuncCall() && slices.Contains(names, ins.Reference()) {
				p.Instructions[i] = asm.Mov.Imm(asm.R0, 0)
			}
		}
	}
}

func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// shared returns the definitions of the maps that outlive programs. Scratch maps are
// private to each object: a packet can interrupt gc_flows, which must not share them
// with that packet's program.
func (o objects) shared() (map[string]*ebpf.MapSpec, error) {
	all, names := make(map[string]*ebpf.MapSpec), maps.Names()
	for _, spec := range o.all() {
		for name, m := range spec.Maps {
			if !slices.Contains(names, name) {
				continue
			}
			if have := all[name]; have != nil && have.String() != m.String() {
				return nil, fmt.Errorf("map %s has two definitions: %s and %s", name, have, m)
			}
			all[name] = cmp.Or(all[name], m)
		}
	}
	return all, nil
}

// programs lists the programs of all objects.
func (o objects) programs() map[string]*ebpf.ProgramSpec {
	all := make(map[string]*ebpf.ProgramSpec)
	for _, spec := range o.all() {
		stdmaps.Copy(all, spec.Programs)
	}
	return all
}

// load verifies and loads all programs with the given maps.
func (o objects) load(shared map[string]*ebpf.Map) (_ map[string]*ebpf.Program, retErr error) {
	progs := make(map[string]*ebpf.Program)
	defer func() {
		if retErr != nil {
			closeAll(progs)
		}
	}()
	for _, spec := range o.all() {
		replace := make(map[string]*ebpf.Map)
		for name := range spec.Maps {
			if m := shared[name]; m != nil {
				replace[name] = m
			}
		}
		coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
		if err != nil {
			return nil, fmt.Errorf("load programs: %w", err)
		}
		for name := range spec.Programs {
			progs[name] = coll.DetachProgram(name)
		}
		coll.Close()
	}
	return progs, nil
}

// hash identifies the objects, their configuration and the maps they use. If the hash is
// equal, loading again would not change anything.
func (o objects) hash(shared map[string]*ebpf.Map) (string, error) {
	h := sha256.New()
	for _, spec := range o.all() {
		hashSpec(h, spec)
	}
	for _, name := range slices.Sorted(stdmaps.Keys(shared)) {
		id, err := tables.MapID(shared[name])
		if err != nil {
			return "", fmt.Errorf("identify map %s: %w", name, err)
		}
		fmt.Fprintf(h, "map %s id %d\n", name, id)
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// hashSpec writes everything of an object that reaches the kernel, except debug information.
func hashSpec(h hash.Hash, spec *ebpf.CollectionSpec) {
	var buf []byte
	for _, name := range slices.Sorted(stdmaps.Keys(spec.Programs)) {
		p := spec.Programs[name]
		fmt.Fprintf(h, "program %s %s %s %d %s\n", name, p.Type, p.AttachType, p.Flags, p.License)
		for _, ins := range p.Instructions {
			buf = appendInstruction(buf[:0], ins)
			h.Write(buf)
		}
	}
	for _, name := range slices.Sorted(stdmaps.Keys(spec.Maps)) {
		fmt.Fprintf(h, "map %s %s\n", name, spec.Maps[name])
	}
	for _, name := range slices.Sorted(stdmaps.Keys(spec.Variables)) {
		v := spec.Variables[name]
		fmt.Fprintf(h, "variable %s %s %d %x\n", name, v.SectionName, v.Offset, v.Value)
	}
	// Anonymous data such as string constants, which has no variable.
	for _, name := range slices.Sorted(stdmaps.Keys(spec.Maps)) {
		if strings.HasPrefix(name, ".") {
			for _, kv := range spec.Maps[name].Contents {
				fmt.Fprintf(h, "data %s %x\n", name, kv.Value)
			}
		}
	}
}

// appendInstruction appends what hashSpec writes of an instruction. There are tens of thousands of them, and to
// format each as text would take a tenth of the time in which a daemon starts.
func appendInstruction(buf []byte, ins asm.Instruction) []byte {
	buf = binary.LittleEndian.AppendUint32(buf, uint32(ins.OpCode))
	buf = append(buf, byte(ins.Dst), byte(ins.Src))
	buf = binary.LittleEndian.AppendUint16(buf, uint16(ins.Offset))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(ins.Constant))
	for _, name := range []string{ins.Symbol(), ins.Reference()} {
		buf = append(binary.LittleEndian.AppendUint16(buf, uint16(len(name))), name...)
	}
	return buf
}

func closeAll(progs map[string]*ebpf.Program) {
	for _, p := range progs {
		p.Close()
	}
}
