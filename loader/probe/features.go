// SPDX-License-Identifier: Apache-2.0

// Package probe finds out what the kernel offers to the datapath, and where its cgroup is.
package probe

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/loader/bpffs"
)

// Feature is something that the datapath requires or benefits from.
type Feature struct {
	Name        string
	OK          bool
	Required    bool   // the datapath does not work without it
	Why         string // the evidence
	Consequence string // what follows from its absence; empty if OK
}

// Features describes what the kernel and this process can do.
type Features struct {
	Release string // of the kernel, as uname -r
	List    []Feature
}

// OK reports whether all required features are present.
func (f Features) OK() bool {
	for _, x := range f.List {
		if x.Required && !x.OK {
			return false
		}
	}
	return true
}

// All finds out what the kernel and this process can do, by trying where that is
// possible. It does not change anything.
func All(ctx context.Context) Features {
	f := Features{Release: kernelRelease()}
	for _, p := range probes() {
		if ctx.Err() != nil {
			break
		}
		ok, why := p.find()
		x := Feature{Name: p.name, Required: p.required, OK: ok, Why: why}
		if !ok {
			x.Consequence = p.without
		}
		f.List = append(f.List, x)
	}
	return f
}

// probe checks for one feature.
type probe struct {
	name     string
	required bool
	find     func() (ok bool, why string)
	without  string
}

// tried returns a check that tries the feature.
func tried(try func() error, since version) func() (bool, string) {
	return func() (bool, string) { return judge(try(), kernelVersion(), since) }
}

func helper(t ebpf.ProgramType, fn asm.BuiltinFunc) func() error {
	return func() error { return features.HaveProgramHelper(t, fn) }
}

func probes() []probe {
	return []probe{
		{"kernel", true, findKernel, "Fairlead is made for Linux 6.1 and later."},
		{"capabilities", true, findCaps, "Programs cannot be loaded or attached. Run the daemon as root."},
		{"bpffs", true, findBPFFS, "Nothing can stay in the kernel while the daemon restarts. Build the kernel with CONFIG_BPF_SYSCALL."},
		{"redirect_peer", true, tried(helper(ebpf.SchedCLS, asm.FnRedirectPeer), version{5, 10}),
			"Packets cannot be delivered to sandboxes."},
		{"redirect_neigh", true, tried(helper(ebpf.SchedCLS, asm.FnRedirectNeigh), version{5, 10}),
			"Packets cannot be sent to uplinks."},
		{"syscall programs", true, tried(func() error { return features.HaveProgramType(ebpf.Syscall) }, version{5, 14}),
			"Expired flows cannot be removed."},
		{"batch operations", false, tried(tryBatch, version{5, 6}),
			"Large tables are read entry by entry, which takes longer."},
		{"tcx", false, tried(TCX, version{6, 6}),
			"Programs are attached by clsact filters instead; other users of tc on the same devices can remove them."},
		{"netkit", false, tried(probeNetkit, version{6, 7}),
			"Sandboxes are connected by veth pairs, which is the default anyway."},
		{"fib_src", false, tried(probeFIBSrc, version{6, 7}),
			"Masqueraded packets get the uplink's first address, even if the route prefers another (src)."},
		{"decap", false, tried(probeDecapL3, version{6, 3}),
			"In overlays with tunnels over IPv6, ARP requests of kernel VXLAN devices on other hosts are lost; other nodes of Fairlead send none."},
		{"conntrack", false, findConntrack,
			"Sandboxes cannot reach ports of the host that netfilter redirects (DNAT) to another machine. " +
				"If there are such rules: modprobe nf_conntrack, and restart the daemon."},
		{"socket programs", false, tried(helper(ebpf.CGroupSockAddr, asm.FnGetNetnsCookie), version{5, 7}),
			"Published ports are not reachable through 127.0.0.1 from the host itself."},
		{"cgroup2", false, findCgroupRoot,
			"Published ports are not reachable through 127.0.0.1 from the host itself. Mount it where the daemon runs, in the host's cgroup namespace: mount -t cgroup2 none /sys/fs/cgroup/unified"},
		{"btf", false, findBTF, "Tools such as bpftool show tables as plain bytes; Fairlead itself does not need it."},
		{"jit", false, findJIT, "Programs are interpreted, which is several times slower. Set sysctl net.core.bpf_jit_enable=1"},
		{"memory lock", false, findMemlock, "Before Linux 5.11, loading may fail because too little memory can be locked."},
	}
}

func findKernel() (bool, string) {
	v := kernelVersion()
	return v.atLeast(version{6, 1}), "Linux " + kernelRelease()
}

func findCaps() (bool, string) {
	set, err := effectiveCaps()
	if err != nil {
		return false, err.Error()
	}
	var missing []string
	for _, c := range []struct {
		bit  int
		name string
	}{
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"},
		{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, // mounts, and entering network namespaces
		{unix.CAP_PERFMON, "CAP_PERFMON"},
		{unix.CAP_BPF, "CAP_BPF"},
	} {
		if set>>c.bit&1 == 0 {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		return false, "this process lacks " + strings.Join(missing, ", ")
	}
	return true, "this process has CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN"
}

func effectiveCaps() (uint64, error) {
	b, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(v), 16, 64)
		}
	}
	return 0, fmt.Errorf("read capabilities: /proc/thread-self/status has none")
}

func findBPFFS() (bool, string) {
	on, err := bpffs.Mounted()
	if err == nil && on {
		return true, "mounted at " + bpffs.Root
	}
	b, err := os.ReadFile("/proc/filesystems")
	if err == nil && strings.Contains(string(b), "\tbpf\n") {
		return true, "the kernel has it; the daemon mounts it at " + bpffs.Root
	}
	return false, "the kernel has no file system \"bpf\""
}

func tryBatch() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "fl_probe", Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 4})
	if err != nil {
		return fmt.Errorf("make a map: %w", err)
	}
	defer m.Close()
	_, err = m.BatchUpdate([]uint32{1, 2}, []uint32{1, 2}, nil)
	return err
}

func findBTF() (bool, string) {
	const path = "/sys/kernel/btf/vmlinux"
	if _, err := os.Stat(path); err != nil {
		return false, "there is no " + path
	}
	return true, path
}

func findJIT() (bool, string) {
	const path = "/proc/sys/net/core/bpf_jit_enable"
	b, err := os.ReadFile(path)
	if err != nil {
		// Kernels that always compile may lack this sysctl, and it is visible only in
		// the initial network namespace.
		return true, "not known: " + err.Error()
	}
	v := strings.TrimSpace(string(b))
	return v != "0", "net.core.bpf_jit_enable is " + v
}

func findMemlock() (bool, string) {
	if v := kernelVersion(); v.atLeast(version{5, 11}) {
		return true, fmt.Sprintf("Linux %s accounts memory to the cgroup; the limit on locked memory does not matter", v)
	}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return false, "read the limit on locked memory: " + err.Error()
	}
	if l.Cur == unix.RLIM_INFINITY {
		return true, "no limit on locked memory"
	}
	return false, fmt.Sprintf("the limit on locked memory is %d bytes", l.Cur)
}
