// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/entries"
	"github.com/fairlead-net/fairlead/control/reconcile/netns"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// pass is one run over some of the objects: those that changed, or those that need a repair.
type pass struct {
	r   *Reconciler
	ctx context.Context
	s   *desired.Snapshot

	host *device.Host

	first       bool // the first one after a start: it adopts, and counts nothing as repaired
	repair      bool // no caller waits: errors are logged and repairs counted
	netsTouched bool

	// What the pass works on, by ID.
	nets  map[string]*network
	boxes map[string]*sandbox // to be configured in their namespaces
	eps   map[string]*endpoint
	pubs  map[uint32]*publish
	// What the pass removes.
	removedNets  []*network
	removedBoxes []*sandbox
	removedEps   []*endpoint
	// Objects that are new in this snapshot; a missing namespace is then the caller's error.
	fresh map[string]bool

	// Devices of networks and endpoints that are not configured yet, by ID.
	netDevices map[string]device.Found
	epDevices  map[string]device.Found

	old, put entries.Set
	detached []uint32 // devices to detach programs from
	flows    flowFilter
	repairs  Repairs
	errs     []error
}

// newPass returns a pass towards a snapshot. state is what was read of the host, or the zero State.
func (r *Reconciler) newPass(ctx context.Context, s *desired.Snapshot, state device.State) (*pass, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.passes++
	return &pass{
		r: r, ctx: ctx, s: s, host: device.NewHost(r.nl, state),
		nets: make(map[string]*network), boxes: make(map[string]*sandbox),
		eps: make(map[string]*endpoint), pubs: make(map[uint32]*publish),
		fresh:      make(map[string]bool),
		netDevices: make(map[string]device.Found),
		epDevices:  make(map[string]device.Found),
		repairs:    newRepairs(),
	}, nil
}

// count counts repairs.
func (p *pass) count(kind string, n int) {
	if p.repair && n > 0 {
		p.repairs[kind] += uint64(n)
	}
}

func (p *pass) countChanges(ch rtnl.Changes) {
	p.count(RepairDevice, ch.Devices)
	p.count(RepairAddress, ch.Addresses)
	p.count(RepairRoute, ch.Routes)
	p.count(RepairSysctl, ch.Sysctls)
}

// fail records an error.
func (p *pass) fail(err error) {
	if err != nil {
		p.errs = append(p.errs, err)
	}
}

// setErr records an object's error (nil clears it). During repairs a new error is logged;
// otherwise it is returned to the caller.
func (p *pass) setErr(lastErr *string, what, id string, err error) {
	if err == nil {
		*lastErr = ""
		return
	}
	err = fmt.Errorf("%s %s: %w", what, model.ShortID(id), err)
	if !p.repair {
		p.fail(err)
	} else if *lastErr != err.Error() {
		p.r.log.Error("cannot repair", "err", err)
		p.r.stats.fail(err)
	}
	*lastErr = err.Error()
}

// diff collects what the snapshot changes compared to before, the one that was applied last. The
// zero Snapshot stands for none.
func (p *pass) diff(before *desired.Snapshot) {
	p.diffNetworks(before)
	p.diffSandboxes(before)
	p.diffEndpoints(before)
	p.diffPublishes(before)
}

// hasDevice reports whether a network, which may be nil, should have a host port.
func hasDevice(n *model.Network) bool { return n != nil && n.Has().OnHost != model.NoDevice && !n.Idle }

func (p *pass) diffNetworks(before *desired.Snapshot) {
	for c := range desired.DiffNetworks(before, p.s) {
		n := p.r.networks[c.ID]
		switch {
		case hasDevice(c.New):
			if n == nil {
				n = &network{id: c.ID}
				p.r.networks[c.ID] = n
				p.fresh[c.ID] = true
			}
			n.want = c.New
			p.touchNetwork(n)
		case n != nil:
			n.want = nil
			p.removedNets = append(p.removedNets, n)
			p.netsTouched = true
		}
	}
}

// touchNetwork adds a network to the pass, and its endpoints, whose entries depend on it.
func (p *pass) touchNetwork(n *network) {
	p.nets[n.id] = n
	p.netsTouched = true
	p.touchEndpoints(p.s.Members(n.id))
}

// touchEndpoints adds to the pass those of the endpoints that it knows and that are not being
// removed.
func (p *pass) touchEndpoints(eps iter.Seq[*model.Endpoint]) {
	for ep := range eps {
		if e := p.r.endpoints[ep.ID]; e != nil && e.want != nil {
			p.eps[ep.ID] = e
		}
	}
}

