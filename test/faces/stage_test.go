// SPDX-License-Identifier: Apache-2.0

package faces

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

const (
	outsidePort = 8000            // of the server on the machine outside
	second4     = "198.51.100.2"  // of the machine outside, like lab.Internet4
	far4        = "203.0.113.254" // of a machine behind that
	narrow      = 1300            // MTU of the path there, and of the host's routes to the internet
)

// newLab makes a lab, without a daemon yet, whose host has a resolver outside.
func newLab(t *testing.T, cfg lab.Config) *lab.Lab {
	cfg.NoDaemon = true
	l := lab.New(t, cfg)
	l.Resolver()
	l.Spawn(l.Outside, peer, "serve", "outside", fmt.Sprint(outsidePort))
	l.IP(l.Outside, "route add 10.77.0.0/24 via "+lab.Host4, "route add fd00:77::/64 via "+lab.Host6) // to containers
	l.IP(l.Outside, "addr add "+second4+"/32 dev lo")
	l.IP(l.Host, fmt.Sprintf("route add %s/32 via %s mtu %d", lab.Internet4, lab.Outside4, narrow),
		fmt.Sprintf("route add %s/32 via %s mtu lock %d", second4, lab.Outside4, narrow))
	far := l.NewHost("far")
	if err := world.Cable(
		world.End{Host: l.Outside, Device: "eth1", Addresses: []string{"203.0.113.1/24"}},
		world.End{Host: far, Device: "eth0", Addresses: []string{far4 + "/24"}},
	); err != nil {
		t.Fatal(err)
	}
	l.IP(far, "route add default via 203.0.113.1")
	l.IP(l.Outside, fmt.Sprint("link set eth1 mtu ", narrow))
	l.Sysctl(l.Outside, "ipv4/ip_forward", "1")
	return l
}

// stage is a face with networks and containers.
type stage struct {
	*lab.Lab
	face
	unfixed bool   // nobody can fix addresses
	before  traces // before the network of leaving
	between traces // with its first container
	mu      sync.Mutex
	entered map[string]*world.Host
}

// The networks, and their members.
var (
	networks = []network{
		{name: "web", subnet4: "10.77.0.0/24", subnet6: "fd00:77::/64"},
		{name: "other", subnet4: "10.78.0.0/24", subnet6: "fd00:78::/64"},
		{name: "cellar", subnet4: "10.79.0.0/24", subnet6: "fd00:79::/64", internal: true},
		{name: "cells", subnet4: "10.80.0.0/24", subnet6: "fd00:80::/64", apart: true, mtu: 1400},
		{name: "attic", subnet4: "10.81.0.0/24", subnet6: "fd00:81::/64"},
		{name: "quiet", subnet4: "10.82.0.0/24", subnet6: "fd00:82::/64"},
	}
	containers = []container{
		{
			name: "ben", network: "web", aliases: []string{"benjamin"}, ports: []string{"80", "81", "82", "90", "91"},
			publish: []string{"18080:80", "18080:80/udp", "127.0.0.1:18081:80", lab.Host4 + ":18082:80", "18090-18091:90-91", "81", "127.0.0.1::82"},
		},
		{name: "anna", network: "web"},
		{name: "otto", network: "other"},
		{name: "cleo", network: "cellar"},
		{name: "cato", network: "cellar"},
		{name: "ina", network: "cells"},
		{name: "ivo", network: "cells", publish: []string{"18085:80"}},
	}
)

