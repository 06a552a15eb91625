// SPDX-License-Identifier: Apache-2.0

package faces

import (
	"errors"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
	"github.com/fairlead-net/fairlead/test/machine"
)

// refusing are things that cannot be had.
var refusing = chain{
	{"a port that another container publishes", func(s *stage) string {
		return s.taken(container{name: "rob", network: "web", publish: []string{"18080:80"}})
	}},
	{"a port that a program of the host uses", func(s *stage) string {
		l, err := s.Host.Listen("tcp", ":18100")
		if err != nil {
			return failed(err)
		}
		defer l.Close()
		return s.taken(container{name: "rob", network: "web", publish: []string{"18100:80"}})
	}},
	{"a program of the host binds a published TCP port", func(s *stage) string {
		l, err := s.Host.Listen("tcp", ":18080")
		if err != nil {
			return "refused"
		}
		l.Close()
		return "gets it"
	}},
	{"a program of the host binds a published UDP port", func(s *stage) string {
		c, err := s.Host.ListenPacket("udp", ":18080")
		if err != nil {
			return "refused"
		}
		c.Close()
		return "gets it"
	}},
	{"an address outside of the subnet", func(s *stage) string {
		return s.taken(container{name: "rob", network: "web", ip: "10.99.0.5"})
	}},
	{"an address that another container has", func(s *stage) string {
		return s.taken(container{name: "rob", network: "web", ip: s.ip("anna")})
	}},
	{"removal of a network that is in use", func(s *stage) string {
		if err := s.removeNetwork("cellar"); err != nil {
			return s.refusal(err)
		}
		return "removed"
	}},
}

// reasons are what faces say when they refuse because of what they were asked for.
var reasons = []string{"already", "in use", "subnet", "taken", "contain", "active endpoints"}

// taken tries to start a container that asks for too much.
func (s *stage) taken(c container) string {
	err := s.run(c)
	if err == nil {
		err = s.remove(c.name)
		if err == nil {
			return "gets it"
		}
		return failed(err)
	}
	return s.refusal(err)
}

// refusal is the observation of an error that tells why.
func (s *stage) refusal(err error) string {
	if slices.ContainsFunc(reasons, func(text string) bool { return strings.Contains(err.Error(), text) }) {
		return "refused"
	}
	return failed(err)
}

// living is a container that chose its addresses, through a restart.
var living = chain{
	{"a fixed address", func(s *stage) string {
		fred := container{name: "fred", network: "web", ip: "10.77.0.50", mac: "02:11:22:33:44:55", publish: []string{"18086:80", "18086:80/udp"}}
		err := s.begin(fred)
		if s.unfixed = errors.Is(err, errLacks); s.unfixed {
			fred.ip, fred.mac = "", ""
			err = s.begin(fred)
		}
		if err != nil {
			return failed(err)
		}
		return s.hasIP("fred")
	}},
	{"a fixed MAC", func(s *stage) string { return s.hasMAC("fred") }},
	{"a UDP client continues across a restart", func(s *stage) string {
		c, err := s.Outside.Dial(net.Dialer{}, "udp", net.JoinHostPort(lab.Host4, "18086"))
		if err != nil {
			return failed(err)
		}
		defer c.Close()
		if _, err := say(c, 8); err != nil {
			return failed(err)
		}
		s.leave("fred")
		if err := s.restart("fred"); err != nil {
			return failed(err)
		}
		if err := s.serves("fred"); err != nil {
			return failed(err)
		}
		_, err = say(c, 8)
		return word(err)
	}},
	{"a published port after a restart: the server sees", func(s *stage) string { return s.seen(s.Outside, "tcp", lab.Host4, 18086) }},
	{"the fixed address after a restart", func(s *stage) string { return s.hasIP("fred") }},
	{"the fixed MAC after a restart", func(s *stage) string { return s.hasMAC("fred") }},
}

func (s *stage) hasIP(name string) string {
	if s.unfixed {
		return failed(errLacks)
	}
	return same(s.ip(name) == "10.77.0.50")
}

func (s *stage) hasMAC(name string) string {
	d, err := s.device(name, "eth0")
	if s.unfixed {
		err = errLacks
	}
	if err != nil {
		return failed(err)
	}
	return same(d.HardwareAddr.String() == "02:11:22:33:44:55")
}

