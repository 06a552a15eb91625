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
)

// Check inspects a sandbox and its endpoints immediately and repairs them. It returns what it
// could not repair; the error is a [model.ErrVanished] if the namespace no longer exists, by the
// rules of [Reconciler.VanishedSandboxes].
func (r *Reconciler) Check(ctx context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.checkAll(ctx, id)
	if err != nil && r.rerun {
		// The first pass deleted a pair without its other end; this one creates it.
		err = r.checkAll(ctx, id)
	}
	return err
}

// Compare compares an endpoint's interface in its sandbox with what the runtime was given: the
// name must be the endpoint's, and the default routes via these gateways must use the interface.
// Differences, which a program in the sandbox made, are reported and not repaired.
func (r *Reconciler) Compare(endpointID string, gateways []netip.Addr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.endpoints[endpointID]
	if e == nil || e.want == nil || r.sandboxes[e.want.SandboxID] == nil {
		return fmt.Errorf("endpoint %s does not exist", model.ShortID(endpointID))
	}
	b := r.sandboxes[e.want.SandboxID]
	return r.namespaces.Compare(&b.Sandbox, e.ends.Peer, e.want.IfName, gateways)
}

// checkAll runs one pass over a sandbox and its endpoints.
func (r *Reconciler) checkAll(ctx context.Context, id string) error {
	b := r.sandboxes[id]
	if b == nil || r.snap.Sandbox(id) == nil {
		return fmt.Errorf("sandbox %s does not exist", model.ShortID(id))
	}
	start := time.Now()
	p, err := r.newPass(ctx, r.snap, device.State{})
	if err != nil {
		return err
	}
	p.repair = true
	p.boxes[id] = b
	p.touchSandbox(id)
	p.run()
	r.finish(p, "resync", start, nil)
	return p.unrepaired(b)
}

// unrepaired returns what a pass over a sandbox could not repair.
func (p *pass) unrepaired(b *sandbox) error {
	errs := p.errs
	for _, e := range p.eps {
		if e.dirty && !b.Vanished() {
			errs = append(errs, errors.New(e.lastErr))
		}
	}
	switch {
	case b.Vanished() && p.r.hasDevice(b.ID):
		errs = append(errs, fmt.Errorf("sandbox %s: its network namespace exists, but not at %s (bind-mount it there again)", model.ShortID(b.ID), b.Want.NetNS))
	case b.Vanished():
		errs = append(errs, &model.Refusal{Kind: model.ErrVanished, Text: fmt.Sprintf(
			"sandbox %s: its network namespace %s no longer exists", model.ShortID(b.ID), b.Want.NetNS)})
	case b.dirty:
		errs = append(errs, errors.New(b.lastErr))
	}
	return errors.Join(errs...)
}
