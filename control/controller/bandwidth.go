// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"math"

	"github.com/fairlead-net/fairlead/control/model"
)

const (
	// header is the size of an Ethernet header with a VLAN tag, in bytes. The MTU does not
	// include it.
	header = 18
	// maxHorizon is how many seconds' worth of its rate a limit can accumulate in the kernel.
	// The exact bound is a little more than four.
	maxHorizon = 4
	maxRate    = 1_000_000_000_000_000 // bits per second, the maximum in Kubernetes too
	maxBurst   = 8 * math.MaxUint32    // bits; the kernel counts bytes
)

// checkBandwidth refuses limits that no packet could pass, or that have no meaning.
func checkBandwidth(n *model.Network, b model.Bandwidth) error {
	if !b.IsZero() && n.Has().Endpoint == model.NoDevice {
		return model.Refuse(model.ErrInvalid, "network %s has no interfaces whose bandwidth could be limited (leave the limits out)", n.Name)
	}
	if !b.IsZero() && !n.Has().Entries {
		return model.Refuse(model.ErrInvalid, "no program of Fairlead sees the packets of network %s (driver %s), so bandwidth cannot be limited there (leave the limits out)", n.Name, n.Driver)
	}
	packet := uint64(cmp.Or(n.MTU, model.DefaultMTU)+header) * 8
	for _, d := range []struct {
		name  string
		limit model.Limit
	}{{"ingress", b.Ingress}, {"egress", b.Egress}} {
		if err := checkLimit(d.name, d.limit, packet); err != nil {
			return err
		}
	}
	return nil
}

// checkLimit checks that a limit lets through packets of the given size in bits.
func checkLimit(name string, l model.Limit, packet uint64) error {
	least := (packet + maxHorizon - 1) / maxHorizon
	switch {
	case l.IsZero():
		return nil
	case l.Rate == 0:
		return model.Refuse(model.ErrInvalid, "%s burst of %d bits without a rate (give both, or neither)", name, l.Burst)
	case l.Burst == 0:
		return model.Refuse(model.ErrInvalid, "%s rate of %d bit/s without a burst (give both, or neither)", name, l.Rate)
	case l.Rate < least || l.Rate > maxRate:
		return model.Refuse(model.ErrInvalid, "%s rate of %d bit/s is out of range (%d to %d)", name, l.Rate, least, uint64(maxRate))
	case l.Burst < packet || l.Burst > maxBurst:
		return model.Refuse(model.ErrInvalid, "%s burst of %d bits is out of range (%d, one packet of this network, to %d)", name, l.Burst, packet, uint64(maxBurst))
	}
	return nil
}
