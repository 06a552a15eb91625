// SPDX-License-Identifier: Apache-2.0

package faces

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// behaviour is something that users of a face see.
type behaviour struct {
	name string
	// observe says in a word what it is like.
	observe func(s *stage) string
}

// chain is behaviours that follow from each other.
type chain []behaviour

// Chains of one phase are observed side by side, and are in nobody's way.
func phases() [][]chain {
	first := []chain{refusing, living, choosing, moving}
	for _, b := range looking {
		first = append(first, chain{b})
	}
	return [][]chain{first, {leaving}, {killing}}
}

// behaviours are all, as the table has them.
func behaviours() []behaviour {
	var all []behaviour
	for _, part := range []chain{looking, refusing, living, choosing, moving, leaving, killing} {
		all = append(all, part...)
	}
	return all
}

// observe puts what each behaviour is like.
func (s *stage) observe(put func(behaviour, observation string)) {
	for _, chains := range phases() {
		var wg sync.WaitGroup
		for _, c := range chains {
			wg.Go(func() {
				last := ""
				for _, b := range c {
					if !isFailure(last) { // what follows from it cannot be seen
						last = s.try(b)
					}
					put(b.name, last)
				}
			})
		}
		wg.Wait()
	}
}

// try observes, unless the face has no such container.
func (s *stage) try(b behaviour) (observation string) {
	defer func() {
		switch what := recover().(type) {
		case nil:
		case absent:
			observation = failed(errLacks)
		default:
			panic(what)
		}
	}()
	return b.observe(s)
}

