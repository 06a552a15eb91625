// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/fairlead-net/fairlead/control/model"
)

// fromPorts answers an SRV query (RFC 2782) for a port that sandboxes or services publish or expose: _PORT._PROTO.NAME, where
// PORT is a number or its name in /etc/services. It returns nil if the query has another form, or the name is unknown.
func fromPorts(n *names, c *client, networks []string, q *dns.Msg) *dns.Msg {
	question := q.Question[0]
	labels := strings.SplitN(strings.ToLower(strings.TrimSuffix(question.Name, ".")), ".", 3)
	if question.Qtype != dns.TypeSRV || len(labels) != 3 {
		return nil
	}
	port, ok := portOf(labels[0], labels[1])
	if !ok {
		return nil
	}
	found := lookUp(n, c, networks, labels[2])
	if found == nil {
		return nil
	}
	a := reply(q, dns.RcodeSuccess)
	for _, to := range found {
		target, ports := n.open(to)
		if !slices.ContainsFunc(ports, func(p model.PortProto) bool {
			return p.Proto == port.Proto && port.Port >= p.Port && port.Port-p.Port < max(p.Count, 1)
		}) {
			continue
		}
		target = dns.Fqdn(target)
		a.Answer = append(a.Answer, &dns.SRV{Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeSRV, Class: dns.ClassINET, Ttl: ttl}, Port: port.Port, Target: target})
		if addr := to.Addr(model.V4); addr.IsValid() {
			a.Extra = append(a.Extra, &dns.A{Hdr: dns.RR_Header{Name: target, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: addr.AsSlice()})
		}
		if addr := to.Addr(model.V6); addr.IsValid() {
			a.Extra = append(a.Extra, &dns.AAAA{Hdr: dns.RR_Header{Name: target, Rrtype: dns.TypeAAAA, Class: dns.ClassINET, Ttl: ttl}, AAAA: addr.AsSlice()})
		}
	}
	return a
}

// portOf parses the labels of a port and a protocol.
func portOf(port, proto string) (p model.PortProto, ok bool) {
	port, ok1 := strings.CutPrefix(port, "_")
	proto, ok2 := strings.CutPrefix(proto, "_")
	switch proto {
	case "tcp":
		p.Proto = model.TCP
	case "udp":
		p.Proto = model.UDP
	default:
		return p, false
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		named, err := net.LookupPort(proto, port) // of /etc/services
		if err != nil {
			return p, false
		}
		number = uint64(named)
	}
	p.Port = uint16(number)
	return p, ok1 && ok2 && number > 0
}

// open returns the name of a sandbox or a service, qualified by a network, and the ports that it publishes or exposes. Those of
// members on other nodes are not known here.
func (n *names) open(to addressed) (name string, ports []model.PortProto) {
	network := ""
	switch to := to.(type) {
	case *model.Endpoint:
		sb := n.snapshot.Sandbox(to.SandboxID)
		if sb == nil {
			return "", nil
		}
		name, network = sb.Name, to.NetworkID
		ports = slices.Clone(sb.Expose)
		for _, b := range sb.Ports {
			ports = append(ports, model.PortProto{Port: b.Port, Count: b.Count, Proto: b.Proto})
		}
	case *model.Service:
		name, network = to.Name, to.NetworkID
		for _, b := range to.Ports {
			ports = append(ports, model.PortProto{Port: b.Port, Count: b.Count, Proto: b.Proto})
		}
	}
	if in := n.snapshot.Network(network); in != nil {
		name += "." + in.Name
	}
	return name, ports
}