func (p *pass) diffSandboxes(before *desired.Snapshot) {
	for c := range desired.DiffSandboxes(before, p.s) {
		b := p.r.sandboxes[c.ID]
		switch {
		case c.New == nil:
			if b != nil { // it keeps Want, which says what to remove
				p.removedBoxes = append(p.removedBoxes, b)
			}
			continue
		case b == nil:
			b = &sandbox{Sandbox: netns.Sandbox{ID: c.ID}}
			p.r.sandboxes[c.ID] = b
			p.fresh[c.ID] = true
			p.boxes[c.ID] = b
		case b.Want == nil || b.Want.NetNS != c.New.NetNS:
			p.boxes[c.ID] = b
			p.touchSandbox(c.ID)
		}
		b.Want = c.New
	}
}

// touchSandbox adds a sandbox's endpoints to the pass.
func (p *pass) touchSandbox(id string) { p.touchEndpoints(p.s.EndpointsOf(id)) }

func (p *pass) diffEndpoints(before *desired.Snapshot) {
	for c := range desired.DiffEndpoints(before, p.s) {
		e := p.r.endpoints[c.ID]
		if c.New == nil || c.New.SandboxID == "" {
			if e != nil {
				e.want = nil
				p.removedEps = append(p.removedEps, e)
				delete(p.eps, c.ID)
			}
			continue
		}
		if n := p.s.Network(c.New.NetworkID); n == nil || n.Has().Endpoint == model.NoDevice {
			continue
		}
		if e == nil {
			e = &endpoint{id: c.ID}
			p.r.endpoints[c.ID] = e
			p.fresh[c.ID] = true
		}
		p.noteLost(e, c.New)
		e.want, e.kind = c.New, p.r.kinds.Of(p.s.Network(c.New.NetworkID))
		p.eps[c.ID] = e
	}
}

// noteLost schedules the removal of the flows of addresses that an endpoint no longer has.
func (p *pass) noteLost(e *endpoint, want *model.Endpoint) {
	if e.want == nil {
		return
	}
	for _, f := range model.Families {
		if a := e.want.Addr(f); a.IsValid() && want.Addr(f) != a {
			p.flows.member(e.ends.Host, a)
		}
	}
}

func (p *pass) diffPublishes(before *desired.Snapshot) {
	r := p.r
	touched := make(map[string]bool) // endpoints
	for c := range desired.DiffPublishes(before, p.s) {
		b := r.publishes[c.ID]
		if b != nil {
			touched[b.want.EndpointID] = true
			r.unserve(b)
		}
		if c.New == nil {
			if b != nil {
				p.flows.publish(c.ID)
				p.old.Publishes = entries.AppendRuns(p.old.Publishes, b.runs)
				delete(r.publishes, c.ID)
			}
			continue
		}
		if b == nil {
			b = &publish{id: c.ID}
			r.publishes[c.ID] = b
		}
		b.want = c.New
		r.serve(b)
		touched[c.New.EndpointID] = true
		p.pubs[c.ID] = b
	}
	for id := range touched {
		e := r.endpoints[id]
		if published := len(r.serving[id]) > 0; e != nil && e.want != nil && e.published != published {
			p.eps[id] = e
		}
	}
}

// serve records that a publish has its endpoint as the backend.
func (r *Reconciler) serve(b *publish) {
	of := r.serving[b.want.EndpointID]
	if of == nil {
		of = make(map[uint32]*publish)
		r.serving[b.want.EndpointID] = of
	}
	of[b.id] = b
}

func (r *Reconciler) unserve(b *publish) {
	of := r.serving[b.want.EndpointID]
	delete(of, b.id)
	if len(of) == 0 {
		delete(r.serving, b.want.EndpointID)
	}
}

// run does the work in an order in which no packet can pass before its checks are in place:
// create devices (still down), write entries, attach programs, then bring the devices up and
// configure the sandboxes' namespaces. Removal is in reverse order.
func (p *pass) run() {
	p.makeNamespaces()
	for _, id := range slices.Sorted(maps.Keys(p.nets)) {
		n := p.nets[id]
		err := p.makeHostPort(n)
		n.dirty = err != nil
		p.setErr(&n.lastErr, "network", id, err)
	}
	for _, e := range p.sortedEndpoints() {
		p.makeEndpoint(e)
	}
	p.collect()
	p.fail(p.writeEntries())
	p.attach()
	p.finishNetworks()
	p.finishSandboxes()
	p.announce()
	p.remove()
	p.dropFlows()
}

// sortedEndpoints returns the pass's endpoints in order of attachment, in which the devices of a
// sandbox are created.
func (p *pass) sortedEndpoints() []*endpoint {
	return slices.SortedFunc(maps.Values(p.eps), func(a, b *endpoint) int {
		if a.want.SandboxID == b.want.SandboxID && a.want.Order != b.want.Order {
			return a.want.Order - b.want.Order
		}
		return strings.Compare(a.id, b.id)
	})
}
