// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/reconcile/entries"
	"github.com/fairlead-net/fairlead/maps"
)

var errTable = errors.New("table")

// fake is a table that records calls.
type fake[E any] struct {
	name  string
	calls *[]string
	err   error
	parts int // of a verification that are left after the next
}

func (f *fake[E]) call(what string) error {
	*f.calls = append(*f.calls, what+" "+f.name)
	return f.err
}

func (f *fake[E]) PutAll(es []E) (int, error)    { return len(es), f.call("put") }
func (f *fake[E]) DeleteAll(es []E) (int, error) { return len(es), f.call("delete") }
func (f *fake[E]) Sync(es []E) (int, int, error) { return len(es), 1, f.call("sync") }

func (f *fake[E]) VerifySome() (int, bool, error) {
	f.parts--
	return 1, f.parts >= 0, f.call("verify part of")
}

// fakes returns eleven tables, the calls of which are recorded.
func fakes() (set Set, calls *[]string, endpoints *fake[maps.Endpoint]) {
	calls = new([]string)
	endpoints = &fake[maps.Endpoint]{name: "endpoints", calls: calls}
	return Set{
		Endpoints:  endpoints,
		Subnets:    &fake[maps.Subnet]{name: "subnets", calls: calls},
		FDB:        &fake[maps.FDBEntry]{name: "fdb", calls: calls},
		Neighbours: &fake[maps.Neighbour]{name: "neighbours", calls: calls},
		Publishes:  &fake[maps.Publish]{name: "publishes", calls: calls},
		Sources:    &fake[maps.Source]{name: "sources", calls: calls},
		Egresses:   &fake[maps.Egress]{name: "egresses", calls: calls},
		Tunnels:    &fake[maps.Tunnel]{name: "tunnels", calls: calls},
		VNIs:       &fake[maps.VNI]{name: "vnis", calls: calls},
		Pools:      &fake[maps.Pool]{name: "pools", calls: calls},
		Resolvers:  &fake[maps.Resolver]{name: "resolvers", calls: calls},
	}, calls, endpoints
}

func all() *entries.Set {
	return &entries.Set{
		Endpoints: make([]maps.Endpoint, 2), FDB: make([]maps.FDBEntry, 2), Neighbours: make([]maps.Neighbour, 2),
		Publishes: make([]maps.Publish, 2), Sources: make([]maps.Source, 2), Subnets: make([]maps.Subnet, 2), Egresses: make([]maps.Egress, 2), Tunnels: make([]maps.Tunnel, 2), VNIs: make([]maps.VNI, 2), Pools: make([]maps.Pool, 2),
		Resolvers: make([]maps.Resolver, 2),
	}
}

