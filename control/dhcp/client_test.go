// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"github.com/fairlead-net/fairlead/control/model"
)

// wire connects a client to a server in the test, which answers each message with any number of others.
type wire struct {
	net.PacketConn // nil
	answer         func(m *dhcpv4.DHCPv4) []*dhcpv4.DHCPv4
	sent           []*dhcpv4.DHCPv4
	to             []string
	answers        chan []byte
}

func (w *wire) WriteTo(b []byte, to net.Addr) (int, error) {
	m, err := dhcpv4.FromBytes(b)
	if err != nil {
		return 0, err
	}
	w.sent, w.to = append(w.sent, m), append(w.to, to.String())
	for _, a := range w.answer(m) {
		w.answers <- a.ToBytes()
	}
	return len(b), nil
}

func (w *wire) ReadFrom(b []byte) (int, net.Addr, error) {
	m, ok := <-w.answers
	if !ok {
		return 0, nil, os.ErrClosed
	}
	return copy(b, m), &net.UDPAddr{}, nil
}

func (w *wire) Close() error {
	close(w.answers)
	return nil
}

var (
	mac    = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	here   = Endpoint{ID: strings.Repeat("ab", 32), Hostname: "anna"}
	leased = &model.Lease{Address: netip.MustParsePrefix("192.0.2.9/24"), Server: netip.MustParseAddr("192.0.2.254")}
)

// reply answers a message for an address.
func reply(t *testing.T, to *dhcpv4.DHCPv4, kind dhcpv4.MessageType, address string, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.NewReplyFromRequest(to, append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.ParseIP(address)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(leased.Server.AsSlice())),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithLeaseTime(3600),
	}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// take takes a step with a server.
func take(t *testing.T, step Step, last *model.Lease, answer func(m *dhcpv4.DHCPv4) []*dhcpv4.DHCPv4) (*model.Lease, *wire, error) {
	t.Helper()
	w := &wire{answer: answer, answers: make(chan []byte, 16)}
	c, err := nclient4.NewWithConn(w, mac, nclient4.WithTimeout(firstWait), nclient4.WithRetry(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	x := exchange{at: here, mac: mac, client: c}
	l, err := x.take(ctx, step, last)
	return l, w, err
}

// Each step sends what RFC 2131, table 5, wants of its state.
func TestSteps(t *testing.T) {
	for _, tc := range []struct {
		step      Step
		last      *model.Lease
		kinds     []dhcpv4.MessageType
		requested string // option 50 of the request
		ciaddr    string
		server    bool // option 54 in the request
		flag      bool
		to        string
	}{
		{Discover, nil, []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest}, "192.0.2.9", "0.0.0.0", true, true, "255.255.255.255:67"},
		{Require, leased, []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest}, "192.0.2.9", "0.0.0.0", true, true, "255.255.255.255:67"},
		{Confirm, leased, []dhcpv4.MessageType{dhcpv4.MessageTypeRequest}, "192.0.2.9", "0.0.0.0", false, true, "255.255.255.255:67"},
		{Renew, leased, []dhcpv4.MessageType{dhcpv4.MessageTypeRequest}, "<nil>", "192.0.2.9", false, false, "192.0.2.254:67"},
		{Rebind, leased, []dhcpv4.MessageType{dhcpv4.MessageTypeRequest}, "<nil>", "192.0.2.9", false, true, "255.255.255.255:67"},
	} {
		l, w, err := take(t, tc.step, tc.last, func(m *dhcpv4.DHCPv4) []*dhcpv4.DHCPv4 {
			if m.MessageType() == dhcpv4.MessageTypeDiscover {
				return []*dhcpv4.DHCPv4{reply(t, m, dhcpv4.MessageTypeOffer, "192.0.2.9")}
			}
			return []*dhcpv4.DHCPv4{reply(t, m, dhcpv4.MessageTypeAck, "192.0.2.9")}
		})
		if err != nil || l.Address != leased.Address || l.Server != leased.Server {
			t.Errorf("%v: %+v, %v", tc.step, l, err)
			continue
		}
		for i, m := range w.sent {
			if i >= len(tc.kinds) || m.MessageType() != tc.kinds[i] || m.IsBroadcast() != tc.flag || w.to[i] != tc.to || m.HostName() != "anna" ||
				string(m.GetOneOption(dhcpv4.OptionClientIdentifier)) != "\x00"+strings.Repeat("\xab", 16) {
				t.Errorf("%v: message %d to %s is %s", tc.step, i, w.to[i], m.Summary())
			}
		}
		m := w.sent[len(w.sent)-1]
		if len(w.sent) != len(tc.kinds) || m.RequestedIPAddress().String() != tc.requested || m.ClientIPAddr.String() != tc.ciaddr || (m.ServerIdentifier() != nil) != tc.server {
			t.Errorf("%v: %d messages, the last one is %s", tc.step, len(w.sent), m.Summary())
		}
	}
}

