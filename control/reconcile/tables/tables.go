// SPDX-License-Identifier: Apache-2.0

// Package tables writes the tables of networks, endpoints and publishes, and removes flows of what
// no longer exists.
package tables

import (
	"errors"
	"net/netip"

	"github.com/fairlead-net/fairlead/control/reconcile/entries"
	"github.com/fairlead-net/fairlead/maps"
)

// Table is a control-owned table.
type Table[E any] interface {
	PutAll([]E) (written int, err error)
	DeleteAll([]E) (deleted int, err error)
	// Sync makes the table contain exactly these entries, after reading all of them back.
	Sync([]E) (written, deleted int, err error)
	// VerifySome reads the entries back and restores those that others changed, the next part of a
	// large table, and reports whether there are more parts in this round.
	VerifySome() (restored int, more bool, err error)
}

// AddrTable is the table of the host's addresses.
type AddrTable interface {
	Sync([]netip.Addr) (written, deleted int, err error)
}

// Set is the tables of the datapath.
type Set struct {
	Endpoints  Table[maps.Endpoint]
	FDB        Table[maps.FDBEntry]
	Neighbours Table[maps.Neighbour]
	Publishes  Table[maps.Publish]
	Sources    Table[maps.Source]
	Pools      Table[maps.Pool]
	Subnets    Table[maps.Subnet]
	Resolvers  Table[maps.Resolver]
	Egresses   Table[maps.Egress]
	Tunnels    Table[maps.Tunnel]
	VNIs       Table[maps.VNI]
	Uplinks    Table[maps.Uplink]
	HostAddrs  AddrTable
	HostNets   Table[maps.Subnet]
	Flows      FlowTable
	Traffic    TrafficTable
}

// Of returns the tables of pinned maps.
func Of(s *maps.Set) Set {
	return Set{
		Endpoints: s.Endpoints, FDB: s.FDB, Neighbours: s.Neighbours, Publishes: s.Publishes, Sources: s.Sources, Pools: s.Pools, Resolvers: s.Resolvers,
		Subnets: s.Subnets, Egresses: s.Egresses, Tunnels: s.Tunnels, VNIs: s.VNIs, Uplinks: s.Uplinks, HostAddrs: s.HostAddrs, HostNets: s.HostNets,
		Flows: s.Conntrack, Traffic: s.Counters,
	}
}

// Tables writes the tables of networks, endpoints and publishes. The caller serializes all access,
// except to VerifyPart.
type Tables struct {
	set      Set
	unsynced bool         // writing failed: the tables may differ from what should be in them
	rest     []verifiable // of a round of VerifyPart
}

// New returns Tables that write a set.
func New(set Set) *Tables { return &Tables{set: set} }

// Unsynced reports whether the tables may differ from what was written, because that failed.
func (t *Tables) Unsynced() bool { return t.unsynced }

// Write writes entries in dependency order: what an entry refers to is written before it.
func (t *Tables) Write(s *entries.Set) error {
	return t.NoteFailed(errors.Join(
		putAll(t.set.Subnets, s.Subnets),
		putAll(t.set.Egresses, s.Egresses),
		putAll(t.set.Tunnels, s.Tunnels),
		putAll(t.set.Endpoints, s.Endpoints),
		putAll(t.set.Pools, s.Pools),
		putAll(t.set.FDB, s.FDB),
		putAll(t.set.Neighbours, s.Neighbours),
		putAll(t.set.Sources, s.Sources),
		putAll(t.set.Publishes, s.Publishes),
		putAll(t.set.Resolvers, s.Resolvers),
		putAll(t.set.VNIs, s.VNIs), // from now on packets of other nodes arrive
	))
}

// Delete deletes entries in the reverse order.
func (t *Tables) Delete(s *entries.Set) error {
	return t.NoteFailed(errors.Join(
		deleteAll(t.set.VNIs, s.VNIs),
		deleteAll(t.set.Resolvers, s.Resolvers),
		deleteAll(t.set.Publishes, s.Publishes),
		deleteAll(t.set.Sources, s.Sources),
		deleteAll(t.set.Neighbours, s.Neighbours),
		deleteAll(t.set.FDB, s.FDB),
		deleteAll(t.set.Pools, s.Pools),
		deleteAll(t.set.Endpoints, s.Endpoints),
		deleteAll(t.set.Tunnels, s.Tunnels),
		deleteAll(t.set.Egresses, s.Egresses),
		deleteAll(t.set.Subnets, s.Subnets),
	))
}

// NoteFailed records an error of a table, so that the next check writes what is missing.
func (t *Tables) NoteFailed(err error) error {
	t.unsynced = t.unsynced || err != nil
	return err
}

func putAll[E any](t Table[E], es []E) error {
	if len(es) == 0 {
		return nil
	}
	_, err := t.PutAll(es)
	return err
}

func deleteAll[E any](t Table[E], es []E) error {
	if len(es) == 0 {
		return nil
	}
	_, err := t.DeleteAll(es)
	return err
}

// Sync reads the tables back and makes them contain exactly these entries. It returns how many
// others changed, and 0 if the difference may be due to a write that failed.
func (t *Tables) Sync(all *entries.Set) (restored int, err error) {
	var errs []error
	for _, sync := range []func() (int, int, error){
		func() (int, int, error) { return t.set.Subnets.Sync(all.Subnets) },
		func() (int, int, error) { return t.set.Egresses.Sync(all.Egresses) },
		func() (int, int, error) { return t.set.Tunnels.Sync(all.Tunnels) },
		func() (int, int, error) { return t.set.Endpoints.Sync(all.Endpoints) },
		func() (int, int, error) { return t.set.Pools.Sync(all.Pools) },
		func() (int, int, error) { return t.set.FDB.Sync(all.FDB) },
		func() (int, int, error) { return t.set.Neighbours.Sync(all.Neighbours) },
		func() (int, int, error) { return t.set.Sources.Sync(all.Sources) },
		func() (int, int, error) { return t.set.Publishes.Sync(all.Publishes) },
		func() (int, int, error) { return t.set.Resolvers.Sync(all.Resolvers) },
		func() (int, int, error) { return t.set.VNIs.Sync(all.VNIs) },
	} {
		written, deleted, err := sync()
		restored += written + deleted
		errs = append(errs, err)
	}
	if t.unsynced {
		restored = 0
	}
	err = errors.Join(errs...)
	t.unsynced = err != nil
	return restored, err
}

// verifiable is a Table of any entries.
type verifiable interface {
	VerifySome() (restored int, more bool, err error)
}

// owned lists the tables of networks, endpoints and publishes.
func (t *Tables) owned() []verifiable {
	return []verifiable{t.set.Subnets, t.set.Egresses, t.set.Tunnels, t.set.Endpoints, t.set.FDB, t.set.Neighbours, t.set.Publishes, t.set.Sources, t.set.Pools, t.set.Resolvers, t.set.VNIs}
}

// VerifyPart verifies the next part of every table that has more to verify in this round, and
// reports whether one has more after it. It is to be called by one goroutine.
func (t *Tables) VerifyPart() (restored int, more bool, err error) {
	if len(t.rest) == 0 {
		t.rest = t.owned()
	}
	var rest []verifiable
	var errs []error
	for _, table := range t.rest {
		n, more, err := table.VerifySome()
		restored += n
		if errs = append(errs, err); more {
			rest = append(rest, table)
		}
	}
	t.rest = rest
	return restored, len(rest) > 0, errors.Join(errs...)
}