// What an entry refers to is written before it and deleted after it, and a table without entries
// is left alone.
func TestOrder(t *testing.T) {
	set, calls, _ := fakes()
	tables := New(set)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	must(tables.Write(all()))
	must(tables.Delete(all()))
	must(tables.Write(&entries.Set{FDB: all().FDB}))
	must(tables.Delete(&entries.Set{}))
	want := []string{
		"put subnets", "put egresses", "put tunnels", "put endpoints", "put pools", "put fdb", "put neighbours", "put sources", "put publishes", "put resolvers", "put vnis",
		"delete vnis", "delete resolvers", "delete publishes", "delete sources", "delete neighbours", "delete fdb", "delete pools", "delete endpoints", "delete tunnels", "delete egresses", "delete subnets",
		"put fdb",
	}
	if diff := cmp.Diff(want, *calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// After a write that failed a difference is not due to others, and is not counted, until the
// tables were synchronized.
func TestUnsynced(t *testing.T) {
	set, calls, endpoints := fakes()
	tables := New(set)
	endpoints.err = errTable
	if err := tables.Write(all()); !errors.Is(err, errTable) || !tables.Unsynced() || len(*calls) != 11 {
		t.Errorf("write: %v, unsynced: %t, calls: %v", err, tables.Unsynced(), *calls)
	}
	if n, err := tables.Sync(all()); n != 0 || !errors.Is(err, errTable) || !tables.Unsynced() {
		t.Errorf("sync: %d restored, %v, unsynced: %t", n, err, tables.Unsynced())
	}
	endpoints.err = nil
	if n, err := tables.Sync(all()); n != 0 || err != nil || tables.Unsynced() {
		t.Errorf("sync: %d restored, %v, unsynced: %t", n, err, tables.Unsynced())
	}
	if n, err := tables.Sync(all()); n != 33 || err != nil {
		t.Errorf("sync: %d restored, %v", n, err)
	}
}

// A round verifies each table once, those with more entries in several parts.
func TestVerify(t *testing.T) {
	set, calls, endpoints := fakes()
	tables := New(set)
	if n, more, err := tables.VerifyPart(); n != 11 || more || err != nil {
		t.Errorf("restored %d, more: %t, %v", n, more, err)
	}
	*calls, endpoints.parts = nil, 2
	for i, want := range []struct {
		restored int
		more     bool
	}{{11, true}, {1, true}, {1, false}, {11, false}} {
		if n, more, err := tables.VerifyPart(); n != want.restored || more != want.more || err != nil {
			t.Errorf("part %d: restored %d, more: %t, %v", i, n, more, err)
		}
	}
}

// fakeFlows is a table of flows.
type fakeFlows struct {
	flows []maps.Flow
	err   error
}

func (f *fakeFlows) DeleteWhere(match func(maps.Flow) bool) (n int, err error) {
	if f.err != nil {
		return 0, f.err
	}
	var rest []maps.Flow
	for _, fl := range f.flows {
		if !match(fl) {
			rest = append(rest, fl)
		}
	}
	n = len(f.flows) - len(rest)
	f.flows = rest
	return n, nil
}

// Exactly the flows of what was removed are removed, at the next attempt if one fails.
func TestDrop(t *testing.T) {
	a, b := netip.MustParseAddr("10.7.0.2"), netip.MustParseAddr("192.0.2.1")
	at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 80) }
	for name, tt := range map[string]struct {
		filter  func(*Filter)
		flow    maps.Flow
		matches bool
	}{
		"in by the device":        {func(f *Filter) { f.Device(3) }, maps.Flow{InIf: 3}, true},
		"out by the device":       {func(f *Filter) { f.Device(3) }, maps.Flow{OutIf: 3}, true},
		"another device":          {func(f *Filter) { f.Device(3) }, maps.Flow{InIf: 4, OutIf: 5}, false},
		"no device":               {func(f *Filter) { f.Device(0) }, maps.Flow{}, false},
		"the publish":             {func(f *Filter) { f.Publish(3) }, maps.Flow{Publish: 3}, true},
		"masqueraded":             {func(f *Filter) { f.Addr(b) }, maps.Flow{NATSrc: true, Reply: maps.Tuple{Dst: at(b)}}, true},
		"published":               {func(f *Filter) { f.Addr(b) }, maps.Flow{NATDst: true, Orig: maps.Tuple{Dst: at(b)}}, true},
		"neither":                 {func(f *Filter) { f.Addr(b) }, maps.Flow{Orig: maps.Tuple{Dst: at(b)}, Reply: maps.Tuple{Dst: at(b)}}, false},
		"from the lost address":   {func(f *Filter) { f.Member(3, a) }, maps.Flow{InIf: 3, Orig: maps.Tuple{Src: at(a)}}, true},
		"to the lost address":     {func(f *Filter) { f.Member(3, a) }, maps.Flow{OutIf: 3, Reply: maps.Tuple{Src: at(a)}}, true},
		"its other address":       {func(f *Filter) { f.Member(3, a) }, maps.Flow{InIf: 3, Orig: maps.Tuple{Src: at(b)}}, false},
		"the address of another":  {func(f *Filter) { f.Member(3, a) }, maps.Flow{InIf: 4, Orig: maps.Tuple{Src: at(a)}}, false},
		"a member without device": {func(f *Filter) { f.Member(0, a) }, maps.Flow{Orig: maps.Tuple{Src: at(a)}}, false},
	} {
		table := &fakeFlows{flows: []maps.Flow{tt.flow}, err: errTable}
		flows := NewFlows(table)
		var f Filter
		tt.filter(&f)
		if err := flows.Drop(&f); tt.matches && !errors.Is(err, errTable) {
			t.Errorf("%s: %v", name, err)
		}
		table.err = nil
		if err := flows.Drop(&Filter{}); err != nil || (len(table.flows) == 0) != tt.matches {
			t.Errorf("%s: %v; left are %v", name, err, table.flows)
		}
		table.flows, table.err = []maps.Flow{tt.flow}, errTable
		if err := flows.Drop(&Filter{}); err != nil {
			t.Errorf("%s: the flows are removed again: %v", name, err)
		}
	}
}