// looking are behaviours that can be seen of what there is.
var looking = chain{
	{"container to container by address: the server sees", func(s *stage) string { return s.seen(s.in("anna"), "tcp", s.ip("ben"), 80) }},
	{"container to container by IPv6 address: the server sees", func(s *stage) string { return s.seen(s.in("anna"), "tcp", s.ip6("ben"), 80) }},
	{"a broadcast reaches the others", broadcast},
	{"the name of a container", func(s *stage) string { return s.named("anna", "ben", s.ip("ben")) }},
	{"its alias", func(s *stage) string { return s.named("anna", "benjamin", s.ip("ben")) }},
	{"its short ID", func(s *stage) string {
		id, err := s.id("ben")
		if err != nil {
			return failed(err)
		}
		return s.named("anna", id[:12], s.ip("ben"))
	}},
	{"a public name, by the host's resolver", func(s *stage) string { return s.named("anna", "example.com", lab.Internet4) }},
	{"the same, after the container flushed its own netfilter rules", func(s *stage) string {
		if _, err := on(s.in("otto"), "nft", "flush", "ruleset"); err != nil {
			return failed(err)
		}
		return s.named("otto", "example.com", lab.Internet4)
	}},
	{"the same, from an internal network", func(s *stage) string { return s.named("cleo", "example.com", lab.Internet4) }},
	{"container to a container of another network", func(s *stage) string { return reached(s.in("otto"), "tcp", s.ip("ben"), 80) }},
	{"internal network: container to container", func(s *stage) string { return reached(s.in("cleo"), "tcp", s.ip("cato"), 80) }},
	{"internal network: container to outside", func(s *stage) string { return reached(s.in("cleo"), "tcp", lab.Outside4, outsidePort) }},
	{"internal network: host to container", func(s *stage) string { return reached(s.Host, "tcp", s.ip("cleo"), 80) }},
	{"icc=false: container to container", func(s *stage) string { return reached(s.in("ina"), "tcp", s.ip("ivo"), 80) }},
	{"icc=false: container to outside", func(s *stage) string { return reached(s.in("ina"), "tcp", lab.Outside4, outsidePort) }},
	{"icc=false: container to a neighbour's published port", func(s *stage) string { return s.seen(s.in("ina"), "tcp", lab.Host4, 18085) }},
	{"container to container: ping", func(s *stage) string { return ping(s.in("anna"), s.ip("ben")) }},
	{"container to its gateway: ping", func(s *stage) string { return ping(s.in("anna"), "10.77.0.1") }},
	{"container to the gateway of another network: ping", func(s *stage) string {
		_ = s.in("otto") // if there is another
		return ping(s.in("anna"), "10.78.0.1")
	}},
	{"container to outside: ping", func(s *stage) string { return ping(s.in("anna"), lab.Outside4) }},
	{"host to container by address", func(s *stage) string { return s.seen(s.Host, "tcp", s.ip("ben"), 80) }},
	{"container to outside, TCP: the server sees", func(s *stage) string { return s.seen(s.in("anna"), "tcp", lab.Outside4, outsidePort) }},
	{"container to outside, UDP: the server sees", func(s *stage) string { return s.seen(s.in("anna"), "udp", lab.Outside4, outsidePort) }},
	{"container to outside, IPv6: the server sees", func(s *stage) string { return s.seen(s.in("anna"), "tcp", lab.Outside6, outsidePort) }},
	{"container to the address of the host: the server sees", hostServer},
	{"published TCP from outside: the server sees", func(s *stage) string { return s.seen(s.Outside, "tcp", lab.Host4, 18080) }},
	{"published TCP from the host by its address", func(s *stage) string { return s.seen(s.Host, "tcp", lab.Host4, 18080) }},
	{"published TCP from the host at 127.0.0.1", func(s *stage) string { return s.seen(s.Host, "tcp", "127.0.0.1", 18080) }},
	{"published TCP from the host at ::1", func(s *stage) string { return s.seen(s.Host, "tcp", "::1", 18080) }},
	{"published TCP from the host at the gateway", func(s *stage) string { return s.seen(s.Host, "tcp", "10.77.0.1", 18080) }},
	{"published TCP from a neighbour", func(s *stage) string { return s.seen(s.in("anna"), "tcp", lab.Host4, 18080) }},
	{"published TCP from a neighbour at the gateway", func(s *stage) string { return s.seen(s.in("anna"), "tcp", "10.77.0.1", 18080) }},
	{"published TCP from another network", func(s *stage) string { return s.seen(s.in("otto"), "tcp", lab.Host4, 18080) }},
	{"published TCP from an internal network", func(s *stage) string { return reached(s.in("cleo"), "tcp", lab.Host4, 18080) }},
	{"published TCP from the container itself", func(s *stage) string { return s.seen(s.in("ben"), "tcp", lab.Host4, 18080) }},
	{"published UDP from outside", func(s *stage) string { return s.seen(s.Outside, "udp", lab.Host4, 18080) }},
	{"published UDP from the host by its address", func(s *stage) string { return s.seen(s.Host, "udp", lab.Host4, 18080) }},
	{"published UDP from the host at 127.0.0.1", func(s *stage) string { return s.seen(s.Host, "udp", "127.0.0.1", 18080) }},
	{"published UDP from the host at ::1", func(s *stage) string { return s.seen(s.Host, "udp", "::1", 18080) }},
	{"published UDP from a neighbour", func(s *stage) string { return s.seen(s.in("anna"), "udp", lab.Host4, 18080) }},
	{"published UDP from another network", func(s *stage) string { return s.seen(s.in("otto"), "udp", lab.Host4, 18080) }},
	{"published UDP from the container itself", func(s *stage) string { return s.seen(s.in("ben"), "udp", lab.Host4, 18080) }},
	{"published over IPv6 from outside", func(s *stage) string { return s.seen(s.Outside, "tcp", lab.Host6, 18080) }},
	{"published over IPv6 from the host by its address", func(s *stage) string { return s.seen(s.Host, "tcp", lab.Host6, 18080) }},
	{"published over IPv6 from a neighbour", func(s *stage) string { return s.seen(s.in("anna"), "tcp", lab.Host6, 18080) }},
	{"published over IPv6, UDP, from outside", func(s *stage) string { return s.seen(s.Outside, "udp", lab.Host6, 18080) }},
	{"published at 127.0.0.1: from the host", func(s *stage) string { return reached(s.Host, "tcp", "127.0.0.1", 18081) }},
	{"published at 127.0.0.1: from outside", func(s *stage) string { return reached(s.Outside, "tcp", lab.Host4, 18081) }},
	{"published at one address: from outside", func(s *stage) string { return reached(s.Outside, "tcp", lab.Host4, 18082) }},
	{"published at one address: from the host at 127.0.0.1", func(s *stage) string { return reached(s.Host, "tcp", "127.0.0.1", 18082) }},
	{"a range is published port by port", func(s *stage) string {
		got, err := ask(s.Outside, "tcp", net.JoinHostPort(lab.Host4, "18091"))
		if err == nil && !strings.HasSuffix(got, " 91") {
			err = fmt.Errorf("the answer is %q", got)
		}
		return word(err)
	}},
	{"a port is chosen for -p 81, and answers outside", func(s *stage) string { return s.chosen(s.Outside, lab.Host4, "81/tcp") }},
	{"a port is chosen for -p 127.0.0.1::82, and answers there", func(s *stage) string { return s.chosen(s.Host, "127.0.0.1", "82/tcp") }},
	{"published ports are shown", func(s *stage) string {
		text, err := s.ports("ben")
		switch {
		case err != nil:
			return failed(err)
		case strings.Contains(text, "80/tcp -> 0.0.0.0:18080"):
			return "yes"
		}
		return "no"
	}},
	{"outside, straight to the address of a container: its published port", func(s *stage) string { return reached(s.Outside, "tcp", s.ip("ben"), 80) }},
	{"outside, straight to the address of a container: another port", func(s *stage) string { return reached(s.Outside, "tcp", s.ip("anna"), 80) }},
	{"outside, straight to the IPv6 address of a container", func(s *stage) string { return reached(s.Outside, "tcp", s.ip6("anna"), 80) }},
	{"MTU", func(s *stage) string { return s.mtu("ben") }},
	{"MTU with driver.mtu=1400", func(s *stage) string { return s.mtu("ina") }},
	{"a container learns the MTU of a narrow link beyond", func(s *stage) string { return learnsMTU(s, far4) }},
	{"a container learns the MTU of a route of the host", func(s *stage) string { return learnsMTU(s, lab.Internet4) }},
	{"a container learns the locked MTU of a route of the host", func(s *stage) string { return learnsMTU(s, second4) }},
	{"a datagram of 30 000 bytes and back: container to container", func(s *stage) string { return large(s.in("anna"), s.ip("ben"), 80) }},
	{"a datagram of 30 000 bytes and back: container to outside", func(s *stage) string { return large(s.in("anna"), lab.Outside4, outsidePort) }},
	{"a datagram of 30 000 bytes and back: to a published port", func(s *stage) string { return large(s.Outside, lab.Host4, 18080) }},
	{"a container uses an address it gave itself", spoof},
}