// Of several offers of other addresses than the required one, none is accepted; the required one is, whenever it comes.
func TestRequire(t *testing.T) {
	want := &model.Lease{Address: netip.MustParsePrefix("192.0.2.9/32")}
	for _, offers := range [][]string{{"192.0.2.7", "192.0.2.8"}, {"192.0.2.7", "192.0.2.9"}} {
		has := offers[1] == "192.0.2.9"
		l, w, err := take(t, Require, want, func(m *dhcpv4.DHCPv4) (list []*dhcpv4.DHCPv4) {
			if m.MessageType() == dhcpv4.MessageTypeRequest {
				return []*dhcpv4.DHCPv4{reply(t, m, dhcpv4.MessageTypeAck, m.RequestedIPAddress().String())}
			}
			for _, a := range offers {
				list = append(list, reply(t, m, dhcpv4.MessageTypeOffer, a))
			}
			return list
		})
		other := (*OtherError)(nil)
		if has && (err != nil || l.Address != leased.Address) || !has && (!errors.As(err, &other) || other.Offered.String() != "192.0.2.7" || len(w.sent) != 1) {
			t.Errorf("offers %v: %+v, %v", offers, l, err)
		}
	}
}

// Silence, refusals and answers that make no sense are errors.
func TestNoLease(t *testing.T) {
	nak := func(m *dhcpv4.DHCPv4) []*dhcpv4.DHCPv4 {
		return []*dhcpv4.DHCPv4{reply(t, m, dhcpv4.MessageTypeNak, "0.0.0.0")}
	}
	for name, tc := range map[string]struct {
		step   Step
		answer func(m *dhcpv4.DHCPv4) []*dhcpv4.DHCPv4
		want   string
	}{
		"silence":         {Discover, func(*dhcpv4.DHCPv4) []*dhcpv4.DHCPv4 { return nil }, ErrSilent.Error()},
		"refusal":         {Confirm, nak, ErrRefused.Error()},
		"refused renewal": {Renew, nak, ErrRefused.Error()},
		"no mask": {Renew, func(m *dhcpv4.DHCPv4) []*dhcpv4.DHCPv4 {
			return []*dhcpv4.DHCPv4{reply(t, m, dhcpv4.MessageTypeAck, "192.0.2.9", dhcpv4.WithoutOption(dhcpv4.OptionSubnetMask))}
		}, "subnet mask"},
		"no address": {Renew, func(m *dhcpv4.DHCPv4) []*dhcpv4.DHCPv4 {
			return []*dhcpv4.DHCPv4{reply(t, m, dhcpv4.MessageTypeAck, "0.0.0.0")}
		}, "gave address 0.0.0.0"},
		"another's answer": {Rebind, func(m *dhcpv4.DHCPv4) []*dhcpv4.DHCPv4 {
			return []*dhcpv4.DHCPv4{reply(t, m, dhcpv4.MessageTypeAck, "192.0.2.9", dhcpv4.WithTransactionID(dhcpv4.TransactionID{1}))}
		}, ErrSilent.Error()},
	} {
		if l, _, err := take(t, tc.step, leased, tc.answer); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %+v, %v; want %q", name, l, err, tc.want)
		}
	}
}

// The times of a lease have defaults, and what a server says is checked before it gets to routes and files.
func TestLeaseOf(t *testing.T) {
	now := time.Unix(1000, 0).UTC()
	seconds := func(s int) dhcpv4.Option { return dhcpv4.OptIPAddressLeaseTime(time.Duration(s) * time.Second) }
	for _, tc := range []struct {
		options                []dhcpv4.Option
		renew, rebind, expires int64 // after now; 0: never
		router, domain         string
	}{
		{[]dhcpv4.Option{seconds(80)}, 40, 70, 80, "", ""},
		{[]dhcpv4.Option{seconds(80), dhcpv4.OptRenewTimeValue(5 * time.Second), dhcpv4.OptRebindingTimeValue(9 * time.Second)}, 5, 9, 80, "", ""},
		{[]dhcpv4.Option{seconds(80), dhcpv4.OptRenewTimeValue(99 * time.Second), dhcpv4.OptRebindingTimeValue(100 * time.Second)}, 40, 70, 80, "", ""},
		{[]dhcpv4.Option{dhcpv4.OptIPAddressLeaseTime(forever)}, 0, 0, 0, "", ""},
		{[]dhcpv4.Option{seconds(80), dhcpv4.OptRouter(net.ParseIP("198.51.100.1"), net.ParseIP("192.0.2.1")), dhcpv4.OptDomainName("example.net.")}, 40, 70, 80, "192.0.2.1", "example.net"},
		{[]dhcpv4.Option{seconds(80), dhcpv4.OptRouter(net.ParseIP("192.0.2.9")), dhcpv4.OptDomainName("a\nnameserver 203.0.113.1")}, 40, 70, 80, "", ""},
	} {
		m, err := dhcpv4.New(dhcpv4.WithYourIP(net.ParseIP("192.0.2.9")), dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(leased.Server.AsSlice())))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range tc.options {
			m.UpdateOption(o)
		}
		l, err := leaseOf(m, now)
		if err != nil {
			t.Errorf("%s: %v", m.Summary(), err)
			continue
		}
		for what, at := range map[string][2]int64{"renew": {tc.renew, after(now, l.Renew)}, "rebind": {tc.rebind, after(now, l.Rebind)}, "expires": {tc.expires, after(now, l.Expires)}} {
			if at[0] != at[1] {
				t.Errorf("%s: %s after %d s, want %d", m.Summary(), what, at[1], at[0])
			}
		}
		if model.AddrText(l.Router) != tc.router || l.Domain != tc.domain {
			t.Errorf("%s: router %v, domain %q", m.Summary(), l.Router, l.Domain)
		}
	}
}

func after(now, t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return int64(t.Sub(now) / time.Second)
}
