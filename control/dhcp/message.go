// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"github.com/fairlead-net/fairlead/control/model"
)

// clientIDLen is the length of what is taken of an endpoint's ID, in hexadecimal digits.
const clientIDLen = 32

// clientID returns an identifier of an endpoint for option 61: type 0, followed by a part of its ID. The members of an
// ipvlan network have one MAC, so only this tells them apart.
func clientID(endpointID string) []byte {
	id, err := hex.DecodeString(endpointID[:min(len(endpointID), clientIDLen)])
	if err != nil {
		id = []byte(endpointID)
	}
	return append([]byte{0}, id...)
}

// hostRule is what a name has to look like for servers and resolvers, domainRule a domain.
var (
	hostRule   = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)
	domainRule = regexp.MustCompile(`^[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*$`)
)

// message returns a message of an endpoint. The broadcast flag is set unless the endpoint has its address, since ipvlan
// passes a frame to a member by the IP address in it.
func message(at Endpoint, mac net.HardwareAddr, kind dhcpv4.MessageType, more ...dhcpv4.Modifier) (*dhcpv4.DHCPv4, error) {
	mods := []dhcpv4.Modifier{
		dhcpv4.WithHwAddr(mac),
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientIdentifier, clientID(at.ID))),
	}
	if kind != dhcpv4.MessageTypeRelease {
		mods = append(mods,
			dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize)),
			dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName))
		if hostRule.MatchString(at.Hostname) {
			mods = append(mods, dhcpv4.WithOption(dhcpv4.OptHostName(at.Hostname)))
		}
	}
	m, err := dhcpv4.New(append(mods, more...)...)
	if err != nil {
		return nil, fmt.Errorf("create a DHCP message: %w", err)
	}
	return m, nil
}

// forever is the time of a lease that does not end.
const forever = (1<<32 - 1) * time.Second

// leaseOf reads the lease of an acknowledgement that was requested at a time.
func leaseOf(ack *dhcpv4.DHCPv4, requested time.Time) (*model.Lease, error) {
	server := addrOf(ack.ServerIdentifier())
	a, mask := addrOf(ack.YourIPAddr), ack.SubnetMask()
	ones, bits := mask.Size()
	if !a.IsValid() || a.IsUnspecified() || bits != a.BitLen() || ones == 0 {
		return nil, fmt.Errorf("DHCP server %v gave address %v with subnet mask %v (have it send a subnet mask, option 1)", server, a, mask)
	}
	requested = requested.UTC().Round(0)
	l := &model.Lease{Address: netip.PrefixFrom(a, ones), Server: server, Obtained: requested}
	for _, ip := range ack.Router() {
		// The kernel has no route to another one.
		if r := addrOf(ip); l.Address.Contains(r) && r != a {
			l.Router = r
			break
		}
	}
	for _, ip := range ack.DNS() {
		if s := addrOf(ip); s.IsValid() && !s.IsUnspecified() {
			l.DNS = append(l.DNS, s)
		}
	}
	if d := strings.TrimRight(ack.DomainName(), ".\x00"); len(d) <= 253 && domainRule.MatchString(d) { // it comes to resolv.conf
		l.Domain = d
	}
	if rest := ack.IPAddressLeaseTime(forever); rest != forever {
		t1, t2 := ack.IPAddressRenewalTime(0), ack.IPAddressRebindingTime(0)
		if t2 <= 0 || t2 > rest {
			t2 = rest / 8 * 7
		}
		if t1 <= 0 || t1 > t2 {
			t1 = min(rest/2, t2)
		}
		l.Renew, l.Rebind, l.Expires = requested.Add(t1), requested.Add(t2), requested.Add(rest)
	}
	return l, nil
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
