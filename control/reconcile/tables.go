// SPDX-License-Identifier: Apache-2.0

package reconcile

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
	// Verify reads the entries back and restores those that others changed.
	Verify() (restored int, err error)
	// VerifySome verifies the next part of a large table, and reports whether there are more
	// parts in this round.
	VerifySome() (restored int, more bool, err error)
}

// AddrTable is the table of the host's addresses.
type AddrTable interface {
	Sync([]netip.Addr) (written, deleted int, err error)
}

// TrafficTable is the table of the traffic counters of networks.
type TrafficTable interface {
	ResetTraffic(net uint32) error
}

// Tables are the datapath's tables.
type Tables struct {
	Endpoints  Table[maps.Endpoint]
	FDB        Table[maps.FDBEntry]
	Neighbours Table[maps.Neighbour]
	Publishes  Table[maps.Publish]
	Subnets    Table[maps.Subnet]
	Uplinks    Table[maps.Uplink]
	HostAddrs  AddrTable
	HostNets   Table[maps.Subnet]
	Flows      FlowTable
	Traffic    TrafficTable
}

// TablesOf returns the tables of a Set.
func TablesOf(s *maps.Set) Tables {
	return Tables{
		Endpoints: s.Endpoints, FDB: s.FDB, Neighbours: s.Neighbours, Publishes: s.Publishes,
		Subnets: s.Subnets, Uplinks: s.Uplinks, HostAddrs: s.HostAddrs, HostNets: s.HostNets,
		Flows: s.Conntrack, Traffic: s.Counters,
	}
}

// tables writes the tables of networks, endpoints and publishes.
type tables struct {
	Tables
	unsynced bool // writing failed: the tables may differ from the objects' entries
}

// write writes entries in dependency order: what an entry refers to is written before it.
func (t *tables) write(s *entries.Set) error {
	return t.noteFailed(errors.Join(
		putAll(t.Subnets, s.Subnets),
		putAll(t.Endpoints, s.Endpoints),
		putAll(t.FDB, s.FDB),
		putAll(t.Neighbours, s.Neighbours),
		putAll(t.Publishes, s.Publishes),
	))
}

// delete deletes entries in the reverse order.
func (t *tables) delete(s *entries.Set) error {
	return t.noteFailed(errors.Join(
		deleteAll(t.Publishes, s.Publishes),
		deleteAll(t.Neighbours, s.Neighbours),
		deleteAll(t.FDB, s.FDB),
		deleteAll(t.Endpoints, s.Endpoints),
		deleteAll(t.Subnets, s.Subnets),
	))
}

// noteFailed records an error of a table, so that the next check writes what is missing.
func (t *tables) noteFailed(err error) error {
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

// sync reads the tables back and makes them contain exactly these entries. It returns how many
// others changed, and 0 if the difference may be due to a write that failed.
func (t *tables) sync(all *entries.Set) (restored int, err error) {
	var errs []error
	for _, sync := range []func() (int, int, error){
		func() (int, int, error) { return t.Subnets.Sync(all.Subnets) },
		func() (int, int, error) { return t.Endpoints.Sync(all.Endpoints) },
		func() (int, int, error) { return t.FDB.Sync(all.FDB) },
		func() (int, int, error) { return t.Neighbours.Sync(all.Neighbours) },
		func() (int, int, error) { return t.Publishes.Sync(all.Publishes) },
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

// verify reads the tables of networks, endpoints and publishes back and restores entries that
// others changed.
func (t *tables) verify() (restored int, err error) {
	var errs []error
	for _, verify := range []func() (int, error){
		t.Subnets.Verify, t.Endpoints.Verify, t.FDB.Verify, t.Neighbours.Verify, t.Publishes.Verify,
	} {
		n, err := verify()
		restored += n
		errs = append(errs, err)
	}
	return restored, errors.Join(errs...)
}

// verifier verifies a part of a table.
type verifier func() (restored int, more bool, err error)

// verifiers returns the verifiers of the same tables.
func (t *tables) verifiers() []verifier {
	return []verifier{
		t.Subnets.VerifySome, t.Endpoints.VerifySome, t.FDB.VerifySome, t.Neighbours.VerifySome, t.Publishes.VerifySome,
	}
}

// verifySome runs verifiers and returns those that have more to verify in this round.
func verifySome(all []verifier) (restored int, rest []verifier, err error) {
	var errs []error
	for _, verify := range all {
		n, more, err := verify()
		restored += n
		if errs = append(errs, err); more {
			rest = append(rest, verify)
		}
	}
	return restored, rest, errors.Join(errs...)
}
