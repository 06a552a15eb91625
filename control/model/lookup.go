// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"net/netip"
	"regexp"
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

// domainRule is the rule of RFC 1123 for each label, extended by the underscore.
var domainRule = regexp.MustCompile(`^[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?)*\.?$`)

// maxDomain is the size of a domain in the kernel, and of a name in DNS.
const maxDomain, maxName = 64, 255

// ValidDomain reports whether a name can be one of DNS.
func ValidDomain(name string) bool { return domainRule.MatchString(name) }

// CheckLookup refuses names and options that cannot be those of resolv.conf.
func CheckLookup(l Lookup) error {
	if l.Domainname != "" && (!domainRule.MatchString(l.Domainname) || len(l.Domainname) > maxDomain) {
		return Refuse(ErrInvalid, "invalid domain name %q (letters, digits, dots and hyphens, at most %d)", l.Domainname, maxDomain)
	}
	for _, domain := range l.Search {
		if domain != "." && (!domainRule.MatchString(domain) || len(domain) > maxName) {
			return Refuse(ErrInvalid, "%s is not a valid domain (give one to search, or . for none)", domain)
		}
	}
	for _, option := range l.Options {
		if option == "" || strings.ContainsAny(option, " \t\n#;") {
			return Refuse(ErrInvalid, "invalid option %q of resolv.conf (give one at a time, as in ndots:1)", option)
		}
	}
	return nil
}

// Link is another name of a sandbox, which only the sandbox with the link knows.
type Link struct {
	Target string `json:"target"` // a name of the other sandbox in the network, which need not exist yet
	Alias  string `json:"alias"`
}

// aliasRule matches aliases that can be resolved. The names that runtimes choose match it too.
var aliasRule = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// maxAlias is the maximum length of a name in DNS as text (RFC 1035 section 2.3.4).
const maxAlias = 253

// ValidAlias reports whether an alias can be resolved. The wildcard *.NAME stands for all names that end with .NAME.
func ValidAlias(alias string) bool { return aliasRule.MatchString(alias) && len(alias) <= maxAlias }

// CheckAliases refuses aliases that cannot be resolved.
func CheckAliases(aliases []string) error {
	for _, alias := range aliases {
		switch {
		case ValidAlias(alias):
		case strings.Contains(alias, "*"):
			return Refuse(ErrInvalid, "alias %q: * can only be the whole first label of a longer name (write *.NAME, as in *.app)", alias)
		default:
			return Refuse(ErrInvalid, "alias %q is not a name (it may have at most %d letters, digits, and _ . - but not begin with . or -)", alias, maxAlias)
		}
	}
	return nil
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
