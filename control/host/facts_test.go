// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// newFacts returns the facts of a network namespace of the test's own.
func newFacts(t *testing.T) *Facts {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	nl, err := rtnl.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nl.Close() })
	return New(nl, func() []netip.AddrPort { return nil })
}

// gatewayDevice makes a network's pair of devices, with an address.
func gatewayDevice(t *testing.T, addr string) {
	t.Helper()
	id := strings.Repeat("7", 64)
	gw, port := rtnl.GatewayDevice(id), rtnl.HostPortDevice(id)
	ip(t, "link", "add", gw, "type", "veth", "peer", "name", port)
	for device, alias := range map[string]string{gw: rtnl.GatewayAlias(id), port: rtnl.HostPortAlias(id)} {
		ip(t, "link", "set", device, "alias", alias)
		ip(t, "link", "set", device, "up")
	}
	ip(t, "addr", "add", addr, "dev", gw)
}

// Fairlead's own DNS servers do not occupy port 53 at every address.
func TestPortFreeBesideDNS(t *testing.T) {
	f := newFacts(t)
	ip(t, "link", "set", "lo", "up")
	c, err := net.ListenPacket("udp4", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := f.PortFree(model.UDP, netip.Addr{}, 53, 1); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("another server's port: %v, want %v", err, unix.EADDRINUSE)
	}
	f.dnsPlaces = func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")} }
	if err := f.PortFree(model.UDP, netip.Addr{}, 53, 1); err != nil {
		t.Errorf("our own server's port: %v", err)
	}
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func TestPortFree(t *testing.T) {
	f := newFacts(t)
	ip(t, "link", "set", "lo", "up")
	tcp, err := net.Listen("tcp4", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp6", "[::]:5353")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for port, family := range map[int]int{81: unix.AF_INET, 82: unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		var at unix.Sockaddr = &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
		if family == unix.AF_INET6 {
			at = &unix.SockaddrInet6{Port: port}
		}
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, at))
		if err != nil {
			t.Fatal(err)
		}
	}
	leftConnection(t, 83)
	addr := netip.MustParseAddr
	tests := map[string]struct {
		proto       model.Proto
		addr        netip.Addr
		port, count uint16
		want        error
	}{
		"free":                         {model.TCP, netip.Addr{}, 80, 1, nil},
		"listened on, every address":   {model.TCP, netip.Addr{}, 8080, 1, unix.EADDRINUSE},
		"listened on, its own address": {model.TCP, addr("127.0.0.1"), 8080, 1, unix.EADDRINUSE},
		"another family":               {model.TCP, addr("::1"), 8080, 1, nil},
		"another protocol":             {model.UDP, netip.Addr{}, 8080, 1, nil},
		"within a range":               {model.TCP, netip.Addr{}, 8000, 100, unix.EADDRINUSE},
		"UDP":                          {model.UDP, addr("::"), 5353, 1, unix.EADDRINUSE},
		"not the host's address":       {model.TCP, addr("192.0.2.1"), 80, 1, unix.EADDRNOTAVAIL},
		"bound, about to listen":       {model.TCP, addr("127.0.0.1"), 81, 1, unix.EADDRINUSE},
		"bound, every address":         {model.TCP, netip.Addr{}, 81, 1, unix.EADDRINUSE},
		"bound, another family":        {model.TCP, addr("::1"), 81, 1, nil},
		"bound, both families":         {model.TCP, addr("127.0.0.1"), 82, 1, unix.EADDRINUSE},
		"left of a connection":         {model.TCP, netip.Addr{}, 83, 1, nil},
		"the last port":                {model.TCP, netip.Addr{}, 65535, 1, nil},
	}
	for name, tt := range tests {
		if err := f.PortFree(tt.proto, tt.addr, tt.port, tt.count); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

// leftConnection leaves a closed connection at a port, whose server closed first and no longer
// listens.
func leftConnection(t *testing.T, port int) {
	t.Helper()
	l, err := net.Listen("tcp4", fmt.Sprint("127.0.0.1:", port)) // with SO_REUSEADDR
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []interface{ Close() error }{l, s, c} {
		if err := what.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEphemeralRange(t *testing.T) {
	f := newFacts(t)
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 50000"), 0); err != nil {
		t.Fatal(err)
	}
	if lo, hi := f.EphemeralRange(); lo != 40000 || hi != 50000 {
		t.Errorf("range is %d-%d", lo, hi)
	}
}

func TestHostPrefixes(t *testing.T) {
	f := newFacts(t)
	gatewayDevice(t, "10.7.0.1/16")
	ip(t, "link", "set", "lo", "up")
	ip(t, "link", "add", "up0", "type", "veth", "peer", "name", "up1")
	ip(t, "link", "set", "up0", "up")
	ip(t, "link", "set", "up1", "up")
	ip(t, "addr", "add", "192.0.2.10/24", "dev", "up0")
	ip(t, "addr", "add", "2001:db8::10/64", "dev", "up0", "nodad")
	ip(t, "route", "add", "198.51.100.0/24", "via", "192.0.2.1")
	ip(t, "route", "add", "default", "via", "192.0.2.1")
	ps, err := f.HostPrefixes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(ps, netip.Prefix.Compare)
	if got, want := fmt.Sprint(ps), "[192.0.2.0/24 198.51.100.0/24 2001:db8::/64]"; got != want {
		t.Errorf("prefixes are %s, want %s", got, want)
	}
}

// Only the host's own addresses count: neither a prefix that contains the queried one nor
// Fairlead's gateways.
func TestHostAddr(t *testing.T) {
	f := newFacts(t)
	gatewayDevice(t, "10.7.0.1/16")
	ip(t, "link", "add", "up0", "type", "veth", "peer", "name", "up1")
	ip(t, "addr", "add", "192.0.2.10/24", "dev", "up0")
	ip(t, "addr", "add", "2001:db8::10/64", "dev", "up0", "nodad")
	for within, want := range map[string]string{
		"192.0.2.0/28": "up0 192.0.2.10", "192.0.0.0/16": "up0 192.0.2.10", "192.0.2.128/25": "", "192.0.2.0/29": "",
		"2001:db8::/32": "up0 2001:db8::10", "2001:db8:0:1::/64": "", "10.7.0.0/16": "",
	} {
		device, addr, err := f.HostAddr(t.Context(), netip.MustParsePrefix(within))
		if err != nil {
			t.Fatal(err)
		}
		got := device
		if device != "" {
			got += " " + addr.String()
		}
		if got != want {
			t.Errorf("within %s: %q, want %q", within, got, want)
		}
	}
}
