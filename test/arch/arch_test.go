// SPDX-License-Identifier: Apache-2.0

// Package arch_test enforces the rules of the source tree that a compiler does not check:
// allowed imports, one comment per package, a licence in each file.
package arch_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/fairlead-net/fairlead"

// pkg is a package as `go list` reports it.
type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string // direct, without the imports of tests
	Deps       []string // transitive
}

// rel returns the package's path in the module: "control/model".
func (p pkg) rel() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

// allowed lists the packages of the module that each package may import. "/..." stands for a
// package and all below it. Tests may import anything.
var (
	allowed = map[string][]string{
		"bpf":                               {},
		"maps":                              {"bpf", "maps/egress", "maps/flood", "maps/flowcount", "maps/pools", "maps/portbits", "maps/redirects", "maps/table", "maps/transfer"},
		"maps/egress":                       {"bpf", "maps/table"},
		"maps/flood":                        {"bpf", "maps/table", "maps/transfer"},
		"maps/flowcount":                    {"bpf", "maps/transfer"},
		"maps/pools":                        {"bpf", "maps/table"},
		"maps/portbits":                     {},
		"maps/redirects":                    {"bpf"},
		"maps/table":                        {},
		"maps/transfer":                     {"bpf"},
		"loader":                            {"bpf", "maps", "loader/bpffs", "loader/hook", "loader/probe", "loader/tables"},
		"loader/bpffs":                      {},
		"loader/probe":                      {"bpf", "loader/bpffs"},
		"loader/hook":                       {"bpf", "maps", "loader/bpffs", "loader/probe"},
		"loader/tables":                     {"bpf", "maps/transfer", "loader/bpffs"},
		"loader/downgrade":                  {"bpf", "maps", "loader/bpffs", "loader/tables"},
		"control/model":                     {},
		"control/desired":                   {"control/desired/persistent", "control/model"},
		"control/desired/persistent":        {},
		"control/desired/desiredtest":       {"control/desired", "control/model"},
		"control/store":                     {"control/model"},
		"control/cluster":                   {"control/cluster/kv", "control/cluster/layout", "control/cluster/leaving", "control/cluster/members", "control/cluster/networks", "control/cluster/nodes", "control/cluster/services", "control/desired", "control/model", "control/store"},
		"control/cluster/layout":            {"control/cluster/kv", "control/model"},
		"control/cluster/leaving":           {"control/cluster/kv", "control/cluster/layout"},
		"control/cluster/members":           {"control/cluster/kv", "control/cluster/layout", "control/desired", "control/ipam", "control/model", "control/store"},
		"control/cluster/networks":          {"control/cluster/kv", "control/cluster/layout", "control/cluster/removals", "control/desired", "control/model", "control/store"},
		"control/cluster/nodes":             {"control/cluster/kv", "control/cluster/layout", "control/model", "control/store"},
		"control/cluster/services":          {"control/cluster/kv", "control/cluster/layout", "control/cluster/members", "control/cluster/removals", "control/desired", "control/model", "control/store"},
		"control/cluster/removals":          {"control/cluster/layout", "control/store"},
		"control/cluster/embed":             {"control/cluster/token"},
		"control/cluster/launch":            {},
		"control/cluster/kv":                {},
		"control/cluster/kv/consul":         {"control/cluster/kv"},
		"control/cluster/kv/etcd":           {"control/cluster/kv"},
		"control/cluster/kv/open":           {"control/cluster/kv", "control/cluster/kv/consul", "control/cluster/kv/etcd", "control/cluster/kv/zk", "control/cluster/token"},
		"control/cluster/kv/zk":             {"control/cluster/kv"},
		"control/cluster/kv/kvtest":         {"control/cluster/kv"},
		"control/cluster/kv/memory":         {"control/cluster/kv"},
		"control/cluster/token":             {},
		"control/ipam":                      {"control/model"},
		"control/schema":                    {"control/store"},
		"control/schema/handover":           {"control/schema", "control/store"},
		"control/desired/txn":               {"control/model", "control/desired", "control/desired/txn/hostports", "control/desired/txn/uses", "control/schema", "control/store", "control/ipam"},
		"control/desired/txn/hostports":     {"control/model"},
		"control/desired/txn/uses":          {"control/model", "control/schema"},
		"control/resource":                  {"control/model", "control/desired", "control/desired/txn", "control/ipam", "control/resource/options"},
		"control/resource/options":          {"control/model"},
		"control/controller/naming":         {"control/desired/txn", "control/model", "control/resource"},
		"control/controller/presets":        {"control/model", "control/desired", "control/desired/txn", "control/resource"},
		"control/controller":                {"control/controller/naming", "control/controller/presets", "control/model", "control/desired", "control/desired/txn", "control/resource", "control/resource/options"},
		"control/engine":                    {"control/model", "control/desired", "control/desired/txn", "control/ipam", "control/resource", "control/resource/options"},
		"control/api":                       {"control/model"},
		"control/api/client":                {"control/api", "control/httpserve"},
		"control/api/server":                {"control/api", "control/etcfiles", "control/ipam", "control/model", "control/desired", "control/httpserve"},
		"control/httpserve":                 {},
		"control/attach":                    {"control/api", "control/api/client", "control/model"},
		"control/cni":                       {"control/api", "control/api/client", "control/attach", "control/model"},
		"control/netavark":                  {"control/api", "control/api/client", "control/attach", "control/model"},
		"control/dockerplugin":              {"control/model", "control/desired", "control/host/socket", "control/httpserve"},
		"control/metrics":                   {"control/desired", "maps"},
		"control/events":                    {"control/api", "control/desired", "control/model"},
		"control/etcfiles":                  {"control/model", "control/desired"},
		"control/fdstore":                   {},
		"control/dns":                       {"control/model", "control/desired", "control/desired/persistent"},
		"control/announce":                  {"control/desired", "control/model", "control/rtnl", "control/rtnl/frames"},
		"control/dhcp":                      {"control/model", "control/rtnl", "control/rtnl/stacked"},
		"control/dhcp/leases":               {"control/desired", "control/dhcp", "control/model"},
		"control/querier":                   {"maps/flood"},
		"control/reach":                     {"control/model"},
		"control/logonce":                   {},
		"control/peers":                     {"control/logonce", "control/cluster/kv", "control/cluster/layout", "control/desired", "control/model", "control/store", "maps"},
		"control/rtnl":                      {"control/model"},
		"control/rtnl/configure":            {"control/model", "control/rtnl", "control/rtnl/stacked", "control/rtnl/tc"},
		"control/rtnl/frames":               {"control/model", "control/rtnl"},
		"control/rtnl/netfilter":            {"control/rtnl"},
		"control/rtnl/offload":              {},
		"control/rtnl/rtnltest":             {"control/rtnl"},
		"control/rtnl/settings":             {"control/model", "control/rtnl"},
		"control/rtnl/sockdiag":             {"control/model"},
		"control/rtnl/stacked":              {"control/model", "control/rtnl"},
		"control/rtnl/station":              {"control/model", "control/rtnl"},
		"control/rtnl/tc":                   {"control/model", "control/rtnl"},
		"control/rtnl/underlay":             {"control/model", "control/rtnl", "control/rtnl/watch"},
		"control/rtnl/uplink":               {"control/model", "control/rtnl"},
		"control/rtnl/wireguard":            {"control/model", "control/rtnl"},
		"control/rtnl/vxlan":                {"control/model", "control/rtnl"},
		"control/rtnl/watch":                {"control/rtnl", "control/rtnl/tc"},
		"control/gc":                        {"maps"},
		"control/hostsockets":               {"control/model", "control/desired", "control/rtnl/sockdiag", "maps/redirects"},
		"control/host":                      {"control/model", "control/rtnl", "control/rtnl/sockdiag"},
		"control/reconcile":                 {"control/model", "control/desired", "control/rtnl", "control/reconcile/check", "control/reconcile/device", "control/reconcile/loop", "control/reconcile/objects", "control/reconcile/pass", "control/reconcile/programs", "control/reconcile/remote", "control/reconcile/repair", "control/reconcile/report", "control/reconcile/tables", "control/reconcile/turns"},
		"control/reconcile/check":           {"control/desired", "control/logonce", "control/reconcile/device", "control/reconcile/objects", "control/reconcile/pass", "control/reconcile/programs", "control/reconcile/repair", "control/reconcile/report", "control/reconcile/tables", "control/reconcile/turns", "control/reconcile/uplinks", "loader"},
		"control/reconcile/repair":          {"control/model", "control/rtnl", "control/rtnl/watch", "control/reconcile/device", "control/reconcile/objects", "control/reconcile/pass", "control/reconcile/report"},
		"control/reconcile/loop":            {"control/logonce", "control/rtnl", "control/rtnl/watch", "control/reconcile/check", "control/reconcile/netns", "control/reconcile/pass", "control/reconcile/repair"},
		"control/reconcile/remote":          {"control/model", "control/reconcile/device", "control/reconcile/objects", "control/reconcile/pass"},
		"control/reconcile/pass":            {"control/desired", "control/model", "control/rtnl", "control/rtnl/configure", "control/rtnl/frames", "control/rtnl/station", "control/reconcile/device", "control/reconcile/netns", "control/reconcile/objects", "control/reconcile/pass/devices", "control/reconcile/pass/namespaces", "control/reconcile/pass/scope", "control/reconcile/programs", "control/reconcile/report", "control/reconcile/tables", "control/reconcile/turns", "control/reconcile/uplinks"},
		"control/reconcile/pass/devices":    {"control/desired", "control/model", "control/rtnl", "control/rtnl/configure", "control/reconcile/device", "control/reconcile/objects", "control/reconcile/pass/namespaces", "control/reconcile/pass/scope", "control/reconcile/report", "control/reconcile/tables"},
		"control/reconcile/pass/namespaces": {"control/model", "control/rtnl", "control/rtnl/configure", "control/reconcile/netns", "control/reconcile/objects", "control/reconcile/pass/scope", "control/reconcile/report"},
		"control/reconcile/pass/scope":      {"control/desired", "control/reconcile/device", "control/reconcile/netns", "control/reconcile/objects", "control/reconcile/report", "control/reconcile/turns"},
		"control/reconcile/objects":         {"control/model", "control/desired", "control/reconcile/device", "control/reconcile/entries", "control/reconcile/netns", "control/reconcile/tables", "control/reconcile/turns"},
		"control/reconcile/report":          {"control/model", "control/rtnl/configure"},
		"control/reconcile/turns":           {"control/model", "control/desired"},
		"control/reconcile/programs":        {"control/reconcile/device", "loader"},
		"control/reconcile/tables":          {"control/reconcile/entries", "maps"},
		"control/reconcile/device":          {"control/model", "control/rtnl", "control/rtnl/configure", "control/rtnl/offload", "control/rtnl/stacked", "control/rtnl/station", "control/rtnl/tc", "loader"},
		"control/reconcile/netns":           {"control/model", "control/rtnl", "control/rtnl/configure", "control/rtnl/netfilter", "control/rtnl/settings", "control/rtnl/watch"},
		"control/reconcile/uplinks":         {"control/model", "control/rtnl", "control/rtnl/uplink", "control/reconcile/device", "control/reconcile/entries", "loader", "maps"},
		"control/reconcile/entries":         {"control/model", "control/rtnl/uplink", "maps"},
		"control/host/socket":               {},
		"control/instance":                  {"control/host/socket", "control/rtnl"},
		"control/cleanup":                   {"control/instance", "control/rtnl", "control/rtnl/station", "control/rtnl/tc", "control/rtnl/vxlan", "loader"},
		"control/doctor":                    {"control/api", "control/api/client", "control/model", "control/rtnl/...", "loader/probe"},
		"control/node":                      {"control/announce", "control/api", "control/api/server", "control/cluster", "control/controller", "control/desired", "control/dhcp/leases", "control/dns", "control/dockerplugin", "control/engine", "control/events", "control/flows", "control/instance", "control/model", "control/peers", "control/reach", "control/reconcile", "control/rtnl/...", "loader"},
		"control/flows":                     {"control/api", "control/desired", "control/model", "loader", "maps"},
		"control/daemon":                    {"control/...", "loader/...", "maps"},
		"control/controller/controllertest": {"control/model", "control/desired"},
		"control/api/apitest":               {"control/api", "control/desired", "control/desired/desiredtest", "control/model"},
		"cmd/fairlead":                      {"bench/...", "cmd/...", "control/..."},
		"cmd/fairlead-cni":                  {"control/api/client", "control/attach", "control/cni"},
		"cmd/fairlead-store":                {"control/cluster/embed", "control/cluster/launch", "control/cluster/token"},
		"cmd/fairlead-netavark":             {"control/api/client", "control/attach", "control/netavark"},
		"cmd/fairlead/knobs":                {"control/ipam", "control/model", "control/resource", "control/resource/options"},
		"cmd/fairlead/enter":                {"control/api", "control/api/client", "control/model", "control/rtnl"},
		"cmd/fairlead/subnets":              {"control/api", "control/model"},
		"cmd/fairlead/demo":                 {"bench/world", "control/cluster/launch"},
		"bench/world":                       {},
		"bench":                             {"bench/..."},
		"bench/chart":                       {"bench/report"},
		"bench/count":                       {"bench/cases", "bench/vm", "bench/vm/guest"},
		"bench/count/guest":                 {"bench", "bench/cases", "bench/contestant", "bench/contestant/roster", "bench/vm/guest"},
		"bench/load":                        {},
		"bench/cases":                       {},
		"bench/vm":                          {"bench/vm/guest", "bench/world"},
		"bench/vm/guest":                    {},
		"bench/topology":                    {"bench/world"},
		"bench/engine":                      {"bench/world"},
		"bench/contestant":                  {"bench/cases", "bench/topology"},
		"bench/contestant/roster":           {"bench/contestant", "bench/engine", "bench/cases", "bench/kernel", "bench/load", "bench/topology", "bench/world"},
		"bench/kernel":                      {"bpf", "maps"},
		"bench/nodes":                       {"control/cluster/kv", "control/cluster/kv/open", "control/cluster/layout", "control/model"},
		"bench/report":                      {"bench/cases", "bench/load"},
	}
	laboratories = []string{"test/..."}
)

