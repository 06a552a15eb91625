// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// lookupFlags are Docker's flags for how programs look names up.
type lookupFlags struct {
	domainname                      string
	servers, search, options, hosts []string
}

func (o *lookupFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.domainname, "domainname", "", "domain of the program's host name")
	f.StringArrayVar(&o.servers, "dns", nil, "name server in place of the host's, queried from the sandbox; repeatable")
	f.StringArrayVar(&o.search, "dns-search", nil, "domain to search in place of the host's, . for none; repeatable")
	f.StringArrayVar(&o.options, "dns-option", nil, "option of resolv.conf in place of the host's; repeatable")
	f.StringArrayVar(&o.hosts, "add-host", nil, "line of /etc/hosts, NAME:ADDRESS or NAME:host-gateway; repeatable")
}

func (o *lookupFlags) parse() (model.Lookup, error) {
	l := model.Lookup{Domainname: o.domainname, Search: o.search, Options: o.options}
	for _, text := range o.servers {
		a, err := netip.ParseAddr(text)
		if err != nil || a.IsUnspecified() {
			return l, usagef("--dns %q is not the IP address of a name server", text)
		}
		l.Servers = append(l.Servers, a)
	}
	for _, text := range o.hosts {
		line, err := api.ParseHost(text)
		if err != nil {
			return l, usageError{err}
		}
		l.Hosts = append(l.Hosts, line)
	}
	return l, nil
}
