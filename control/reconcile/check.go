// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// Check looks at a sandbox and its endpoints at once and repairs what is not as
// it should be. An error says what stays wrong; it is a [model.ErrGone] if the
// namespace ended, as [Reconciler.Gone] knows it.
func (r *Reconciler) Check(ctx context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.checkAll(ctx, id)
	if err != nil && r.rerun {
		err = r.checkAll(ctx, id) // a pair without its other end was removed; now it is made
	}
	return err
}

// Compare compares an endpoint's end in its sandbox with what a runtime was told: its
// name is the endpoint's, and the default routes through these gateways lead through
// it. What a program in the sandbox made of them is not repaired.
func (r *Reconciler) Compare(endpointID string, gateways []netip.Addr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.endpoints[endpointID]
	if e == nil || e.want == nil || r.sandboxes[e.want.SandboxID] == nil {
		return fmt.Errorf("endpoint %s is not there", short(endpointID))
	}
	b := r.sandboxes[e.want.SandboxID]
	ns, err := r.nl.OpenSandboxNetNS(b.want.NetNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := rtnl.CompareSandbox(ns, e.peerIf, e.want.IfName, gateways); err != nil {
		return fmt.Errorf("sandbox %s: %w", short(b.id), err)
	}
	return nil
}

// checkAll is one pass over a sandbox and its endpoints.
func (r *Reconciler) checkAll(ctx context.Context, id string) error {
	b := r.sandboxes[id]
	if b == nil || r.snap.Sandboxes[id] == nil {
		return fmt.Errorf("sandbox %s is not there", short(id))
	}
	start := time.Now()
	p, err := r.newPass(ctx, r.snap)
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

// wrong is what a pass over a sandbox left undone.
func (p *pass) unrepaired(b *sandbox) error {
	errs := p.errs
	for _, e := range p.eps {
		if e.dirty && !b.gone {
			errs = append(errs, errors.New(e.lastErr))
		}
	}
	switch {
	case b.gone && p.r.hasDevice(b.id):
		errs = append(errs, fmt.Errorf("sandbox %s: its network namespace lives, but not at %s (bind it there again)", short(b.id), b.want.NetNS))
	case b.gone:
		errs = append(errs, &model.Refusal{Kind: model.ErrGone, Text: fmt.Sprintf(
			"sandbox %s: its network namespace %s is gone", short(b.id), b.want.NetNS)})
	case b.dirty:
		errs = append(errs, errors.New(b.lastErr))
	}
	return errors.Join(errs...)
}
