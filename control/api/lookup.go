// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/netip"
	"strings"

	"github.com/fairlead-net/fairlead/control/model"
)

// lookup translates how programs look names up.
func (c *SandboxCreate) lookup() (model.Lookup, error) {
	l := model.Lookup{Domainname: c.Domainname, Search: c.HostConfig.DNSSearch, Options: c.HostConfig.DNSOptions}
	for _, text := range c.HostConfig.DNS {
		a, err := netip.ParseAddr(text)
		if err != nil || a.IsUnspecified() {
			return l, model.Refuse(model.ErrInvalid, "%s is not an IP address of a name server (give one, as in 192.0.2.53)", text)
		}
		l.Servers = append(l.Servers, a)
	}
	for _, text := range c.HostConfig.ExtraHosts {
		line, err := ParseHost(text)
		if err != nil {
			return l, model.Refuse(model.ErrInvalid, "%v", err)
		}
		l.Hosts = append(l.Hosts, line)
	}
	return l, nil
}

// SetLookup sets what concerns names.
func (c *HostConfig) SetLookup(l model.Lookup) {
	c.DNSOptions, c.DNSSearch = l.Options, l.Search
	for _, a := range l.Servers {
		c.DNS = append(c.DNS, a.String())
	}
	for _, line := range l.Hosts {
		c.ExtraHosts = append(c.ExtraHosts, line.Name+":"+hostText(line))
	}
}

func hostText(line model.HostLine) string {
	if !line.Addr.IsValid() {
		return model.HostGateway
	}
	return line.Addr.String()
}

// ParseHost parses an additional line of /etc/hosts: NAME:ADDRESS or NAME=ADDRESS, in brackets if the user likes, or
// host-gateway in place of the address.
func ParseHost(text string) (line model.HostLine, err error) {
	var addr string
	var found bool
	if line.Name, addr, found = strings.Cut(text, "="); !found {
		line.Name, addr, found = strings.Cut(text, ":")
	}
	if !found || line.Name == "" || strings.ContainsAny(line.Name, " \t\n#") {
		return line, model.Refuse(model.ErrInvalid, "bad format for add-host: %q (want NAME:ADDRESS or NAME:%s)", text, model.HostGateway)
	}
	if addr == model.HostGateway {
		return line, nil
	}
	if line.Addr, err = netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]")); err != nil {
		return line, model.Refuse(model.ErrInvalid, "invalid IP address in add-host: %q (want NAME:ADDRESS or NAME:%s)", addr, model.HostGateway)
	}
	return line, nil
}

// parseLinks parses links of the form TARGET[:ALIAS].
func parseLinks(texts []string) (links []model.Link) {
	for _, text := range texts {
		links = append(links, ParseLink(text))
	}
	return links
}

// ParseLink parses TARGET[:ALIAS]. The target's name is the alias if there is none. The controller refuses names that
// cannot be.
func ParseLink(text string) model.Link {
	target, alias, found := strings.Cut(text, ":")
	if !found {
		alias = target
	}
	return model.Link{Target: target, Alias: alias}
}

// LinkTexts is the reverse of ParseLink.
func LinkTexts(links []model.Link) (texts []string) {
	for _, l := range links {
		texts = append(texts, l.Target+":"+l.Alias)
	}
	return texts
}
