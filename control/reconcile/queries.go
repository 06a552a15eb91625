// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// Check inspects a sandbox and its endpoints immediately and repairs them. It returns what it
// could not repair; the error is a [model.ErrVanished] if the namespace no longer exists, by the
// rules of [Reconciler.VanishedSandboxes].
func (r *Reconciler) Check(ctx context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.turns.WaitFree(ctx, id); err != nil {
		return err
	}
	defer r.turns.End([]string{id})
	again, err := r.checkAll(ctx, id)
	if again {
		_, err = r.checkAll(ctx, id)
	}
	return err
}

// Compare compares an endpoint's interface in its sandbox with what the runtime was given: the
// name must be the endpoint's, and the default routes via these gateways must use the interface.
// Differences, which a program in the sandbox made, are reported and not repaired.
func (r *Reconciler) Compare(endpointID string, gateways []netip.Addr) error {
	r.mu.Lock()
	e := r.objects.Endpoints[endpointID]
	if e == nil || e.Want == nil || r.objects.Sandboxes[e.Want.SandboxID] == nil {
		r.mu.Unlock()
		return fmt.Errorf("endpoint %s does not exist", model.ShortID(endpointID))
	}
	b, peer, name := r.objects.Sandboxes[e.Want.SandboxID].Sandbox, e.Ends.Peer, e.Want.IfName
	r.mu.Unlock()
	return r.namespaces.Compare(&b, peer, name, gateways)
}

// checkAll runs one pass over a sandbox and its endpoints. again means that it deleted a pair without its other end, which
// another pass creates.
func (r *Reconciler) checkAll(ctx context.Context, id string) (again bool, err error) {
	b := r.objects.Sandboxes[id]
	if b == nil || r.snap.Sandbox(id) == nil {
		return false, fmt.Errorf("sandbox %s does not exist", model.ShortID(id))
	}
	start := time.Now()
	p, err := r.newPass(ctx, r.snap, device.State{})
	if err != nil {
		return false, err
	}
	p.Repair = true
	p.Sandboxes[id] = b
	p.TouchSandbox(id)
	p.run()
	r.finish(p, "resync", start, nil)
	for id := range p.Endpoints {
		again = again || r.missing[id]
	}
	return again, p.unrepaired(b)
}

// unrepaired returns what a pass over a sandbox could not repair.
func (p *pass) unrepaired(b *objects.Sandbox) error {
	errs := p.Errs
	for _, e := range p.Endpoints {
		if e.Dirty && !b.Vanished() {
			errs = append(errs, errors.New(e.LastErr))
		}
	}
	switch {
	case b.Vanished() && p.r.hasDevice(b.ID):
		errs = append(errs, fmt.Errorf("sandbox %s: its network namespace exists, but not at %s (bind-mount it there again)", model.ShortID(b.ID), b.Want.NetNS))
	case b.Vanished():
		errs = append(errs, &model.Refusal{Kind: model.ErrVanished, Text: fmt.Sprintf(
			"sandbox %s: its network namespace %s no longer exists", model.ShortID(b.ID), b.Want.NetNS)})
	case b.Dirty:
		errs = append(errs, errors.New(b.LastErr))
	}
	return errors.Join(errs...)
}

// VanishedSandboxes lists the sandboxes whose namespace ended at least that long ago: there is
// none at its path, and none of its devices is left. A namespace that still exists without a
// path, or that this process cannot see, does not count.
func (r *Reconciler) VanishedSandboxes(least time.Duration) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []string
	for id, b := range r.objects.Sandboxes {
		if b.VanishedFor(least) && !r.hasDevice(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// hasDevice reports whether an endpoint of the sandbox has a device, or may have one.
func (r *Reconciler) hasDevice(id string) bool {
	for _, e := range r.objects.MadeOf(r.snap, id) {
		if e.Ends.Host == 0 {
			continue // it would be in the sandbox
		}
		if _, err := r.nl.Link(e.Ends.Host); !errors.Is(err, rtnl.ErrNoDevice) {
			return true
		}
	}
	return false
}

// InnerEnd reports where the inner end of an engine-managed endpoint is. It reads the kernel,
// since callers ask about changes that others made a moment ago.
func (r *Reconciler) InnerEnd(ep *model.Endpoint) (model.InnerEnd, error) {
	r.mu.Lock()
	e := r.objects.Endpoints[ep.ID]
	if e == nil || e.Ends.Host == 0 {
		r.mu.Unlock()
		return model.InnerDeleted, nil
	}
	kind, ends := e.Kind, e.Ends
	r.mu.Unlock()
	return kind.InnerEnd(ep, ends)
}

// Stats returns the statistics so far.
func (r *Reconciler) Stats() report.Stats { return r.stats.Get() }
