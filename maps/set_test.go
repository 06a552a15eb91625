// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/bpf"
)

var equateAddrs = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{}, FlowKey{}),
	cmp.AllowUnexported(Flow{}),
}

// world is a Set over private maps, and the maps themselves.
type world struct {
	*Set
	m   map[string]*ebpf.Map
	ran []bpf.GCGcBatch // batches that gc_flows received
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	specs := mustSpecs(tb)
	w := &world{m: make(map[string]*ebpf.Map)}
	for _, name := range Names() {
		ms := specs[name]
		if ms == nil {
			tb.Fatalf("the objects have no map %s", name)
		}
		if ms.Type == ebpf.LRUHash {
			ms.MaxEntries = 1024 // preallocated
		}
		w.m[name] = mustMap(tb, ms)
	}
	tc, err := bpf.LoadTC()
	must(tb, err)
	w.Set, err = New(w.m, tc.Types, func() error {
		var b bpf.GCGcBatch
		if err := w.m[bpf.GCMapFlGc].Lookup(uint32(0), &b); err != nil {
			return err
		}
		w.ran = append(w.ran, b)
		b.Removed = b.Count
		return w.m[bpf.GCMapFlGc].Put(uint32(0), &b)
	})
	must(tb, err)
	return w
}

// mustSpecs returns the maps of all objects.
func mustSpecs(tb testing.TB) map[string]*ebpf.MapSpec {
	tb.Helper()
	all := make(map[string]*ebpf.MapSpec)
	for _, load := range []func() (*ebpf.CollectionSpec, error){bpf.LoadTC, bpf.LoadSock, bpf.LoadGC} {
		spec, err := load()
		must(tb, err)
		for name, m := range spec.Maps {
			all[name] = m
		}
	}
	return all
}

func mustMap(tb testing.TB, spec *ebpf.MapSpec) *ebpf.Map {
	tb.Helper()
	m, err := ebpf.NewMap(spec)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.Close() })
	return m
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// Every map is either in the Set or private to a program.
func TestNames(t *testing.T) {
	specs := mustSpecs(t)
	for _, name := range Names() {
		if specs[name] == nil {
			t.Errorf("the objects have no map %s", name)
		}
	}
	for name, m := range specs {
		if len(name) > 15 {
			t.Errorf("the kernel would truncate the name of map %s", name)
		}
		work := m.Type == ebpf.PerCPUArray || name == bpf.TCMapFlHeld // holds packets of all processors
		if name[0] != '.' && !slices.Contains(Names(), name) && !work {
			t.Errorf("map %s is not known here", name)
		}
	}
}

