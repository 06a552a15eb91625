// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bpf"
)

// Flags are the kernel features that the programs depend on.
type Flags struct {
	FIBSrc    bool // BPF_FIB_LOOKUP_SRC
	Conntrack bool // bpf_skb_ct_lookup
	DecapL3   bool // BPF_F_ADJ_ROOM_DECAP_L3_IPV4 and _IPV6
	KernCtx   bool // bpf_cast_to_kern_ctx
}

// TryFlags probes for them. tc is the object of the tc programs, whose calls of kfuncs are tried.
func TryFlags(tc *ebpf.CollectionSpec) Flags {
	v := kernelVersion()
	fib, _ := judge(probeFIBSrc(), v, version{6, 7})
	decap, _ := judge(probeDecapL3(), v, version{6, 3})
	return Flags{FIBSrc: fib, Conntrack: probeConntrack(tc) == nil, DecapL3: decap, KernCtx: probeKernCtx(tc) == nil}
}

// Values of enums in linux/bpf.h.
const (
	fibLookupSrc = 1 << 4 // BPF_FIB_LOOKUP_SRC
	decapL3IPv4  = 1 << 7 // BPF_F_ADJ_ROOM_DECAP_L3_IPV4
	adjRoomMAC   = 1      // BPF_ADJ_ROOM_MAC
	loopback     = 1      // ifindex of lo in every network namespace
)

// probeFIBSrc looks up a route with address family 0: the helper rejects an unknown
// flag before it checks the family.
func probeFIBSrc() error {
	const size = 64 // struct bpf_fib_lookup
	insns := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1), asm.Mov.Imm(asm.R0, 0)}
	for off := int16(-size); off < 0; off += 8 {
		insns = append(insns, asm.StoreMem(asm.RFP, off, asm.R0, asm.DWord))
	}
	insns = append(insns,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -size),
		asm.Mov.Imm(asm.R3, size),
		asm.Mov.Imm(asm.R4, fibLookupSrc),
		asm.FnFibLookup.Call(),
		asm.Return(),
	)
	return tryHelper(insns, unix.EAFNOSUPPORT)
}

// probeDecapL3 shrinks a packet by more than any packet may: the helper rejects an unknown flag
// before it checks the length.
func probeDecapL3() error {
	insns := asm.Instructions{
		asm.Mov.Imm(asm.R2, -0x1000),
		asm.Mov.Imm(asm.R3, adjRoomMAC),
		asm.Mov.Imm(asm.R4, decapL3IPv4),
		asm.FnSkbAdjustRoom.Call(),
		asm.Return(),
	}
	return tryHelper(insns, unix.EFAULT)
}

// kfuncCalls returns the call instructions of a program of the datapath, which carry the names of the
// kfuncs, by name.
func kfuncCalls(program *ebpf.ProgramSpec) map[string]asm.Instruction {
	calls := make(map[string]asm.Instruction)
	for _, ins := range program.Instructions {
		if ins.IsKfuncCall() {
			calls[ins.Reference()] = ins.WithSource(nil) // all instructions have one, or none
		}
	}
	return calls
}

// probeKernCtx loads a program that reads the kernel's struct sk_buff.
func probeKernCtx(tc *ebpf.CollectionSpec) error {
	calls := kfuncCalls(tc.Programs[bpf.TCProgFromEndpoint])
	return tryLoad(asm.Instructions{calls["bpf_cast_to_kern_ctx"], asm.Mov.Imm(asm.R0, 0), asm.Return()})
}

// tryLoad loads a program that calls kfuncs.
func tryLoad(insns asm.Instructions) error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "fl_probe", Type: ebpf.SchedCLS, Instructions: insns, License: "GPL",
	})
	if err != nil {
		return fmt.Errorf("load a probe: %w", err)
	}
	return p.Close()
}

