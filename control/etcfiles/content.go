// SPDX-License-Identifier: Apache-2.0

package etcfiles

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// base is the beginning of /etc/hosts. Lines of IPv6 are left out where the sandbox has none, as in Docker.
const (
	base4 = "127.0.0.1\tlocalhost\n"
	base6 = "::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
)

// content returns the files of a sandbox. Those in the host's namespace begin with etcHosts, its /etc/hosts.
func content(s *desired.Snapshot, sb *model.Sandbox, host resolvConf, etcHosts string) map[string]string {
	in := attachments(s, sb)
	files := map[string]string{Hosts: hosts(s, sb, in, etcHosts), ResolvConf: host.of(sb, in)}
	if name := sb.UTSName(); name != "" {
		files[Hostname] = name + "\n"
	}
	return files
}

// attachment is an endpoint of a sandbox and its network.
type attachment struct {
	*model.Endpoint
	network *model.Network
}

// attachments returns the endpoints of a sandbox in the order of attachment, that of its default route first.
func attachments(s *desired.Snapshot, sb *model.Sandbox) (list []attachment) {
	for ep := range s.EndpointsOf(sb.ID) {
		if n := s.Network(ep.NetworkID); n != nil {
			list = append(list, attachment{ep, n})
		}
	}
	slices.SortFunc(list, func(a, b attachment) int {
		if a.IsGateway() != b.IsGateway() {
			if a.IsGateway() {
				return -1
			}
			return 1
		}
		return a.Order - b.Order
	})
	return list
}

func hosts(s *desired.Snapshot, sb *model.Sandbox, in []attachment, etcHosts string) string {
	var b strings.Builder
	if sb.NetworkMode == model.NetworkHost {
		b.WriteString(etcHosts)
	} else {
		b.WriteString(base4)
		if slices.ContainsFunc(in, func(a attachment) bool { return a.IPv6.IsValid() }) {
			b.WriteString(base6)
		}
	}
	for _, line := range sb.Lookup.Hosts {
		addrs := []netip.Addr{line.Addr}
		if !line.Addr.IsValid() {
			addrs = hostGateway(in)
		}
		for _, a := range addrs {
			fmt.Fprintf(&b, "%s\t%s\n", a, line.Name)
		}
	}
	own := strings.Join(sb.Names(), " ")
	for _, a := range in {
		for _, f := range model.Families {
			if addr := a.Addr(f); addr.IsValid() {
				fmt.Fprintf(&b, "%s\t%s\n", addr, own)
			}
		}
		if !a.network.Resolves() {
			writeLinks(&b, s, a)
		}
	}
	return b.String()
}

// hostGateway returns the addresses at which a sandbox reaches the host: those of the gateway of its default
// route, or of its first network. In a network with a parent the gateway is not the host, which is a member of it or
// is not reached there, so the next one counts. A sandbox in the host's namespace reaches it at the loopback address.
func hostGateway(in []attachment) (addrs []netip.Addr) {
	if len(in) == 0 {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	for _, a := range in {
		prefixes := a.network.NodePrefixes()
		if a.network.Has().OnHost == model.DeviceHostPort {
			prefixes = a.network.GatewayPrefixes()
		}
		for _, p := range prefixes {
			addrs = append(addrs, p.Addr())
		}
		if len(addrs) > 0 {
			break
		}
	}
	return addrs
}

// writeLinks writes the lines of links in a network that has no name server.
func writeLinks(b *strings.Builder, s *desired.Snapshot, a attachment) {
	for _, link := range a.Links {
		to, err := s.FindSandbox(link.Target)
		if err != nil {
			continue
		}
		ep := s.Connection(to.ID, a.NetworkID)
		if ep == nil {
			continue
		}
		names := slices.Compact([]string{link.Alias, model.ShortID(to.ID), to.Name})
		for _, f := range model.Families {
			if addr := ep.Addr(f); addr.IsValid() {
				fmt.Fprintf(b, "%s\t%s\n", addr, strings.Join(names, " "))
			}
		}
	}
}

// resolvConf is what matters of the host's resolv.conf.
type resolvConf struct {
	path            string
	servers         []string
	search, options []string
}

// parse reads a resolv.conf. As in libc, the last line of search or domain counts, and lines of options add up.
func parse(path, text string) (c resolvConf) {
	c.path = path
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			c.servers = append(c.servers, f[1])
		case "domain", "search":
			c.search = f[1:]
		case "options":
			c.options = append(c.options, f[1:]...)
		}
	}
	return c
}

