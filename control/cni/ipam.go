// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
)

// delegates reports whether another plugin manages the addresses.
func (c *call) delegates() bool { return c.IPAM.Type != "" }

// lease asks the IPAM plugin for addresses; nil without one.
func (c *call) lease(ctx context.Context) (*current.Result, error) {
	if !c.delegates() {
		return nil, nil
	}
	r, err := invoke.DelegateAdd(ctx, c.IPAM.Type, c.raw, nil)
	if err != nil {
		return nil, err
	}
	lease, err := current.NewResultFromResult(r)
	if err == nil {
		err = usable(lease)
	}
	if err != nil {
		return nil, both(err, c.release(ctx))
	}
	return lease, nil
}

// usable refuses what the network would not do for the IPAM plugin. Its default
// route is the network's own.
func usable(lease *current.Result) error {
	if len(lease.IPs) == 0 {
		return refuse(types.ErrInvalidNetworkConfig, "the IPAM plugin gave no address")
	}
	for _, r := range lease.Routes {
		if length, _ := r.Dst.Mask.Size(); length != 0 {
			return refuse(types.ErrUnsupportedField, "the IPAM plugin's route to %s is not supported (leave out all but the default route)", r.Dst.String())
		}
	}
	return nil
}

func (c *call) release(ctx context.Context) error {
	return invoke.DelegateDel(ctx, c.IPAM.Type, c.raw, nil)
}

func (c *call) checkLease(ctx context.Context) error {
	return invoke.DelegateCheck(ctx, c.IPAM.Type, c.raw, nil)
}

func (c *call) leaseStatus(ctx context.Context) error {
	return invoke.DelegateStatus(ctx, c.IPAM.Type, c.raw, nil)
}

func (c *call) leaseGC(ctx context.Context) error {
	return invoke.DelegateGC(ctx, c.IPAM.Type, c.raw, nil)
}