// probeConntrack loads a program that queries nf_conntrack.
func probeConntrack(tc *ebpf.CollectionSpec) error {
	calls := kfuncCalls(tc.Programs[bpf.TCProgToUplink])
	const tuple, opts = 12, 12 // bytes of an IPv4 tuple, and of struct nf_opts
	insns := asm.Instructions{asm.Mov.Imm(asm.R0, 0)}
	for off := int16(-32); off < 0; off += 8 {
		insns = append(insns, asm.StoreMem(asm.RFP, off, asm.R0, asm.DWord))
	}
	insns = append(insns,
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -32),
		asm.Mov.Imm(asm.R3, tuple),
		asm.Mov.Reg(asm.R4, asm.RFP),
		asm.Add.Imm(asm.R4, -16),
		asm.Mov.Imm(asm.R5, opts),
		calls["bpf_skb_ct_lookup"],
		asm.JEq.Imm(asm.R0, 0, "none"),
		asm.Mov.Reg(asm.R1, asm.R0),
		calls["bpf_ct_release"],
		asm.Mov.Imm(asm.R0, 0).WithSymbol("none"),
		asm.Return(),
	)
	return tryLoad(insns)
}

// findConntrack omits the verifier log of a failed probe: it is too long for the doctor, and
// describes the probe only.
func findConntrack() (bool, string) {
	tc, err := bpf.LoadTC()
	if err != nil {
		return false, fmt.Sprintf("could not be tried: read embedded object: %v", err)
	}
	if err := probeConntrack(tc); err != nil {
		return false, "tried, and not available: nf_conntrack is not loaded, its BTF is missing, or the JIT is disabled"
	}
	return true, "tried, and available"
}

// tryHelper runs a program that returns a helper's verdict on a flag: EINVAL
// if the flag is unknown, known if it is not.
func tryHelper(insns asm.Instructions, known unix.Errno) error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "fl_probe", Type: ebpf.SchedCLS, Instructions: insns, License: "GPL",
	})
	if err != nil {
		return fmt.Errorf("load a probe: %w", err)
	}
	defer p.Close()
	ret, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	if err != nil {
		return fmt.Errorf("run a probe: %w", err)
	}
	switch got := unix.Errno(-int32(ret)); got {
	case known:
		return nil
	case unix.EINVAL:
		return ebpf.ErrNotSupported
	default:
		return fmt.Errorf("a probe returned %d, which is inconclusive", int32(ret))
	}
}

// TCX queries the tcx programs of the loopback device. Kernels before 6.6 do not
// support that query.
func TCX() error {
	_, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		return nil
	}
	ok, _ := judge(unknownIfInvalid(err), kernelVersion(), version{6, 6})
	if ok {
		return nil
	}
	return ebpf.ErrNotSupported
}

// probeNetkit queries the netkit programs of the loopback device. A kernel that has
// netkit reports that lo is not a netkit device.
func probeNetkit() error {
	_, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: ebpf.AttachNetkitPrimary})
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	return unknownIfInvalid(err)
}

func unknownIfInvalid(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return ebpf.ErrNotSupported
	}
	return err
}

// judge decides from a probe's result whether the kernel has a feature, and says why.
// If the probe could not be made, the kernel's version decides.
func judge(err error, have, since version) (ok bool, why string) {
	switch {
	case err == nil:
		return true, "tried, and it works"
	case errors.Is(err, ebpf.ErrNotSupported) && have.atLeast(since):
		return false, "tried, and this kernel was built without it"
	case errors.Is(err, ebpf.ErrNotSupported):
		return false, fmt.Sprintf("tried, and this kernel does not have it (new in Linux %s)", since)
	case have.atLeast(since):
		return true, fmt.Sprintf("could not be tried (%v), but Linux %s is at least %s", err, have, since)
	default:
		return false, fmt.Sprintf("could not be tried (%v), and Linux %s is older than %s", err, have, since)
	}
}

// version holds the major and minor numbers of a kernel release.
type version struct{ major, minor int }

func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

func (v version) atLeast(o version) bool {
	return v.major > o.major || v.major == o.major && v.minor >= o.minor
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

func kernelVersion() version { return parseVersion(kernelRelease()) }

// parseVersion parses the beginning of a release such as 6.1.0-18-cloud-amd64.
// Numbers that cannot be parsed are 0.
func parseVersion(release string) version {
	major, rest, _ := strings.Cut(release, ".")
	digits := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if digits >= 0 {
		rest = rest[:digits]
	}
	var v version
	v.major, _ = strconv.Atoi(major)
	v.minor, _ = strconv.Atoi(rest)
	return v
}
