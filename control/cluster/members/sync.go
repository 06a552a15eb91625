// SPDX-License-Identifier: Apache-2.0

package members

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/model"
)

const (
	retryMin   = 200 * time.Millisecond // after the store did not answer, initially
	retryMax   = 5 * time.Second
	tick       = 5 * time.Second
	verifyEach = 5 * time.Minute // between full comparisons with the store
	releaseTry = 16              // attempts to change a shard that other nodes change too
)

// Run keeps the store as the local state is, until ctx ends.
func (m *Members) Run(ctx context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	wait, verified := retryMin, time.Now()
	var retry <-chan struct{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.wake:
			if retry != nil {
				continue // nothing can be written before
			}
		case <-retry:
		case <-ticker.C:
			m.touchDue()
			if time.Since(verified) > verifyEach {
				m.Verify()
				verified = time.Now()
			}
			continue
		}
		retry = nil
		if m.syncDirty(ctx) {
			wait = retryMin
			continue
		}
		retry = kv.Again(ctx, m.cfg.Store, wait)
		wait = min(2*wait, retryMax)
	}
}

// Publish brings a network up to date in the store at once. If that fails, Run does it later.
func (m *Members) Publish(ctx context.Context, id string) error { return m.sync(ctx, id, changes) }

// syncDirty brings all scheduled networks up to date, and reports whether it did. Those that it could
// not stay scheduled.
func (m *Members) syncDirty(ctx context.Context) (done bool) {
	m.mu.Lock()
	work := m.dirty
	m.dirty = map[string]scope{}
	m.mu.Unlock()
	done = true
	for _, id := range slices.Sorted(maps.Keys(work)) {
		err := m.sync(ctx, id, work[id])
		m.note(id, err)
		if err == nil {
			continue
		}
		done = false
		m.mu.Lock()
		if before, ok := m.dirty[id]; !ok || before < work[id] {
			m.dirty[id] = work[id]
		}
		m.mu.Unlock()
	}
	return done
}

// note logs an error once, except that the store does not answer, which is logged elsewhere.
func (m *Members) note(id string, err error) {
	m.mu.Lock()
	n := m.network(id)
	text := ""
	if err != nil && !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, context.Canceled) {
		text = err.Error()
	}
	isNew := text != "" && text != n.logged
	n.logged = text
	m.mu.Unlock()
	if isNew {
		m.cfg.Log.Warn("cannot publish this node's members of a network; trying again", "network", model.ShortID(id), "err", err)
	}
}

// Waiting returns how many networks are not up to date in the store.
func (m *Members) Waiting() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.dirty)
}

// sync publishes the members of a network, and releases the addresses of those that are gone.
func (m *Members) sync(ctx context.Context, id string, s scope) error {
	m.mu.Lock()
	n := m.network(id)
	m.mu.Unlock()
	if err := n.take(ctx); err != nil {
		return err
	}
	defer n.leave()
	if s == all {
		n.loaded = false
	}
	if err := m.load(ctx, n); err != nil {
		return err
	}
	want := m.desired(id)
	lost, err := m.publish(ctx, n, want)
	if err != nil {
		n.loaded = false
		return err
	}
	for _, member := range lost {
		if err := m.release(ctx, id, member, want); err != nil {
			m.mu.Lock()
			m.touch(id, all) // the released member is no longer in a chunk
			m.mu.Unlock()
			return err
		}
	}
	if s != all {
		return nil
	}
	young, err := m.verify(ctx, id, want)
	if err == nil && !young && len(want) == 0 {
		err = m.used.drop(ctx, id)
	}
	return err
}