// named says whether a container finds that address for a name.
func (s *stage) named(container, name, address string) string {
	_ = s.in(container)
	got, err := s.exec(container, "lookup", name)
	switch {
	case err != nil && strings.Contains(err.Error(), "peer: lookup"):
		return "no"
	case err != nil:
		return failed(err)
	case !strings.Contains(got+"\n", address+"\n"):
		return failed(fmt.Errorf("%s has %q, not %s", name, got, address))
	}
	return "yes"
}

// broadcast asks all members of a network.
func broadcast(s *stage) string {
	c, err := s.in("anna").ListenPacket("udp4", ":0")
	if err != nil {
		return failed(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(silence))
	b := make([]byte, 100)
	if _, err := c.WriteTo(b, &net.UDPAddr{IP: net.IPv4(10, 77, 0, 255), Port: 80}); err != nil {
		return failed(err)
	}
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil || strings.HasPrefix(string(b[:n]), "ben ") {
			return word(err)
		}
	}
}

// ping says whether there is an answer.
func ping(h *world.Host, address string, flags ...string) string {
	if _, err := on(h, "ping", append([]string{"-n", "-c", "2", "-i", "0.2", "-W", "2", address}, flags...)...); err != nil {
		return "no"
	}
	return "yes"
}

// hostServer asks a server of the host's.
func hostServer(s *stage) string {
	p := s.Spawn(s.Host, peer, "serve", "host", "18200")
	defer p.Kill()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if _, err := ask(s.Host, "tcp", "127.0.0.1:18200"); err == nil {
			return s.seen(s.in("anna"), "tcp", lab.Host4, 18200)
		} else if time.Now().After(deadline) {
			return failed(err)
		}
	}
}

// chosen asks at the host port that was chosen for a container's.
func (s *stage) chosen(from *world.Host, address, port string) string {
	text, err := s.published("ben")
	if err != nil {
		return failed(err)
	}
	for line := range strings.Lines(text) {
		at, ok := strings.CutPrefix(strings.TrimSpace(line), port+" -> ")
		host, chosen, err := net.SplitHostPort(at)
		if ok && err == nil && !strings.Contains(host, ":") {
			_, err := ask(from, "tcp", net.JoinHostPort(address, chosen))
			return word(err)
		}
	}
	return "no"
}

func (s *stage) mtu(name string) string {
	d, err := s.device(name, "eth0")
	if err != nil {
		return failed(err)
	}
	return fmt.Sprint(d.MTU)
}

// learnsMTU sends a container's packets that are too long for the way.
func learnsMTU(s *stage, address string) string {
	_, err := on(s.in("anna"), "ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", "-M", "do", "-s", "1400", address)
	switch told := fmt.Sprint("mtu = ", narrow); {
	case err == nil:
		return "they pass"
	case strings.Contains(err.Error(), told), strings.Contains(err.Error(), strings.ReplaceAll(told, " ", "")):
		return "yes"
	}
	return "no"
}

// large sends a datagram that takes many fragments.
func large(from *world.Host, address string, port int) string {
	_, err := askFor(from, "udp", net.JoinHostPort(address, fmt.Sprint(port)), 30_000)
	return word(err)
}

// spoof asks with an address that nobody gave the container. It asks with its own first:
// else the kernel would ask for the neighbour with that address, too, for all the others
// that ask at this time.
func spoof(s *stage) string {
	const own = "10.77.0.200"
	if _, err := ask(s.in("anna"), "tcp", s.ip("ben")+":80"); err != nil {
		return failed(err)
	}
	if err := s.in("anna").IP("addr add " + own + "/24 dev eth0"); err != nil {
		return failed(err)
	}
	c, err := s.in("anna").Dial(net.Dialer{Timeout: silence, LocalAddr: &net.TCPAddr{IP: net.ParseIP(own)}}, "tcp", s.ip("ben")+":80")
	if err == nil {
		c.Close()
	}
	return word(err)
}
