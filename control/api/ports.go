// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/fairlead-net/fairlead/control/model"
)

// portRange is lo … lo+count-1. A count of 0 means that no port was given.
type portRange struct{ lo, count uint16 }

func (r portRange) String() string {
	switch r.count {
	case 0:
		return ""
	case 1:
		return strconv.Itoa(int(r.lo))
	}
	return fmt.Sprintf("%d-%d", r.lo, int(r.lo)+int(r.count)-1)
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || s[0] == '+' {
		return 0, fmt.Errorf("%q is not a port number (0 to 65535)", s)
	}
	return uint16(n), nil
}

// parseRange parses "80" or "80-90".
func parseRange(s string) (portRange, error) {
	first, last, isRange := strings.Cut(s, "-")
	if s == "" {
		return portRange{}, fmt.Errorf("the port is missing")
	}
	lo, err := parsePort(first)
	if err != nil || !isRange {
		return portRange{lo, 1}, err
	}
	hi, err := parsePort(last)
	if err != nil {
		return portRange{}, err
	}
	if hi < lo {
		return portRange{}, fmt.Errorf("range %q ends before it begins", s)
	}
	if lo == 0 {
		return portRange{}, fmt.Errorf("range %q begins with 0; the lowest port is 1", s)
	}
	return portRange{lo, hi - lo + 1}, nil
}

func parseProto(s string) (model.Proto, error) {
	switch strings.ToLower(s) {
	case "tcp":
		return model.TCP, nil
	case "udp":
		return model.UDP, nil
	case "sctp":
		return model.SCTP, nil
	}
	return 0, fmt.Errorf("protocol %q is unknown (want tcp, udp or sctp)", s)
}

// parseTarget parses "PORT[-PORT][/PROTO]", the sandbox's side.
func parseTarget(s string) (model.PortProto, error) {
	ports, protoName, hasProto := strings.Cut(s, "/")
	proto := model.TCP
	if hasProto {
		var err error
		if proto, err = parseProto(protoName); err != nil {
			return model.PortProto{}, err
		}
	}
	if ports == "" {
		return model.PortProto{}, fmt.Errorf("the sandbox's port is missing")
	}
	r, err := parseRange(ports)
	if err != nil {
		return model.PortProto{}, fmt.Errorf("sandbox port: %w", err)
	}
	if r.lo == 0 {
		return model.PortProto{}, fmt.Errorf("sandbox port: 0 is not a port a program can listen on")
	}
	return model.PortProto{Port: r.lo, Count: r.count, Proto: proto}, nil
}

func formatTarget(p model.PortProto) string {
	return portRange{p.Port, p.Count}.String() + "/" + p.Proto.String()
}

// ParseExpose parses one --expose: PORT[-PORT][/PROTO].
func ParseExpose(s string) (model.PortProto, error) {
	p, err := parseTarget(s)
	if err != nil {
		return p, fmt.Errorf("exposed port %q: %w", s, err)
	}
	return p, nil
}

// ParsePublish parses one -p: [IP:][HOST[-HOST]:]PORT[-PORT][/PROTO][,from=PREFIX]…, with an IPv6
// address in brackets. Host port 0 or none means one from the ephemeral range.
func ParsePublish(s string) (model.PortSpec, error) {
	port, rest, limited := strings.Cut(s, ",")
	spec, err := parsePublish(port)
	if err == nil && limited {
		spec.From, err = parseFrom(rest)
	}
	if err != nil {
		return model.PortSpec{}, fmt.Errorf("published port %q: %w", port, err)
	}
	return spec, nil
}

// FromText describes the prefixes of clients, at most the first most of them, to be appended to a port; "" for all clients.
func FromText(from []string, most int) string {
	switch more := len(from) - most; {
	case len(from) == 0:
		return ""
	case more > 0:
		return fmt.Sprintf(" from %s and %d more", strings.Join(from[:most], " "), more)
	}
	return " from " + strings.Join(from, " ")
}

// parseFrom parses what follows the port: from=PREFIX[,from=PREFIX]….
func parseFrom(s string) (model.Sources, error) {
	var list []string
	for _, option := range strings.Split(s, ",") {
		prefix, ok := strings.CutPrefix(option, "from=")
		if !ok {
			return "", fmt.Errorf("%q is not an option of a published port (want from=PREFIX)", option)
		}
		list = append(list, prefix)
	}
	return model.ParseSources(list)
}

func parsePublish(s string) (model.PortSpec, error) {
	rest := s
	var ip netip.Addr
	if inner, ok := strings.CutPrefix(rest, "["); ok {
		addr, after, ok := strings.Cut(inner, "]:")
		if !ok {
			return model.PortSpec{}, fmt.Errorf("want [IPv6]:HOST:PORT")
		}
		var err error
		if ip, err = parseHostIP(addr); err != nil {
			return model.PortSpec{}, err
		}
		if ip.Is4() {
			return model.PortSpec{}, fmt.Errorf("brackets are for IPv6 addresses, %s is IPv4", ip)
		}
		if strings.Count(after, ":") != 1 {
			return model.PortSpec{}, fmt.Errorf("want [IPv6]:HOST:PORT, or [IPv6]::PORT for any host port")
		}
		rest = after
	}
	parts := strings.Split(rest, ":")
	switch {
	case len(parts) == 3 && parts[0] != "":
		var err error
		if ip, err = parseHostIP(parts[0]); err != nil {
			return model.PortSpec{}, err
		}
	case len(parts) > 3:
		return model.PortSpec{}, fmt.Errorf("too many colons; write an IPv6 address in brackets, as in [::1]:8080:80")
	}
	host := ""
	if len(parts) > 1 {
		host = parts[len(parts)-2]
	}
	return portSpec(ip, host, parts[len(parts)-1])
}

func parseHostIP(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Errorf("%q is not an IP address (names are not resolved)", s)
	}
	if a.Zone() != "" {
		return a, fmt.Errorf("address %q has a zone, which a published port cannot have", s)
	}
	if a = a.Unmap(); a.IsMulticast() {
		return a, fmt.Errorf("address %q is multicast", s)
	}
	return a, nil
}

// portSpec joins the three parts of a published port.
func portSpec(ip netip.Addr, host, target string) (model.PortSpec, error) {
	t, err := parseTarget(target)
	if err != nil {
		return model.PortSpec{}, err
	}
	spec := model.PortSpec{HostIP: ip, Port: t.Port, Count: t.Count, Proto: t.Proto}
	if host == "" {
		return spec, nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return model.PortSpec{}, fmt.Errorf("an address must be followed by a host port, which may be empty, as in %s::%s", host, target)
	}
	h, err := parseRange(host)
	if err != nil {
		return model.PortSpec{}, fmt.Errorf("host port: %w", err)
	}
	if h.lo == 0 {
		return spec, nil // in Docker, 0 also means any port
	}
	if h.count != t.Count && t.Count != 1 {
		return model.PortSpec{}, fmt.Errorf("the numbers of host ports %s and sandbox ports %s differ", h, portRange{t.Port, t.Count})
	}
	spec.HostPort, spec.HostCount = h.lo, h.count
	return spec, nil
}
