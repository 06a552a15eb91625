// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"math"
	"strconv"
	"strings"
)

// Limit bounds the traffic of an interface in one direction. The zero Limit means no limit.
type Limit struct {
	Rate  uint64 `json:"rate"`  // bits per second
	Burst uint64 `json:"burst"` // bits that may pass at once after a pause
}

// IsZero reports whether there is no limit.
func (l Limit) IsZero() bool { return l == Limit{} }

// Bandwidth holds the limits of an interface.
type Bandwidth struct {
	Ingress Limit `json:"ingress,omitzero"` // towards the sandbox
	Egress  Limit `json:"egress,omitzero"`  // from the sandbox
}

// IsZero reports whether there is no limit in either direction.
func (b Bandwidth) IsZero() bool { return b == Bandwidth{} }

// MaxBurst is the largest burst of a limit in bits: the kernel counts bytes in 32 bits.
const MaxBurst = 8 * math.MaxUint32

const (
	// A limit of which only the rate is given lets through at once what passes in a 50th of a second, and at least
	// an aggregate of the kernel, which exceeds one packet of any MTU.
	burstsPerSecond = 50
	leastBurst      = 8 * 128 << 10 // bits
)

// rateUnits are the units of a rate, which tc has too, in bits per second.
var rateUnits = map[string]uint64{"": 1, "bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "tbit": 1e12}

// ParseLimit reads the rate of a limit in tc's notation, like 100mbit, and chooses the burst. A number without a unit is in bits
// per second; none means no limit.
func ParseLimit(text string) (Limit, error) {
	if text == "none" {
		return Limit{}, nil
	}
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit, known := rateUnits[strings.ToLower(text[len(digits):])]
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || !known || n == 0 || n > math.MaxUint64/unit {
		return Limit{}, Refuse(ErrInvalid, "invalid rate %q (want a number of bits per second, like 500kbit, 100mbit or 2gbit, or none)", text)
	}
	return Limit{Rate: n * unit, Burst: min(max(n*unit/burstsPerSecond, leastBurst), MaxBurst)}, nil
}

const (
	// header is the size of an Ethernet header with a VLAN tag, in bytes. The MTU does not
	// include it.
	header = 18
	// maxHorizon is how many seconds' worth of its rate a limit can accumulate in the kernel.
	// The exact bound is a little more than four.
	maxHorizon = 4
	maxRate    = 1_000_000_000_000_000 // bits per second, the maximum in Kubernetes too
)

// CheckBandwidth refuses limits that no packet could pass, or that have no meaning.
func (n *Network) CheckBandwidth(b Bandwidth) error {
	if b.IsZero() {
		return nil
	}
	if n.Has().Endpoint == NoDevice {
		return Refuse(ErrInvalid, "network %s has no interfaces whose bandwidth could be limited (leave the limits out)", n.Name)
	}
	if !n.Has().Entries {
		return Refuse(ErrInvalid, "no program of Fairlead sees the packets of network %s (driver %s), so bandwidth cannot be limited there (leave the limits out)", n.Name, n.Driver)
	}
	packet := uint64(cmp.Or(n.MTU, DefaultMTU)+header) * 8
	for _, d := range []struct {
		name  string
		limit Limit
	}{{"ingress", b.Ingress}, {"egress", b.Egress}} {
		if err := checkLimit(d.name, d.limit, packet); err != nil {
			return err
		}
	}
	return nil
}

// checkLimit checks that a limit lets through packets of the given size in bits.
func checkLimit(name string, l Limit, packet uint64) error {
	least := (packet + maxHorizon - 1) / maxHorizon
	switch {
	case l.IsZero():
		return nil
	case l.Rate == 0:
		return Refuse(ErrInvalid, "%s burst of %d bits without a rate (give both, or neither)", name, l.Burst)
	case l.Burst == 0:
		return Refuse(ErrInvalid, "%s rate of %d bit/s without a burst (give both, or neither)", name, l.Rate)
	case l.Rate < least || l.Rate > maxRate:
		return Refuse(ErrInvalid, "%s rate of %d bit/s is out of range (%d to %d)", name, l.Rate, least, uint64(maxRate))
	case l.Burst < packet || l.Burst > MaxBurst:
		return Refuse(ErrInvalid, "%s burst of %d bits is out of range (%d, one packet of this network, to %d)", name, l.Burst, packet, uint64(MaxBurst))
	}
	return nil
}
