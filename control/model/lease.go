// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"time"
)

// Lease is what a DHCP server said last to an endpoint. A value is immutable once it is in a snapshot.
type Lease struct {
	// Address is the endpoint's with the length of its subnet, or the last one. Before the first lease it is the
	// one that the user requested, if any.
	Address netip.Prefix `json:"address,omitzero"`
	Server  netip.Addr   `json:"server,omitzero"`
	Router  netip.Addr   `json:"router,omitzero"` // zero: none
	DNS     []netip.Addr `json:"dns,omitempty"`
	Domain  string       `json:"domain,omitempty"`
	// Obtained is when the server said so; zero: never. The others are when the client asks that server to renew the
	// lease, when it asks any, and when it ends; zero: never.
	Obtained time.Time `json:"obtained,omitzero"`
	Renew    time.Time `json:"renew,omitzero"`
	Rebind   time.Time `json:"rebind,omitzero"`
	Expires  time.Time `json:"expires,omitzero"`
}

// LeasedServers returns the DNS servers that a DHCP server named for the endpoint, while it has an address.
func (ep *Endpoint) LeasedServers() []netip.Addr {
	if ep.Lease == nil || !ep.IPv4.IsValid() {
		return nil
	}
	return ep.Lease.DNS
}

// States of a lease.
const (
	LeaseNone      = "none" // the endpoint has no address
	LeaseBound     = "bound"
	LeaseRenewing  = "renewing"  // the server has not answered since Renew
	LeaseRebinding = "rebinding" // no server has answered since Rebind
	LeaseExpired   = "expired"   // the endpoint is about to lose its address
)

// LeaseStates lists all of them.
func LeaseStates() []string {
	return []string{LeaseNone, LeaseBound, LeaseRenewing, LeaseRebinding, LeaseExpired}
}

// LeaseState returns the state of an endpoint's lease.
func (e *Endpoint) LeaseState(now time.Time) string {
	past := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	switch l := e.Lease; {
	case l == nil || !e.IPv4.IsValid():
		return LeaseNone
	case past(l.Expires):
		return LeaseExpired
	case past(l.Rebind):
		return LeaseRebinding
	case past(l.Renew):
		return LeaseRenewing
	}
	return LeaseBound
}

// endless stands for the end of a lease that has none.
const endless = 10 * 365 * 24 * time.Hour

// Until returns when the kernel removes the address by itself.
func (l *Lease) Until() time.Time {
	if l.Expires.IsZero() {
		return l.Obtained.Add(endless)
	}
	return l.Expires
}