// publish writes the chunks that differ, and returns the members that it removed from them.
func (m *Members) publish(ctx context.Context, n *network, want map[string]model.Member) (lost []model.Member, err error) {
	now := map[int]map[string]model.Member{}
	missing := maps.Clone(want)
	for i, members := range n.chunks {
		now[i] = map[string]model.Member{}
		for id, has := range members {
			wanted, ok := missing[id]
			if ok {
				now[i][id] = wanted
				delete(missing, id)
			}
			if !ok || wanted.IPv4 != has.IPv4 || wanted.IPv6 != has.IPv6 || wanted.MAC != has.MAC {
				lost = append(lost, has)
			}
		}
	}
	work := &network{chunks: now}
	for _, id := range slices.Sorted(maps.Keys(missing)) {
		i := work.chunkFor(id)
		if now[i] == nil {
			now[i] = map[string]model.Member{}
		}
		now[i][id] = missing[id]
	}
	for _, i := range slices.Sorted(maps.Keys(now)) {
		if _, has := n.chunks[i]; has && maps.EqualFunc(n.chunks[i], now[i], sameMember) {
			continue
		}
		// One chunk a commit keeps it small. A crash in between leaves what the next start repairs.
		if err := m.cfg.Store.Commit(ctx, nil, m.putChunk(n, i, now[i])); err != nil {
			return nil, err
		}
		if n.chunks[i] = now[i]; len(now[i]) == 0 {
			delete(n.chunks, i)
		}
	}
	return lost, nil
}

// release releases what a member held, except what another one has now.
func (m *Members) release(ctx context.Context, network string, member model.Member, want map[string]model.Member) error {
	wanted := holders(want)
	for _, f := range model.Families {
		if a := member.Addr(f); a.IsValid() && wanted[a] != member.ID {
			if err := m.handAddress(ctx, network, a, member.ID, wanted[a]); err != nil {
				return err
			}
		}
	}
	if want[member.ID].MAC == member.MAC {
		return nil
	}
	return m.releaseMAC(ctx, network, member)
}

// holders returns the IDs of the members that should hold addresses.
func holders(want map[string]model.Member) map[netip.Addr]string {
	wanted := map[netip.Addr]string{}
	for _, member := range want {
		for _, f := range model.Families {
			if a := member.Addr(f); a.IsValid() {
				wanted[a] = member.ID
			}
		}
	}
	return wanted
}

// handAddress hands an address that a member of this node held to another one, or releases it if to is
// "".
func (m *Members) handAddress(ctx context.Context, network string, a netip.Addr, from, to string) error {
	return m.change(ctx, network, a, func(s *shard) error {
		by, ok := s.Held[a]
		switch {
		case !ok || by.Node != m.cfg.Node().ID || by.Endpoint != from:
		case to == "":
			s.release(a)
		default:
			by.Endpoint = to
			s.hold(a, by)
		}
		return nil
	})
}

// change changes the shard of an address, again if another node does at the same time.
func (m *Members) change(ctx context.Context, network string, a netip.Addr, do func(*shard) error) error {
	var err error
	for range releaseTry {
		b := newBatch(m.cfg.Store)
		var s *shard
		if s, err = b.shard(ctx, network, a); err != nil {
			return err
		}
		if err = do(s); err != nil || !s.changed {
			return err
		}
		if err = b.commit(ctx); !errors.Is(err, kv.ErrConflict) {
			return err
		}
	}
	return err
}

func (m *Members) releaseMAC(ctx context.Context, network string, member model.Member) error {
	if member.MAC == model.MACOf(member.IPv4) || member.MAC.IsZero() {
		return nil // follows from the address: there is no claim
	}
	key := layout.MACKey(network, member.MAC)
	var by model.AddressHolder
	rev, err := layout.Load(ctx, m.cfg.Store, key, &by)
	if err != nil || rev == layout.Absent || by.Node != m.cfg.Node().ID || by.Endpoint != member.ID {
		return err
	}
	err = m.cfg.Store.Commit(ctx, []kv.Cond{kv.If(key, rev)}, kv.Delete(key))
	if errors.Is(err, kv.ErrConflict) {
		return nil // it belongs to another endpoint now
	}
	return err
}