func same(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

// moving is a container that leaves one network for another.
var moving = chain{
	{"connect while running: the new network is reached", func(s *stage) string {
		if err := s.begin(container{name: "mo", network: "other", publish: []string{"18087:80"}}); err != nil {
			return failed(err)
		}
		if err := s.connect("web", "mo"); err != nil {
			return failed(err)
		}
		return reached(s.in("mo"), "tcp", s.ip("ben"), 80)
	}},
	{"and the old one", func(s *stage) string { return reached(s.in("mo"), "tcp", s.ip("otto"), 80) }},
	{"the default route, with a second network whose name sorts later", func(s *stage) string { return s.defaultRoute("mo") }},
	{"the published port then: the server sees", moved},
	{"the default route, with a third network whose name sorts first", func(s *stage) string {
		if err := s.connect("attic", "mo"); err != nil {
			return failed(err)
		}
		return s.defaultRoute("mo")
	}},
	{"the published port then, again", moved},
	{"disconnect while running: the network is reached", func(s *stage) string {
		for _, n := range []string{"other", "attic"} {
			_ = s.in("mo") // if there is one
			if err := s.disconnect(n, "mo"); err != nil {
				return failed(err)
			}
		}
		return reached(s.in("mo"), "tcp", s.ip("otto"), 80)
	}},
	{"the default route after that", func(s *stage) string { return s.defaultRoute("mo") }},
	{"the published port after that: the server sees", moved},
}

// moved asks the container at its published port.
func moved(s *stage) string {
	_ = s.in("mo") // if there is one
	return s.seen(s.Outside, "tcp", lab.Host4, 18087)
}

// defaultRoute returns the network of a container's IPv4 default route.
func (s *stage) defaultRoute(name string) string {
	route, err := on(s.in(name), "ip", "-4", "route", "show", "default")
	if err != nil {
		return failed(err)
	}
	for _, n := range networks {
		gateway := strings.Replace(n.subnet4, ".0/24", ".1", 1)
		if strings.Contains(route, "via "+gateway+" ") {
			return n.name
		}
	}
	return "none"
}

// leaving is a network with two containers that come and go.
var leaving = chain{
	{"publishing changes netfilter's rules", func(s *stage) string {
		var err error
		if s.before, err = s.traces(); err != nil {
			return failed(err)
		}
		brief := network{name: "brief", subnet4: "10.90.0.0/24", subnet6: "fd00:90::/64"}
		err = s.createNetwork(brief)
		if errors.Is(err, errLacks) { // of what there is
			brief, err = networks[0], nil
		}
		if err != nil {
			return failed(err)
		}
		if err := s.begin(container{name: "tom", network: brief.name}); err != nil {
			return failed(err)
		}
		if s.between, err = s.traces(); err != nil {
			return failed(err)
		}
		if err := s.begin(container{name: "tim", network: brief.name, publish: []string{"18088:80"}}); err != nil {
			return failed(err)
		}
		now, err := s.traces()
		if err != nil {
			return failed(err)
		}
		return same(now.rules != s.between.rules)
	}},
	{"what is left of a removed container", func(s *stage) string {
		namespace, err := s.netns("tim")
		if err != nil {
			return failed(err)
		}
		s.leave("tim")
		if err := s.remove("tim"); err != nil {
			return failed(err)
		}
		return s.left(s.between, namespace)
	}},
	{"what is left of a removed network", func(s *stage) string {
		s.leave("tom")
		if err := s.remove("tom"); err != nil {
			return failed(err)
		}
		if err := s.removeNetwork("brief"); err != nil {
			return failed(err)
		}
		return s.left(s.before)
	}},
}

// left is what there is that was not, and namespaces that are there yet.
func (s *stage) left(before traces, namespaces ...string) string {
	watch := machine.Start()
	defer watch.Stop()
	for ; ; time.Sleep(50 * time.Millisecond) {
		now, err := s.traces()
		if err != nil {
			return failed(err)
		}
		var left []string
		if now.devices != before.devices {
			left = append(left, "devices")
		}
		for _, path := range namespaces {
			// Engine 20.10 leaves a file where it was for a minute.
			if kind, err := on(s.Host, "stat", "--file-system", "--format", "%T", path); err == nil && kind == "nsfs" {
				left = append(left, "namespace")
			}
		}
		if now.routes != before.routes {
			left = append(left, "routes")
		}
		if now.rules != before.rules {
			left = append(left, "rules")
		}
		if len(left) == 0 {
			return "nothing"
		}
		if watch.Over(5 * time.Second) {
			return strings.Join(left, ", ")
		}
	}
}

// traces are what containers and networks may leave on the host.
type traces struct{ rules, devices, routes string }

func (s *stage) traces() (t traces, err error) {
	for _, c := range []struct {
		into   *string
		script string
	}{
		{&t.rules, "{ iptables-save; ip6tables-save; nft list ruleset; } 2>/dev/null | sed -e '/^#/d' -e 's/\\[[0-9:]*\\]//' -e 's/counter packets [0-9]* bytes [0-9]*//'"},
		{&t.devices, "ip -o link | cut -d: -f2 | sort"},
		{&t.routes, "ip route; ip -6 route"},
	} {
		if *c.into, err = on(s.Host, "sh", "-c", c.script); err != nil {
			return t, err
		}
	}
	return t, nil
}

// killing is what goes on when the daemon that looks after the network is killed.
var killing = chain{
	{"network daemon killed: an open connection continues", func(s *stage) string {
		c, err := s.Outside.Dial(net.Dialer{Timeout: silence}, "tcp", net.JoinHostPort(lab.Host4, "18080"))
		if err != nil {
			return failed(err)
		}
		defer c.Close()
		if _, err := say(c, 8); err != nil {
			return failed(err)
		}
		s.kill()
		_, err = say(c, 8)
		return word(err)
	}},
	{"then, published TCP from outside: the server sees", func(s *stage) string { return s.seen(s.Outside, "tcp", lab.Host4, 18080) }},
	{"then, published TCP from the host at 127.0.0.1", func(s *stage) string { return s.seen(s.Host, "tcp", "127.0.0.1", 18080) }},
	{"then, published TCP from a neighbour", func(s *stage) string { return s.seen(s.in("anna"), "tcp", lab.Host4, 18080) }},
	{"then, container to container by address", func(s *stage) string { return s.seen(s.in("anna"), "tcp", s.ip("ben"), 80) }},
	{"then, container to outside: the server sees", func(s *stage) string { return s.seen(s.in("anna"), "tcp", lab.Outside4, outsidePort) }},
}

// choosing is a container whose address the face chose.
var choosing = chain{
	{"an address that was not fixed, after a restart", func(s *stage) string {
		err := s.begin(container{name: "gina", network: "quiet"})
		if errors.Is(err, errLacks) {
			err = s.begin(container{name: "gina", network: networks[0].name})
		}
		if err != nil {
			return failed(err)
		}
		before := s.ip("gina")
		s.leave("gina")
		if err := s.restart("gina"); err != nil {
			return failed(err)
		}
		if err := s.serves("gina"); err != nil {
			return failed(err)
		}
		if now := s.ip("gina"); now != before {
			return "another"
		}
		return "the same"
	}},
}
