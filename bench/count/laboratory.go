// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/bench/vm"
	"github.com/fairlead-net/fairlead/bench/vm/guest"
)

// guestTime limits one guest, from power on to power off. It takes four minutes with a processor of its own; beside a
// fuzzer and two other guests on two processors, twelve were not enough.
const guestTime = 24 * time.Minute

// kernel is the kernel that guests run.
var kernel = vm.Kernel{Series: "6.12", Suite: "trixie"}

// The kernel modules that contestants need and that are not built in. Only contestants with
// rules have netfilter.
var (
	modules          = []string{"veth", "sch_ingress", "cls_bpf", "bridge"}
	netfilterModules = []string{
		"nf_conntrack", "nf_nat", "nf_tables", "nft_compat", "nft_chain_nat", "nft_ct", "nft_nat", "nft_masq",
		"nft_fib_inet", "nft_fib_ipv4", "nft_fib_ipv6", "nf_flow_table", "nf_flow_table_inet", "nft_flow_offload",
		"x_tables", "xt_conntrack", "xt_addrtype", "xt_MASQUERADE", "xt_nat", "xt_tcpudp",
	}
	bridgedModules = []string{"br_netfilter"}
)

// options for the kernel's command line: one nanosecond of the clock is one instruction, and
// everything that depends on the real processor or on time is turned off.
const kernelOptions = "nokaslr mitigations=off init_on_alloc=0 nowatchdog tsc=reliable tsc_early_khz=1000000 quiet"

// laboratory holds what guests are made of.
type laboratory struct {
	environment environment
	image       vm.Image
	dir         string
	fairlead    string // the program's path
}

// newLaboratory fetches the kernel and builds the programs. fairlead is the program to count,
// "" for the one of this repository.
func newLaboratory(ctx context.Context, fairlead string) (_ *laboratory, retErr error) {
	if err := vm.Needs(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "fairlead-count-")
	if err != nil {
		return nil, err
	}
	l := &laboratory{dir: dir, fairlead: fairlead}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, l.close())
		}
	}()
	packages := []string{"github.com/fairlead-net/fairlead/bench/count/guest", "github.com/fairlead-net/fairlead/cmd/fairlead-store"}
	if fairlead == "" {
		l.fairlead = filepath.Join(dir, "fairlead")
		packages = append(packages, "github.com/fairlead-net/fairlead/cmd/fairlead")
	}
	if err := errors.Join(vm.Build(ctx, dir, packages...), buildLoad(ctx, dir)); err != nil {
		return nil, err
	}
	deb, err := kernel.Fetch(ctx)
	if err != nil {
		return nil, err
	}
	if l.environment, err = describe(ctx, deb); err != nil {
		return nil, err
	}
	l.image, err = vm.Unpack(ctx, deb, filepath.Join(dir, "kernel"))
	return l, err
}

// The program that generates the loads.
//
//go:embed load/load.c
var loadSource string

const compiler = "gcc"

// buildLoad compiles the program that generates the loads into a directory.
func buildLoad(ctx context.Context, dir string) error {
	return compile(ctx, loadSource, filepath.Join(dir, "load"), "-static")
}

// compile compiles a C program.
func compile(ctx context.Context, source, path string, flags ...string) error {
	args := append(flags, "-O2", "-Wall", "-Wextra", "-Werror", "-o", path, "-x", "c", "-")
	cmd := exec.CommandContext(ctx, compiler, args...)
	cmd.Stdin = strings.NewReader(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", compiler, err, out)
	}
	return nil
}