// A hole in a key would make equal keys differ, or become part of a prefix.
func TestLayout(t *testing.T) {
	for _, tt := range []struct {
		name      string
		got, want uintptr
	}{
		{"endpoint", unsafe.Sizeof(bpf.TCEndpoint{}), 96},
		{"fdb_key", unsafe.Sizeof(bpf.TCFdbKey{}), 12},
		{"fdb_entry", unsafe.Sizeof(bpf.TCFdbEntry{}), 8},
		{"neigh_key", unsafe.Sizeof(bpf.TCNeighKey{}), 24},
		{"neigh_entry", unsafe.Sizeof(bpf.TCNeighEntry{}), 16},
		{"service_key", unsafe.Sizeof(bpf.TCServiceKey{}), 24},
		{"service", unsafe.Sizeof(bpf.TCService{}), 12},
		{"backend_key", unsafe.Sizeof(bpf.TCBackendKey{}), 8},
		{"backend", unsafe.Sizeof(bpf.TCBackend{}), 32},
		{"subnet_key", unsafe.Sizeof(bpf.TCSubnetKey{}), 20},
		{"source_key", unsafe.Sizeof(bpf.TCSourceKey{}), 28},
		{"egress", unsafe.Sizeof(bpf.TCEgress{}), 32},
		{"uplink", unsafe.Sizeof(bpf.TCUplink{}), 40},
		{"node", unsafe.Sizeof(bpf.TCNode{}), 48},
		{"vni", unsafe.Sizeof(bpf.TCVni{}), 8},
		{"tunnel", unsafe.Sizeof(bpf.TCTunnel{}), 56},
		{"tunnel_node_key", unsafe.Sizeof(bpf.TCTunnelNodeKey{}), 8},
		{"tuple", unsafe.Sizeof(bpf.TCTuple{}), 40},
		{"ct_entry", unsafe.Sizeof(bpf.TCCtEntry{}), 88},
		{"gc_batch", unsafe.Sizeof(bpf.GCGcBatch{}), 16 + 256*40},
	} {
		if tt.got != tt.want {
			t.Errorf("struct %s has %d bytes, want %d", tt.name, tt.got, tt.want)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	w := newWorld(t)
	endpoint := Endpoint{
		IfIndex: 7, Net: 3, MAC: MAC{2, 1, 2, 3, 4, 5}, GatewayMAC: MAC{2, 9, 9, 9, 9, 9},
		IPv4: addr("192.0.2.2"), Gateway4: addr("192.0.2.1"), Gateway6: addr("2001:db8::1"),
		Flags: AntiSpoof | ICC, HostPortIf: 8, GatewayIf: 9,
	}
	fdb := FDBEntry{Net: 3, MAC: MAC{2, 1, 2, 3, 4, 5}, IfIndex: 7, Flags: HostPort, Node: 65535}
	neigh4 := Neighbour{Net: 3, Addr: addr("192.0.2.2"), MAC: MAC{2, 1, 2, 3, 4, 5}, IfIndex: 7}
	neigh6 := Neighbour{Net: 3, Addr: addr("fe80::1"), MAC: MAC{2, 1, 2, 3, 4, 5}, IfIndex: 7, Flags: ICC, Node: 2}
	uplink := Uplink{IfIndex: 2, IPv6: addr("2001:db8::2")}
	lan := Uplink{IfIndex: 3, IPv4: addr("192.0.2.3"), Stack: true, Below: 5, LAN: 3}
	subnets := []Subnet{
		{netip.MustParsePrefix("192.0.2.0/24"), 3, Open},
		{netip.MustParsePrefix("2001:db8::/64"), 3, OpenPorts | OwnAddresses},
		{netip.MustParsePrefix("0.0.0.0/0"), 4, 0},
	}

	sources := []Source{
		{3, netip.MustParsePrefix("0.0.0.0/0")},
		{3, netip.MustParsePrefix("192.0.2.0/24")},
		{3, netip.MustParsePrefix("::/0")},
		{4, netip.MustParsePrefix("2001:db8::/32")},
		{4, netip.MustParsePrefix("2001:db8::1/128")},
	}

	must(t, put(w.Endpoints.Put(endpoint)), put(w.FDB.Put(fdb)), put(w.Neighbours.Put(neigh4)),
		put(w.Neighbours.Put(neigh6)), put(w.Uplinks.Put(uplink)), put(w.Uplinks.Put(lan)))
	for _, s := range subnets {
		must(t, put(w.Subnets.Put(s)))
	}
	for _, s := range sources {
		must(t, put(w.Sources.Put(s)))
	}
	chosen := Egress{Net: 5, IPv4: addr("192.0.2.7")}
	must(t, put(w.Egresses.Put(chosen)))
	must(t, w.Egresses.Refresh(), w.Sources.Refresh(), w.Endpoints.Refresh(), w.FDB.Refresh(), w.Neighbours.Refresh(), w.Uplinks.Refresh(), w.Subnets.Refresh())

	byText := cmp.Options{equateAddrs, cmpopts.SortSlices(func(a, b interface{ String() string }) bool { return a.String() < b.String() })}
	for _, tt := range []struct {
		name      string
		got, want any
	}{
		{"endpoint", w.Endpoints.List(), []Endpoint{endpoint}},
		{"fdb", w.FDB.List(), []FDBEntry{fdb}},
		{"neigh", w.Neighbours.List(), []Neighbour{neigh4, neigh6}},
		{"uplink", w.Uplinks.List(), []Uplink{uplink, lan}},
		{"subnet", w.Subnets.List(), subnets},
		{"source", w.Sources.List(), sources},
		{"egress", w.Egresses.List(), []Egress{chosen}},
	} {
		if diff := cmp.Diff(tt.want, tt.got, byText); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}

	for name, f := range map[string]func() (bool, error){
		"endpoint": func() (bool, error) { return w.Endpoints.Delete(7) },
		"fdb":      func() (bool, error) { return w.FDB.Delete(3, MAC{2, 1, 2, 3, 4, 5}) },
		"neigh":    func() (bool, error) { return w.Neighbours.Delete(3, addr("192.0.2.2")) },
		"uplink":   func() (bool, error) { return w.Uplinks.Delete(2) },
		"egress":   func() (bool, error) { return w.Egresses.Delete(chosen) },
		"source":   func() (bool, error) { return w.Sources.Delete(sources[2]) },
		"subnet":   func() (bool, error) { return w.Subnets.Delete(netip.MustParsePrefix("192.0.2.77/24")) },
	} {
		if ok, err := f(); !ok || err != nil {
			t.Errorf("delete %s = %v, %v", name, ok, err)
		}
		if ok, err := f(); ok || err != nil {
			t.Errorf("delete %s again = %v, %v", name, ok, err)
		}
	}
}

// put turns a result of Put into an error if nothing was written.
func put(written bool, err error) error {
	if err == nil && !written {
		err = errors.New("nothing was written")
	}
	return err
}

func must(tb testing.TB, errs ...error) {
	tb.Helper()
	if err := errors.Join(errs...); err != nil {
		tb.Fatal(err)
	}
}

func TestSubnetLookup(t *testing.T) {
	w := newWorld(t)
	_, _, err := w.Subnets.Sync([]Subnet{
		{netip.MustParsePrefix("192.0.2.0/24"), 1, 0},
		{netip.MustParsePrefix("192.0.2.128/25"), 2, 0},
		{netip.MustParsePrefix("2001:db8::/64"), 3, 0},
	})
	must(t, err)
	for _, tt := range []struct {
		addr string
		want uint32 // 0 if none
	}{
		{"192.0.2.5", 1}, {"192.0.2.200", 2}, {"198.51.100.1", 0}, {"2001:db8::5", 3}, {"2001:db8:0:1::5", 0},
	} {
		var got uint32
		err := w.m[bpf.TCMapFlSubnet].Lookup(subnetKey(netip.PrefixFrom(addr(tt.addr), addr(tt.addr).BitLen())), &got)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) || got != tt.want {
			t.Errorf("%s belongs to %d (%v), want %d", tt.addr, got, err, tt.want)
		}
	}
}

func TestHostAddrs(t *testing.T) {
	w := newWorld(t)
	if n, d, err := w.HostAddrs.Sync([]netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")}); n != 2 || d != 0 || err != nil {
		t.Errorf("Sync = %d, %d, %v", n, d, err)
	}
	must(t, put(w.HostAddrs.Delete(addr("192.0.2.1"))), put(w.HostAddrs.Put(addr("192.0.2.9"))), w.HostAddrs.Refresh())
	less := cmpopts.SortSlices(func(a, b netip.Addr) bool { return a.Less(b) })
	if diff := cmp.Diff([]netip.Addr{addr("192.0.2.9"), addr("2001:db8::1")}, w.HostAddrs.List(), equateAddrs, less); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestFills(t *testing.T) {
	w := newWorld(t)
	must(t, put(w.HostAddrs.Put(addr("192.0.2.1"))), w.PeerFDB.Put(PeerFDBEntry{Net: 1, Node: 2}))
	w.addFlow(t, true, flowSpec{port: 1, created: Now(), expires: Now() + 10})
	fills, err := w.Fills()
	must(t, err)
	got := make(map[string]int)
	for _, f := range fills {
		got[f.Table] = f.Entries
		if f.Max == 0 {
			t.Errorf("table %s has no size", f.Table)
		}
	}
	want := map[string]int{
		"fl_endpoint": 0, "fl_fdb": 0, "fl_neigh": 0, "fl_service": 0, "fl_backend": 0, "fl_hostaddr": 1, "fl_hostnet": 0, "fl_subnet": 0,
		"fl_uplink": 0, "fl_vni": 0, "fl_tunnel": 0, "fl_tunnel_node": 0, "fl_node": 0, "fl_node_addr": 0,
		"fl_peer_fdb": 1, "fl_peer_neigh": 0, "fl_ct": 2, "fl_ct_new": 0, "fl_frag": 0, "fl_sock_rev": 0,
		"fl_source": 0, "fl_egress": 0, "fl_pool": 0, "fl_resolver": 0, "fl_maglev": 0, "fl_member": 0, "fl_affinity": 0, "fl_group": 0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestCounters(t *testing.T) {
	w := newWorld(t)
	cpus := ebpf.MustPossibleCPU()
	fill := func(name string, index uint32, packets uint64) {
		per := make([]bpf.TCCounter, cpus)
		for i := range per {
			per[i] = bpf.TCCounter{Packets: packets, Bytes: packets * 10}
		}
		must(t, w.m[name].Put(index, per))
	}
	fill("fl_drops", uint32(bpf.TCDropReasonDROP_SPOOFED_IP), 2)
	fill("fl_paths", uint32(bpf.TCFwdPathPATH_PEER), 3)
	fill("fl_events", uint32(bpf.TCCtEventEV_SNAT_RETRY), 4)
	fill("fl_traffic", 5*2+0, 5)
	fill("fl_traffic", 5*2+1, 6)

	n := uint64(cpus)
	for _, tt := range []struct {
		name  string
		read  func() (map[string]Counter, error)
		moved string
		want  Counter
		first string // a label that must exist, with the value zero
		count int
	}{
		{"drops", w.Counters.Drops, "spoofed_ip", Counter{2 * n, 20 * n}, "malformed", int(bpf.TCDropReasonDROP_REASON_MAX) - 1},
		{"paths", w.Counters.Paths, "peer", Counter{3 * n, 30 * n}, "neigh", int(bpf.TCFwdPathPATH_MAX)},
		{"events", w.Counters.Events, "snat_retry", Counter{4 * n, 40 * n}, "ct_created", int(bpf.TCCtEventEV_MAX)},
	} {
		got, err := tt.read()
		must(t, err)
		if len(got) != tt.count {
			t.Errorf("%s: %d labels, want %d: %v", tt.name, len(got), tt.count, got)
		}
		if _, ok := got[tt.first]; !ok {
			t.Errorf("%s: no label %q in %v", tt.name, tt.first, got)
		}
		for label, c := range got {
			if want := map[bool]Counter{true: tt.want}[label == tt.moved]; c != want {
				t.Errorf("%s: %s = %v, want %v", tt.name, label, c, want)
			}
		}
	}
	from, to, err := w.Counters.Traffic(5)
	if err != nil || from != (Counter{5 * n, 50 * n}) || to != (Counter{6 * n, 60 * n}) {
		t.Errorf("Traffic = %v, %v, %v", from, to, err)
	}
	must(t, w.Counters.ResetTraffic(5))
	if from, to, err := w.Counters.Traffic(5); err != nil || from != (Counter{}) || to != (Counter{}) {
		t.Errorf("Traffic after a reset = %v, %v, %v", from, to, err)
	}
}
