// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bpf"
)

const (
	instructionsFile = "testdata/instructions.txt"
	refreshVar       = "FAIRLEAD_REFRESH"
	// verifierLimit is half of the number of instructions that the kernel processes before it
	// gives up: another kernel may need more than this one.
	verifierLimit = 500_000
)

// Every object loads with every configuration, and costs the verifier about as much as when
// instructions.txt was written. A program that comes near the limit loads here and fails on
// another kernel.
func TestVerifier(t *testing.T) {
	got := make(map[string]uint32)
	var names []string
	for _, o := range objects(t) {
		for program, n := range verified(t, o.spec, o.vars) {
			name := strings.TrimSpace(fmt.Sprintf("%s %s", program, o.config))
			got[name] = n
			names = append(names, name)
			if n > verifierLimit {
				t.Errorf("%s: %d instructions verified, more than %d", name, n, verifierLimit)
			}
		}
	}
	if os.Getenv(refreshVar) != "" {
		writeInstructions(t, got)
		return
	}
	kernel, want := readInstructions(t)
	if kernel != kernelSeries(t) {
		t.Logf("instructions.txt is of kernel %s: not compared", kernel)
		return
	}
	for _, name := range names {
		n, known := want[name]
		if !known || n*6/5 < got[name] {
			t.Errorf("%s: %d instructions verified; instructions.txt has %d and allows a fifth more (if it has to be, refresh it: "+
				"%s=1 go test ./test/datapath -run TestVerifier)", name, got[name], n, refreshVar)
		}
	}
}

// sameCode is the number of configurations of one object before its last: they have the same code.
const sameCode = 17

// object is a shipped object with a configuration.
type object struct {
	config string
	spec   *ebpf.CollectionSpec
	vars   map[string]any
}

func objects(t *testing.T) []object {
	t.Helper()
	var all []object
	for _, overlay := range []struct {
		name string
		port uint16
		l3   uint8
	}{{"", 0, 0}, {" cfg_vxlan_port cfg_decap_l3=0", tunnelPort, 0}, {" cfg_vxlan_port cfg_decap_l3=1", tunnelPort, 1}} {
		for setting := range uint8(4) {
			fib, conntrack := setting&1, setting>>1
			spec, err := bpf.LoadTC()
			must(t, err)
			all = append(all, object{fmt.Sprintf("cfg_conntrack=%d cfg_fib_src=%d%s", conntrack, fib, overlay.name), spec,
				map[string]any{"cfg_conntrack": conntrack, "cfg_fib_src": fib,
					"cfg_vxlan_port": overlay.port, "cfg_decap_l3": overlay.l3}})
		}
		for _, cache := range []map[string]any{{"cfg_kern_ctx": uint8(1)}, {"cfg_cache": uint8(0)}} {
			spec, err := bpf.LoadTC()
			must(t, err)
			all = append(all, object{fmt.Sprintf("%s%s", strings.Trim(fmt.Sprint(cache), "map[]"), overlay.name), spec,
				with(cache, map[string]any{"cfg_conntrack": uint8(1), "cfg_fib_src": uint8(1),
					"cfg_vxlan_port": overlay.port, "cfg_decap_l3": overlay.l3})})
		}
	}
	sock, err := bpf.LoadSock()
	must(t, err)
	gc, err := bpf.LoadGC()
	must(t, err)
	return append(all, object{spec: sock}, object{spec: gc})
}

// verified loads an object and returns how many instructions the verifier processed.
func verified(t *testing.T, spec *ebpf.CollectionSpec, vars map[string]any) map[string]uint32 {
	t.Helper()
	for name, v := range vars {
		must(t, spec.Variables[name].Set(v))
	}
	coll, err := ebpf.NewCollection(spec)
	if verifier := (*ebpf.VerifierError)(nil); errors.As(err, &verifier) {
		t.Fatalf("with %v: %+v", vars, verifier)
	}
	must(t, err)
	defer coll.Close()
	counts := make(map[string]uint32)
	for name, p := range coll.Programs {
		info, err := p.Info()
		must(t, err)
		n, ok := info.VerifiedInstructions()
		if !ok {
			t.Skip("this kernel does not say how much its verifier looked at (5.16)")
		}
		counts[name] = n
	}
	return counts
}

// kernelSeries returns "6.18" for "6.18.44".
func kernelSeries(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	must(t, unix.Uname(&u))
	parts := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
	return strings.Join(parts[:2], ".")
}

func readInstructions(t *testing.T) (kernel string, counts map[string]uint32) {
	t.Helper()
	b, err := os.ReadFile(instructionsFile)
	must(t, err)
	counts = make(map[string]uint32)
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		first, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "" || first == "#":
		case first == "kernel":
			kernel = rest
		default:
			var n uint32
			_, err := fmt.Sscan(first, &n)
			must(t, err)
			counts[rest] = n
		}
	}
	return kernel, counts
}

func writeInstructions(t *testing.T, counts map[string]uint32) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "# Instructions the verifier looked at, by program and configuration.\n"+
		"# Refresh: %s=1 go test ./test/datapath -run TestVerifier\nkernel %s\n", refreshVar, kernelSeries(t))
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "%d %s\n", counts[name], name)
	}
	must(t, os.MkdirAll("testdata", 0o755))
	must(t, os.WriteFile(instructionsFile, []byte(b.String()), 0o644))
}
