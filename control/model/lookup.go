// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Lookup is how programs in a sandbox look names up, as far as the user configured it.
type Lookup struct {
	Domainname string       `json:"domainname,omitempty"`
	Servers    []netip.Addr `json:"servers,omitempty"` // queried from the sandbox, in place of the host's
	Search     []string     `json:"search,omitempty"`  // in place of the host's; "." alone: none
	Options    []string     `json:"options,omitempty"` // of resolv.conf, in place of the host's
	Hosts      []HostLine   `json:"hosts,omitempty"`
}

// HostLine is a line of /etc/hosts.
type HostLine struct {
	Name string     `json:"name"`
	Addr netip.Addr `json:"addr,omitzero"` // zero: the host's addresses that the sandbox reaches
}

// HostGateway stands for the zero address of a HostLine, as in Docker.
const HostGateway = "host-gateway"

// IsZero reports whether nothing is configured.
func (l Lookup) IsZero() bool {
	return l.Domainname == "" && len(l.Servers)+len(l.Search)+len(l.Options)+len(l.Hosts) == 0
}

// Link is another name of a sandbox, which only the sandbox with the link knows.
type Link struct {
	Target string `json:"target"` // a name of the other sandbox in the network, which need not exist yet
	Alias  string `json:"alias"`
}

// HasFiles reports whether Fairlead makes /etc/hosts, /etc/hostname and /etc/resolv.conf for programs in
// the sandbox. Programs in the host's network namespace have the files of the host, unless the user wants others.
func (s *Sandbox) HasFiles() bool {
	switch {
	case s.ManagedBy != ByFairlead && s.ManagedBy != ByUser, s.SharesNetNS():
		return false
	case s.NetworkMode == NetworkHost:
		return s.Hostname != "" || !s.Lookup.IsZero()
	}
	return true
}

// UTSName returns the host name of programs in the sandbox, "" if they keep that of the host.
func (s *Sandbox) UTSName() string {
	if s.NetworkMode == NetworkHost || !s.HasFiles() {
		return s.Hostname
	}
	return cmp.Or(s.Hostname, ShortID(s.ID))
}

// Names returns the names that a sandbox has in /etc/hosts: with the domain first, if it has one.
func (s *Sandbox) Names() []string {
	name := s.UTSName()
	full := strings.TrimSuffix(name+"."+s.Lookup.Domainname, ".")
	short, _, _ := strings.Cut(name, ".")
	return slices.Compact([]string{full, short})
}