// verify compares everything that this node holds in a network with what it should hold. young: it
// holds an address whose grace period has not ended.
func (m *Members) verify(ctx context.Context, id string, want map[string]model.Member) (young bool, err error) {
	wanted := holders(want)
	entries, err := m.cfg.Store.List(ctx, layout.ShardsOf(id))
	if err != nil {
		return false, err
	}
	node, held := m.cfg.Node().ID, map[netip.Addr]bool{}
	for _, e := range entries {
		var s layout.Shard
		if err := layout.Decode(e.Key, e.Value, &s); err != nil {
			return false, err
		}
		for a, by := range s.Held {
			switch {
			case by.Node != node:
			case wanted[a] == by.Endpoint:
				held[a] = true
			case wanted[a] != "": // a daemon was killed while one endpoint took it over from another
				held[a] = true
				if err := m.handAddress(ctx, id, a, by.Endpoint, wanted[a]); err != nil {
					return false, err
				}
			case m.cfg.Now().Sub(by.Since) < m.cfg.Grace:
				young = true
				m.later(id)
			default:
				m.cfg.Log.Info("released an address that no endpoint has", "network", model.ShortID(id), "address", a)
				if err := m.handAddress(ctx, id, a, by.Endpoint, ""); err != nil {
					return false, err
				}
			}
		}
	}
	if err := m.verifyMACs(ctx, id, want); err != nil {
		return false, err
	}
	return young, m.holdMissing(ctx, id, wanted, held)
}

// later schedules another comparison after the grace period.
func (m *Members) later(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.due[id] = m.cfg.Now().Add(m.cfg.Grace)
}

// touchDue schedules the networks whose grace period ended.
func (m *Members) touchDue() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, at := range m.due {
		if !m.cfg.Now().Before(at) {
			delete(m.due, id)
			m.touch(id, all)
		}
	}
}

func (m *Members) verifyMACs(ctx context.Context, id string, want map[string]model.Member) error {
	entries, err := m.cfg.Store.List(ctx, layout.MACsOf(id))
	if err != nil {
		return err
	}
	for _, e := range entries {
		var by model.AddressHolder
		if err := layout.Decode(e.Key, e.Value, &by); err != nil {
			return err
		}
		mac := strings.TrimPrefix(e.Key, layout.MACsOf(id))
		if by.Node != m.cfg.Node().ID || want[by.Endpoint].MAC.String() == mac || m.cfg.Now().Sub(by.Since) < m.cfg.Grace {
			continue
		}
		err := m.cfg.Store.Commit(ctx, []kv.Cond{kv.If(e.Key, e.Rev)}, kv.Delete(e.Key))
		if err != nil && !errors.Is(err, kv.ErrConflict) {
			return err
		}
	}
	return nil
}

// holdMissing takes the addresses of living endpoints that the store does not hold, as after it was
// replaced by an empty one.
func (m *Members) holdMissing(ctx context.Context, id string, wanted map[netip.Addr]string, held map[netip.Addr]bool) error {
	for _, a := range slices.SortedFunc(maps.Keys(wanted), netip.Addr.Compare) {
		if held[a] {
			continue
		}
		err := m.change(ctx, id, a, func(s *shard) error {
			by, taken := s.Held[a]
			if taken && (by.Node != m.cfg.Node().ID || by.Endpoint != wanted[a]) {
				return fmt.Errorf("address %v of an endpoint on this node is held by node %s (remove one of the two endpoints)", a, m.nodeName(ctx, by.Node))
			}
			if !taken {
				s.hold(a, model.AddressHolder{Node: m.cfg.Node().ID, Endpoint: wanted[a], Since: m.cfg.Now().UTC()})
			}
			return nil
		})
		if errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrConflict) {
			return err
		}
		if err != nil {
			m.cfg.Log.Error("two nodes have the same address; one of them is not reached", "network", model.ShortID(id), "err", err)
			m.later(id) // the other endpoint may be removed
		}
	}
	return nil
}
