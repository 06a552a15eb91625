// SPDX-License-Identifier: Apache-2.0

// Package dhcp talks to DHCP servers for endpoints, from their devices in the sandboxes (RFC 2131). It keeps nothing: when
// to ask for what is decided by package leases.
package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/stacked"
)

var (
	// ErrSilent means that no server answered in time.
	ErrSilent = errors.New("no DHCP server answered")
	// ErrRefused means that a server refused the address.
	ErrRefused = errors.New("the DHCP server refused the address")
)

// OtherError reports that servers offer only another address than the required one.
type OtherError struct{ Server, Offered netip.Addr }

// Error names the address.
func (e *OtherError) Error() string {
	return fmt.Sprintf("DHCP server %v offers %v instead of it", e.Server, e.Offered)
}

// Step is what is asked of servers. All but the first is about the address of a lease.
type Step int

// Steps, with the states of RFC 2131 section 4.4.
const (
	Discover Step = iota // INIT: any address, preferably that of the last lease
	Require              // INIT: this address or none
	Confirm              // INIT-REBOOT: whether the lease is valid, of any server
	Renew                // RENEWING: of the server that gave it
	Rebind               // REBINDING: of any server
)

func (s Step) String() string {
	return [...]string{"discover", "require", "confirm", "renew", "rebind"}[s]
}

// Endpoint is where an endpoint is, and what a server knows it by.
type Endpoint struct {
	ID       string
	NetNS    string // path of the sandbox's
	Kind     string // of its device
	IfName   string
	Hostname string // for the server, which may know an address for it
}

// Client asks for leases.
type Client struct{ NL *rtnl.Handle }

// Ask takes a step until ctx ends, and returns the lease that the server acknowledges.
func (c *Client) Ask(ctx context.Context, at Endpoint, step Step, last *model.Lease) (*model.Lease, error) {
	ns, link, err := c.find(at)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var conn net.PacketConn
	if step == Renew {
		conn, err = unicast(ctx, ns, link, last.Address.Addr())
	} else {
		conn, err = broadcast(ns, link, netip.Addr{})
	}
	if err != nil {
		return nil, err
	}
	x := exchange{at: at, mac: link.MAC[:]}
	if x.client, err = nclient4.NewWithConn(conn, x.mac, nclient4.WithTimeout(firstWait), nclient4.WithRetry(-1)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	defer x.client.Close()
	return x.take(ctx, step, last)
}

// firstWait is the time until a message is sent again; it doubles each time.
const firstWait = time.Second

// Release tells the server that the endpoint no longer uses the address. The server does not answer, so a lost message goes unnoticed.
// The message is broadcast on the link, since the device may not exist long enough to find the server's MAC.
func (c *Client) Release(at Endpoint, last *model.Lease) error {
	ns, link, err := c.find(at)
	if err != nil {
		return err
	}
	defer ns.Close()
	conn, err := broadcast(ns, link, last.Address.Addr())
	if err != nil {
		return err
	}
	defer conn.Close()
	m, err := message(at, link.MAC[:], dhcpv4.MessageTypeRelease,
		dhcpv4.WithClientIP(last.Address.Addr().AsSlice()), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(last.Server.AsSlice())))
	if err != nil {
		return err
	}
	if _, err := conn.WriteTo(m.ToBytes(), serverAt(last.Server)); err != nil {
		return fmt.Errorf("send a DHCP message: %w", err)
	}
	return nil
}

// find opens the sandbox of an endpoint and finds its device.
func (c *Client) find(at Endpoint) (*rtnl.NetNS, rtnl.Link, error) {
	ns, err := c.NL.OpenSandboxNetNS(at.NetNS)
	if err != nil {
		return nil, rtnl.Link{}, err
	}
	link, ok, err := stacked.Find(ns, at.Kind, rtnl.SandboxAlias(at.ID), at.IfName)
	if err == nil && !ok {
		err = fmt.Errorf("device %s of the sandbox: %w", at.IfName, rtnl.ErrNoDevice)
	}
	if err != nil {
		ns.Close()
		return nil, link, err
	}
	return ns, link, nil
}

func serverAt(a netip.Addr) *net.UDPAddr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, nclient4.ServerPort))
}

// exchange is one with a server, by an open client.
type exchange struct {
	at     Endpoint
	mac    net.HardwareAddr
	client *nclient4.Client
}

func (x *exchange) take(ctx context.Context, step Step, last *model.Lease) (*model.Lease, error) {
	var address netip.Addr
	if last != nil {
		address = last.Address.Addr()
	}
	to := nclient4.DefaultServers
	mods := []dhcpv4.Modifier{dhcpv4.WithBroadcast(true)}
	switch step {
	case Discover, Require:
		offer, err := x.discover(ctx, address, step == Require)
		if err != nil {
			return nil, err
		}
		mods = append(mods, dhcpv4.WithTransactionID(offer.TransactionID), requested(addrOf(offer.YourIPAddr)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier())))
	case Confirm:
		mods = append(mods, requested(address))
	case Renew:
		to = serverAt(last.Server)
		mods = []dhcpv4.Modifier{dhcpv4.WithClientIP(address.AsSlice())}
	case Rebind:
		mods = append(mods, dhcpv4.WithClientIP(address.AsSlice()))
	}
	request, err := message(x.at, x.mac, dhcpv4.MessageTypeRequest, mods...)
	if err != nil {
		return nil, err
	}
	sent := time.Now()
	answer, err := x.send(ctx, to, request, nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak))
	if err != nil {
		return nil, err
	}
	if answer.MessageType() == dhcpv4.MessageTypeNak {
		return nil, ErrRefused
	}
	return leaseOf(answer, sent)
}

func requested(a netip.Addr) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a.AsSlice()))
}

// moreOffers is how long other servers have to offer the required address after the first offer of another.
const moreOffers = time.Second

// discover returns the first offer, or the first one of the required address.
func (x *exchange) discover(ctx context.Context, want netip.Addr, only bool) (*dhcpv4.DHCPv4, error) {
	mods := []dhcpv4.Modifier{dhcpv4.WithBroadcast(true)}
	if want.IsValid() {
		mods = append(mods, requested(want))
	}
	m, err := message(x.at, x.mac, dhcpv4.MessageTypeDiscover, mods...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var other *OtherError
	offer, err := x.send(ctx, nclient4.DefaultServers, m, func(p *dhcpv4.DHCPv4) bool {
		server, offered := addrOf(p.ServerIdentifier()), addrOf(p.YourIPAddr)
		if p.MessageType() != dhcpv4.MessageTypeOffer || !server.IsValid() {
			return false
		}
		if only && offered != want {
			if other == nil {
				other = &OtherError{server, offered}
				time.AfterFunc(moreOffers, cancel)
			}
			return false
		}
		return true
	})
	if err != nil && other != nil {
		return nil, other
	}
	return offer, err
}

func (x *exchange) send(ctx context.Context, to *net.UDPAddr, m *dhcpv4.DHCPv4, match nclient4.Matcher) (*dhcpv4.DHCPv4, error) {
	answer, err := x.client.SendAndRead(ctx, to, m, match)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, nclient4.ErrNoResponse):
		return nil, ErrSilent
	case err != nil:
		return nil, fmt.Errorf("send a DHCP message: %w", err)
	}
	return answer, nil
}
