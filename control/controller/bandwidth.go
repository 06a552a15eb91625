// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"math"

	"github.com/fairlead-net/fairlead/control/model"
)

const (
	// header is what a packet has before what the MTU counts: Ethernet's header with a tag.
	header = 18
	// longestWait is for how many seconds of its rate the kernel lets a limit save up: a
	// little more than four.
	longestWait = 4
	maxRate     = 1_000_000_000_000_000 // bits per second, as Kubernetes has it
	maxBurst    = 8 * math.MaxUint32    // bits; the kernel counts bytes
)

// checkBandwidth refuses limits that would let no packet pass, or mean nothing.
func checkBandwidth(n *model.Network, b model.Bandwidth) error {
	if !b.IsZero() && !n.HasDatapath() {
		return refuse(model.ErrInvalid, "network %s has no interfaces whose bandwidth could be limited (leave the limits out)", n.Name)
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

// checkLimit checks a limit for packets of so many bits.
func checkLimit(name string, l model.Limit, packet uint64) error {
	least := (packet + longestWait - 1) / longestWait
	switch {
	case l.IsZero():
		return nil
	case l.Rate == 0:
		return refuse(model.ErrInvalid, "%s burst of %d bits without a rate (give both, or neither)", name, l.Burst)
	case l.Burst == 0:
		return refuse(model.ErrInvalid, "%s rate of %d bit/s without a burst (give both, or neither)", name, l.Rate)
	case l.Rate < least || l.Rate > maxRate:
		return refuse(model.ErrInvalid, "%s rate of %d bit/s is out of range (%d to %d)", name, l.Rate, least, uint64(maxRate))
	case l.Burst < packet || l.Burst > maxBurst:
		return refuse(model.ErrInvalid, "%s burst of %d bits is out of range (%d, one packet of this network, to %d)", name, l.Burst, packet, uint64(maxBurst))
	}
	return nil
}
