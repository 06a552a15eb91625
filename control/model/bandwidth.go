// SPDX-License-Identifier: Apache-2.0

package model

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