// homes lists the packages that may import a library directly; the others should use it only
// through them.
var homes = map[string][]string{
	"github.com/cilium/ebpf":         {"bpf", "maps/...", "loader/...", "bench/kernel"},
	"github.com/google/nftables":     {"control/rtnl/netfilter"},
	"github.com/vishvananda/netlink": {"control/rtnl/..."},
	"github.com/vishvananda/netns":   {"control/rtnl"},
	"golang.zx2c4.com/wireguard":     {"control/rtnl/wireguard"},
	"github.com/prometheus":          {"control/metrics"},
	"github.com/miekg/dns":           {"control/dns"},
	"github.com/coreos/go-systemd":   {"control/daemon"},
	"github.com/insomniacslk/dhcp":   {"control/dhcp"},
	"github.com/mdlayher/packet":     {"control/dhcp"},
	"go.etcd.io/bbolt":               {"control/store"},
	"go.etcd.io/etcd/client":         {"control/cluster/kv/etcd"},
	"go.etcd.io/etcd/server":         {"control/cluster/embed"},
	"github.com/hashicorp/consul":    {"control/cluster/kv/consul"},
	"github.com/go-zookeeper":        {"control/cluster/kv/zk"},
	"github.com/containernetworking": {"control/cni", "cmd/fairlead-cni"},
	"github.com/spf13/cobra":         {"cmd/..."},
	"gonum.org/v1/plot":              {"bench/chart"},
}

