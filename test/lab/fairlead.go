// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/control/api"
)

// Fairlead runs a fairlead command that must succeed and returns what it wrote
// to stdout, without the last newline.
func (l *Lab) Fairlead(args ...string) string {
	l.Helper()
	r := l.Try(args...)
	if r.Code != 0 {
		l.Fatalf("fairlead %s: status %d\n%s", strings.Join(args, " "), r.Code, r.Output())
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// Refused runs a fairlead command that must fail with a status and a message that contains
// each text.
func (l *Lab) Refused(code int, texts []string, args ...string) {
	l.Helper()
	r := l.Try(args...)
	command := "fairlead " + strings.Join(args, " ")
	if r.Code != code {
		l.Errorf("%s: status %d, want %d\n%s", command, r.Code, code, r.Output())
		return
	}
	if !strings.HasPrefix(r.Stderr, "fairlead: ") || strings.Count(r.Stderr, "\n") != 1 {
		l.Errorf("%s: want one line on stderr, got %q", command, r.Stderr)
	}
	for _, text := range texts {
		if !strings.Contains(r.Stderr, text) {
			l.Errorf("%s: message %q does not contain %q", command, r.Stderr, text)
		}
	}
}

// Sandbox is a sandbox whose namespace Fairlead made; the methods of Host start programs in
// it.
type Sandbox struct {
	*world.Host
	Name string
	IP4  netip.Addr // in its first network; zero if there is none
	IP6  netip.Addr
	MAC  string
}

// Sandbox makes a sandbox with `fairlead sandbox create` and these flags.
func (l *Lab) Sandbox(name string, flags ...string) *Sandbox {
	l.Helper()
	l.Fairlead(append(append([]string{"sandbox", "create"}, flags...), name)...)
	return l.Entered(name)
}

// Entered returns a sandbox that exists, for what the test runs in it.
func (l *Lab) Entered(name string) *Sandbox {
	l.Helper()
	sb := l.Inspect(name)
	h, err := l.Host.Enter(name, sb.NetworkSettings.SandboxKey)
	l.must(err)
	l.Cleanup(h.Close)
	s := &Sandbox{Host: h, Name: name}
	for _, e := range sb.NetworkSettings.Networks {
		s.IP4, _ = netip.ParseAddr(e.IPAddress) // "" if there is none
		s.IP6, _ = netip.ParseAddr(e.GlobalIPv6Address)
		s.MAC = e.MacAddress
	}
	return s
}

// Remove removes the sandbox and stops its programs.
func (l *Lab) Remove(s *Sandbox) {
	l.Helper()
	l.Fairlead("rm", "-f", s.Name)
}

// IP returns the sandbox's address of a family.
func (s *Sandbox) IP(f Family) string {
	if f == IPv6 {
		return s.IP6.String()
	}
	return s.IP4.String()
}

// Inspect holds what `fairlead inspect` shows of a sandbox.
func (l *Lab) Inspect(name string) api.Sandbox {
	l.Helper()
	var list []api.Sandbox
	l.decode(&list, "inspect", name)
	return list[0]
}

// Network holds what `fairlead network inspect` shows of a network.
func (l *Lab) Network(name string) api.Network {
	l.Helper()
	var list []api.Network
	l.decode(&list, "network", "inspect", name)
	return list[0]
}

// Gateway returns a network's gateway address of a family.
func (l *Lab) Gateway(network string, f Family) string {
	l.Helper()
	for _, c := range l.Network(network).IPAM.Config {
		gw, err := netip.ParseAddr(c.Gateway)
		if err == nil && gw.Is6() == (f == IPv6) {
			return gw.String()
		}
	}
	l.Fatalf("network %s has no IPv%s gateway", network, f)
	return ""
}

func (l *Lab) decode(v any, args ...string) {
	l.Helper()
	out := l.Fairlead(args...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		l.Fatalf("fairlead %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// PublishedPort returns the host port of a sandbox's port ("80/tcp").
func (l *Lab) PublishedPort(s *Sandbox, port string) string {
	l.Helper()
	bindings := l.Inspect(s.Name).NetworkSettings.Ports[port]
	if len(bindings) == 0 {
		l.Fatalf("sandbox %s publishes no port %s", s.Name, port)
	}
	return bindings[0].HostPort
}

// Family is an IP version.
type Family int

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families lists both.
func Families() []Family { return []Family{IPv4, IPv6} }

func (f Family) String() string { return fmt.Sprint(int(f)) }

// Of returns the argument of the family.
func (f Family) Of(v4, v6 string) string {
	if f == IPv6 {
		return v6
	}
	return v4
}
