// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"errors"
	"slices"

	"github.com/fairlead-net/fairlead/maps"
)

// work is entries to write and to delete. Writes come first, so that an address that moves is reached
// all the time.
type work struct {
	fdb       []maps.PeerFDBEntry
	neigh     []maps.PeerNeighbour
	fdbGone   []maps.PeerFDBEntry
	neighGone []maps.PeerNeighbour
	flood     map[uint32][]uint16 // lists of nodes, by network
	err       error               // of do
}

func (w *work) add(o work) {
	w.fdb, w.neigh = append(w.fdb, o.fdb...), append(w.neigh, o.neigh...)
	w.fdbGone, w.neighGone = append(w.fdbGone, o.fdbGone...), append(w.neighGone, o.neighGone...)
	for net, nodes := range o.flood {
		w.setFlood(net, nodes)
	}
}

func (w *work) setFlood(net uint32, nodes []uint16) {
	if w.flood == nil {
		w.flood = map[uint32][]uint16{}
	}
	w.flood[net] = nodes
}

func (w *work) empty() bool {
	return len(w.fdb)+len(w.neigh)+len(w.fdbGone)+len(w.neighGone)+len(w.flood) == 0
}

// do does the work, and keeps what failed.
func (w *work) do(t *Tables) {
	var errs []error
	done := func(err error) bool {
		errs = append(errs, err)
		return err == nil
	}
	// FDB first: a neighbour entry makes members send.
	w.fdb = slices.DeleteFunc(w.fdb, func(e maps.PeerFDBEntry) bool { return done(t.FDB.Put(e)) })
	w.neigh = slices.DeleteFunc(w.neigh, func(e maps.PeerNeighbour) bool { return done(t.Neighbours.Put(e)) })
	for net, nodes := range w.flood {
		if _, err := t.Flood.Set(net, nodes); done(err) {
			delete(w.flood, net)
		}
	}
	w.neighGone = slices.DeleteFunc(w.neighGone, func(e maps.PeerNeighbour) bool {
		_, err := t.Neighbours.Delete(e.Net, e.Addr)
		return done(err)
	})
	w.fdbGone = slices.DeleteFunc(w.fdbGone, func(e maps.PeerFDBEntry) bool {
		_, err := t.FDB.Delete(e.Net, e.MAC)
		return done(err)
	})
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) > 1 {
		errs = errs[:1] // thousands may be the same
	}
	w.err = errors.Join(errs...)
}