// blind lists the packages that must not reach the kernel even indirectly.
var blind = []string{"control/model", "control/desired", "control/desired/persistent", "control/desired/txn", "control/schema", "control/schema/handover", "control/store", "control/ipam", "control/resource", "control/resource/options", "control/controller", "control/controller/naming", "control/controller/presets", "control/engine", "control/cluster", "control/cluster/layout", "control/cluster/leaving", "control/cluster/members", "control/cluster/networks", "control/cluster/nodes", "control/cluster/removals", "control/cluster/services", "control/api", "control/api/client", "control/api/server", "control/attach", "control/cni", "control/netavark", "control/dockerplugin"}

func TestImportDirection(t *testing.T) {
	for _, p := range list(t) {
		if match(laboratories, p.rel()) {
			continue
		}
		may, known := allowed[p.rel()]
		if !known {
			t.Errorf("%s is not in the table of allowed imports (add it there with the packages it needs)", p.rel())
			continue
		}
		for _, imp := range p.Imports {
			in, ours := strings.CutPrefix(imp, module+"/")
			if ours && !match(may, in) {
				t.Errorf("%s imports %s; it may import %v", p.rel(), in, may)
			}
		}
	}
}

func TestModelImportsTheStandardLibraryOnly(t *testing.T) {
	for _, p := range list(t) {
		if p.rel() != "control/model" {
			continue
		}
		for _, imp := range p.Deps {
			first, _, _ := strings.Cut(imp, "/")
			if strings.Contains(first, ".") {
				t.Errorf("%s depends on %s", p.rel(), imp)
			}
		}
	}
}