// describe returns the environment of guests that run the kernel of a package.
func describe(ctx context.Context, deb string) (environment, error) {
	qemu, err := vm.Version(ctx)
	if err != nil {
		return environment{}, err
	}
	out, err := exec.CommandContext(ctx, compiler, "--version").Output()
	if err != nil {
		return environment{}, fmt.Errorf("ask %s for its version: %w", compiler, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return environment{Kernel: vm.Release(deb), Compiler: line, QEMU: qemu}, nil
}

func (l *laboratory) close() error { return os.RemoveAll(l.dir) }

// count boots a guest that counts cases for a contestant, and returns the median of the
// rounds for each.
func (l *laboratory) count(ctx context.Context, contestant, pattern string, rounds int) (map[string]float64, error) {
	report, err := l.boot(ctx, contestant, fmt.Sprintf("-cases=%s -rounds=%d", pattern, rounds), "")
	if err != nil {
		return nil, err
	}
	return parseReport(report)
}

// boot runs a guest with a contestant, more arguments and a plugin of qemu, and returns its report.
func (l *laboratory) boot(ctx context.Context, contestant, args, plugin string) (string, error) {
	root, err := l.root(contestant)
	if err != nil {
		return "", err
	}
	m := vm.Machine{
		Image: l.image, Root: root, CPUs: 1, Time: guestTime, Counting: true, Append: kernelOptions, Plugin: plugin,
		Args: fmt.Sprintf("-contestant=%s %s", contestant, args),
	}
	out, err := m.Run(ctx)
	if err != nil {
		return "", fmt.Errorf("count %s: %w\nthe guest said:\n%s", contestant, err, out.Report)
	}
	return out.Report, nil
}

// root returns the guest's root directory.
func (l *laboratory) root(contestant string) ([]byte, error) {
	var root vm.Archive
	for _, dir := range []string{"dev", "opt", "proc", "root", "run", "sys", "tmp", "var/lib"} {
		root.Dir(dir)
	}
	programs := []string{l.fairlead, filepath.Join(l.dir, "guest"), filepath.Join(l.dir, "load")}
	if contestant == "fairlead" {
		programs = append(programs, filepath.Join(l.dir, "fairlead-store"))
	}
	for i, path := range programs {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		name := filepath.Base(path)
		if i == 0 {
			name = "fairlead" // whatever the given program is called
		}
		root.File("bin/"+name, content)
	}
	root.Link("init", "bin/guest")
	err := errors.Join(root.Busybox("sh"), root.Program("ip"))
	names := modules
	switch contestant {
	case "nft", "flowtable":
		err = errors.Join(err, root.Program("nft"))
		names = slices.Concat(names, netfilterModules)
	case "bridge":
		names = append(slices.Clone(names), "vxlan")
	case "iptables":
		err = errors.Join(err, addIPTables(&root))
		names = slices.Concat(names, netfilterModules, bridgedModules)
	case "swarm":
		err = errors.Join(err, addIPTables(&root), root.Program("bridge"))
		names = slices.Concat(names, netfilterModules, bridgedModules, []string{"vxlan"})
	}
	err = errors.Join(err, root.Modules(l.image, guest.Modules, names...))
	return root.Bytes(), err
}

// addIPTables adds iptables-restore with the extensions that it loads.
func addIPTables(root *vm.Archive) error {
	extensions, err := filepath.Glob("/usr/lib/*/xtables/*.so")
	if err != nil {
		return err
	}
	if len(extensions) == 0 {
		return errors.New("iptables has no extensions in /usr/lib/*/xtables")
	}
	for _, path := range extensions {
		if err := root.Copy(path); err != nil {
			return err
		}
	}
	root.Link("bin/iptables-restore", "xtables-nft-multi")
	return root.Program("xtables-nft-multi")
}

// parseReport reads the guest's counts: on each line a case, and its rounds.
func parseReport(report string) (map[string]float64, error) {
	counts := make(map[string]float64)
	for line := range strings.Lines(report) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "count" {
			continue
		}
		var rounds []float64
		for _, text := range f[2:] {
			n, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return nil, fmt.Errorf("read the guest's report: %w", err)
			}
			rounds = append(rounds, n)
		}
		slices.Sort(rounds)
		counts[f[1]] = rounds[len(rounds)/2]
	}
	if len(counts) == 0 {
		return nil, fmt.Errorf("the guest counted nothing; it said:\n%s", report)
	}
	return counts, nil
}