// public are the servers of sandboxes in networks without names, if the host has none that they can reach: Docker's
// choice.
var public = map[model.Family][]string{model.V4: {"8.8.8.8", "8.8.4.4"}, model.V6: {"2001:4860:4860::8888", "2001:4860:4860::8844"}}

// of returns a sandbox's resolv.conf.
func (c resolvConf) of(sb *model.Sandbox, in []attachment) string {
	var notes, overrides []string
	servers, search, options := c.servers, c.search, c.options
	from := fmt.Sprintf("# Based on host file: '%s'", c.path)
	local, inside := localServer(sb, in)
	ofHost := true
	if lease := leaseOf(in); lease != nil && (local == "" || inside) {
		ofHost = false
		servers, search, from = nil, nil, fmt.Sprintf("# Based on what the DHCP server %v says", lease.Server)
		for _, a := range lease.DNS {
			servers = append(servers, a.String())
		}
		if lease.Domain != "" {
			search = []string{lease.Domain}
		}
	}
	if len(sb.Lookup.Servers) > 0 {
		overrides, servers, ofHost = append(overrides, "nameservers"), nil, false
		for _, a := range sb.Lookup.Servers {
			servers = append(servers, a.String())
		}
	}
	if len(sb.Lookup.Search) > 0 {
		overrides, search = append(overrides, "search"), sb.Lookup.Search
	}
	if slices.Equal(search, []string{"."}) {
		search = nil
	}
	if len(sb.Lookup.Options) > 0 {
		overrides, options = append(overrides, "options"), sb.Lookup.Options
	}
	switch {
	case local != "":
		from += " (internal resolver)"
		notes = []string{"# NO EXTERNAL NAMESERVERS DEFINED"}
		if len(servers) > 0 {
			text := strings.Join(servers, " ")
			if ofHost {
				text = "host(" + strings.Join(servers, ") host(") + ")"
			}
			notes = []string{"# ExtServers: [" + text + "]"}
		}
		servers = []string{local}
		if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
			options = append(slices.Clone(options), "ndots:0")
		}
	case sb.NetworkMode != model.NetworkHost && len(sb.Lookup.Servers) == 0:
		servers = reachable(servers, in)
	}
	var b strings.Builder
	b.WriteString("# Generated by Fairlead.\n# This file can be edited; Fairlead does not change it once it has been modified.\n\n")
	for _, server := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	if len(options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	}
	fmt.Fprintf(&b, "\n%s\n", from)
	for _, note := range notes {
		fmt.Fprintln(&b, note)
	}
	fmt.Fprintf(&b, "# Overrides: [%s]\n", strings.Join(overrides, " "))
	return b.String()
}

// leaseOf returns the first lease of a sandbox that names a DNS server, or nil if there is none.
func leaseOf(in []attachment) *model.Lease {
	for _, a := range in {
		if len(a.LeasedServers()) > 0 {
			return a.Lease
		}
	}
	return nil
}

// localServer returns the address of the name server of a sandbox, or "" if no network of it has one, and whether it listens in
// the sandbox. IPv4 sockets reach a gateway by IPv4 only.
func localServer(sb *model.Sandbox, in []attachment) (addr string, inside bool) {
	for _, f := range model.Families {
		for _, a := range in {
			if s, ok := a.network.Subnet(f); !ok || !a.network.ResolvesAtGateway() || !s.Gateway.IsValid() || !a.Addr(f).IsValid() {
				continue
			} else if f == model.V4 {
				return model.ResolverAddr.String(), false
			} else {
				return s.Gateway.String(), false
			}
		}
	}
	var networks []*model.Network
	for _, a := range in {
		networks = append(networks, a.network)
	}
	if sb.ResolvesInside(networks) {
		return model.ResolverAddr.String(), true
	}
	return "", false
}

// reachable returns the servers that a sandbox can reach: not those at the host's loopback.
func reachable(servers []string, in []attachment) (list []string) {
	for _, server := range servers {
		if a, err := netip.ParseAddr(server); err == nil && !a.Unmap().IsLoopback() {
			list = append(list, server)
		}
	}
	if len(list) > 0 {
		return list
	}
	list = slices.Clone(public[model.V4])
	if slices.ContainsFunc(in, func(a attachment) bool { return a.IPv6.IsValid() }) {
		list = append(list, public[model.V6]...)
	}
	return list
}