func TestLibrariesHaveOneHome(t *testing.T) {
	for _, p := range list(t) {
		for _, imp := range p.Imports {
			for lib, home := range homes {
				if under(imp, lib) && !match(home, p.rel()) && !match(laboratories, p.rel()) {
					t.Errorf("%s imports %s, which only %v may", p.rel(), imp, home)
				}
			}
		}
	}
}

func TestControllerNeverSeesTheKernel(t *testing.T) {
	for _, p := range list(t) {
		if !slices.Contains(blind, p.rel()) {
			continue
		}
		for _, dep := range p.Deps {
			for _, lib := range []string{"github.com/cilium/ebpf", "github.com/vishvananda/netlink", "github.com/vishvananda/netns"} {
				if under(dep, lib) {
					t.Errorf("%s depends on %s", p.rel(), dep)
				}
			}
		}
	}
}

// setns moves a thread into another namespace.
var setns = regexp.MustCompile(`unix\.Setns\(|SYS_SETNS|netns\.Set\(`)

// setnsHomes lists the files that may do so. The daemon switches network namespaces in one
// function only, which switches the thread back.
var setnsHomes = []string{
	"control/rtnl/netns.go",        // onThread
	"bench/world/host.go",          // the hosts of demo and bench, on dedicated threads
	"cmd/fairlead/enter/enter.go",  // only the UTS namespace
	"cmd/fairlead/enter/files.go",  // only the mount namespace
	"test/kernels/guest/daemon.go", // for the tests
	"test/lab/visitor.go",          // the main thread of a program of its own
}

func TestNamespacesAreSwitchedInOnePlace(t *testing.T) {
	for _, p := range list(t) {
		for _, name := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if file := filepath.Join(p.rel(), name); setns.Match(text) != slices.Contains(setnsHomes, file) {
				t.Errorf("%s: switches namespaces: %t, want the opposite (other packages use rtnl.NetNS.Do)", file, setns.Match(text))
			}
		}
	}
}

// under reports whether an import path is a module or one of its packages.
func under(imp, lib string) bool {
	return imp == lib || strings.HasPrefix(imp, lib+"/")
}

// match reports whether a list of paths and "path/..." patterns contains a path.
func match(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		if base, ok := strings.CutSuffix(pattern, "/..."); ok {
			return under(path, base)
		}
		return path == pattern
	})
}

// list returns every package of the module.
func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports,Deps", "./...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return pkgs
		case err != nil:
			t.Fatalf("go list's answer: %v", err)
		}
		pkgs = append(pkgs, p)
	}
}

// root returns the module's directory.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