func newStage(l *lab.Lab, f face) *stage {
	s := &stage{Lab: l, face: f, entered: map[string]*world.Host{}}
	for _, n := range networks {
		if err := f.createNetwork(n); err != nil && !errors.Is(err, errLacks) {
			l.Fatal(err)
		}
	}
	var g errgroup.Group
	g.SetLimit(3)
	for _, c := range containers {
		g.Go(func() error {
			err := s.begin(c)
			if errors.Is(err, errLacks) { // what needs it is not applicable
				err = nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		l.Fatal(err)
	}
	return s
}

// begin starts a container and waits until it serves.
func (s *stage) begin(c container) error {
	if err := s.run(c); err != nil {
		return err
	}
	return s.serves(c.name)
}

// serves waits until a container that was started answers itself.
func (s *stage) serves(name string) error {
	h, err := s.enter(name)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		_, err := ask(h, "tcp", "127.0.0.1:80")
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// enter is the host of a container's network namespace, looked up again.
func (s *stage) enter(name string) (*world.Host, error) {
	path, err := s.netns(name)
	if err != nil {
		return nil, err
	}
	h, err := s.Host.Enter(name, path)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveLocked(name)
	s.entered[name] = h
	return h, nil
}

// leave lets go of a container's namespace.
func (s *stage) leave(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveLocked(name)
}

func (s *stage) leaveLocked(name string) {
	if h := s.entered[name]; h != nil {
		h.Close()
		delete(s.entered, name)
	}
}

// in is a container as a host. It panics with absent if the face cannot have it.
func (s *stage) in(name string) *world.Host {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entered[name] == nil {
		panic(absent{})
	}
	return s.entered[name]
}

// absent ends an observation that needs a container which is not there.
type absent struct{}

// device is a container's, with its addresses.
type device struct {
	net.Interface
	ip4, ip6 string
}

// device reads one, such as eth0.
func (s *stage) device(name, inside string) (d device, err error) {
	err = s.in(name).Do(func() error {
		i, err := net.InterfaceByName(inside)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		d.Interface = *i
		addresses, err := i.Addrs()
		for _, a := range addresses {
			switch p := netip.MustParsePrefix(a.String()).Addr(); {
			case p.Is4() && d.ip4 == "":
				d.ip4 = p.String()
			case p.Is6() && !p.IsLinkLocalUnicast():
				d.ip6 = p.String()
			}
		}
		return err
	})
	return d, err
}

// ip is a container's first address.
func (s *stage) ip(name string) string {
	d, err := s.device(name, "eth0")
	if err != nil || d.ip4 == "" {
		return "address of " + name
	}
	return d.ip4
}

func (s *stage) ip6(name string) string {
	d, err := s.device(name, "eth0")
	if err != nil || d.ip6 == "" {
		return "IPv6 address of " + name
	}
	return d.ip6
}

// silence is how long nothing may arrive before the test concludes that nothing arrives.
const silence = 3 * time.Second

// ask asks a server once, or by datagrams until there is an answer.
func ask(h *world.Host, network, address string) (string, error) {
	return askFor(h, network, address, 8)
}

// askFor asks with so many bytes.
func askFor(h *world.Host, network, address string, size int) (string, error) {
	c, err := h.Dial(net.Dialer{Timeout: silence}, network, address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return say(c, size)
}

// say asks over a connection.
func say(c net.Conn, size int) (string, error) {
	question := []byte(strings.Repeat("?", size-1) + "\n")
	b := make([]byte, 64<<10)
	_, datagrams := c.(*net.UDPConn)
	deadline := time.Now().Add(silence)
	for {
		next := deadline
		if datagrams {
			next = time.Now().Add(silence / 5)
		}
		c.SetDeadline(next)
		_, err := c.Write(question)
		if err == nil {
			var n int
			if n, err = c.Read(b); err == nil {
				if datagrams && n < size {
					return "", fmt.Errorf("asked with %d bytes, and answered with %d", size, n)
				}
				return strings.TrimSpace(string(b[:n])), nil
			}
		}
		if !datagrams || !time.Now().Add(silence/5).Before(deadline) {
			return "", err
		}
		time.Sleep(time.Until(next))
	}
}

// word names the outcome of an attempt: yes, or the kind of its error.
func word(err error) string {
	var timeout net.Error
	switch {
	case err == nil:
		return "yes"
	case errors.Is(err, errLacks):
		return "n/a"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "unreachable"
	}
	return failed(err)
}

// failed is an observation that could not be made, which fails the test.
func failed(err error) string {
	if errors.Is(err, errLacks) {
		return "n/a"
	}
	return failure + err.Error()
}

const failure = "failed: "

func isFailure(observation string) bool { return strings.HasPrefix(observation, failure) }

// reached reports whether there is any reply.
func reached(h *world.Host, network, address string, port int) string {
	if _, err := ask(h, network, net.JoinHostPort(address, fmt.Sprint(port))); err != nil {
		return "no"
	}
	return "yes"
}

// seen says as whom a server sees a client: as itself ("client"), the gateway of its
// network, or the host; or why there is no answer.
func (s *stage) seen(from *world.Host, network, address string, port int) string {
	got, err := ask(from, network, net.JoinHostPort(address, fmt.Sprint(port)))
	if err != nil {
		return word(err)
	}
	fields := strings.Fields(got)
	if len(fields) != 3 {
		return failed(fmt.Errorf("the answer is %q", got))
	}
	return s.clientName(from, fields[1])
}

// clientName names an address that a server sees as that of a client on that host.
func (s *stage) clientName(from *world.Host, address string) string {
	at := netip.MustParseAddr(address)
	own := false
	err := from.Do(func() error {
		addresses, err := net.InterfaceAddrs()
		for _, a := range addresses {
			own = own || netip.MustParsePrefix(a.String()).Addr() == at
		}
		return err
	})
	for _, n := range networks {
		for _, subnet := range []string{n.subnet4, n.subnet6} {
			if netip.MustParsePrefix(subnet).Addr().Next() == at {
				return "gateway"
			}
		}
	}
	switch {
	case err != nil:
		return failed(err)
	case own:
		return "client"
	case address == lab.Host4 || address == lab.Host6:
		return "host"
	}
	return address
}
