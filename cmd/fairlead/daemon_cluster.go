// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fairlead-net/fairlead/control/daemon"
	"github.com/fairlead-net/fairlead/control/model"
)

// clusterFlags are the flags of the daemon's part in a cluster, as given.
type clusterFlags struct {
	store, listen string
	advertise     []string
	port          uint16
	wgPort        uint16
	name          string
	ca, cert, key string
	credentials   string
	token         string
}

func (c *clusterFlags) register(f *pflag.FlagSet) {
	f.StringVar(&c.store, "store", daemon.StoreBolt, "bolt: this host is on its own; embed, etcd://HOST:PORT, consul://HOST:PORT or zk://HOST:PORT: it is part of a cluster with this store")
	f.StringVar(&c.listen, "store-listen", "", "listen address of the embedded store, IP:PORT (default: the host's address for tunnels, port 2379)")
	f.StringVar(&c.ca, "store-cacert", "", "file of the authority that signed the store's certificate, in PEM")
	f.StringVar(&c.cert, "store-cert", "", "file of this host's certificate for the store, in PEM")
	f.StringVar(&c.key, "store-key", "", "file of the key of that certificate, in PEM")
	f.StringVar(&c.credentials, "store-credentials", "", "file with USER:PASSWORD for the store, or with a token of Consul")
	f.StringVar(&c.token, "store-token", "", `file with the join token of an embedded store (with --store embed: default store-token in the state directory, created if it does not exist; "none": admit every host)`)
	f.StringArrayVar(&c.advertise, "advertise", nil, "address of this host that other hosts send tunnels to; repeatable, one per family (default: that of the default route)")
	f.Uint16Var(&c.port, "vxlan-port", daemon.DefaultVXLANPort, "UDP port of tunnels, the same on all hosts of the cluster")
	f.Uint16Var(&c.wgPort, "wireguard-port", daemon.DefaultWireGuardPort, "UDP port at which this host receives what encrypted networks send")
	f.StringVar(&c.name, "node-name", "", "name of this host in the cluster (default: its host name)")
}

// check translates the flags.
func (c *clusterFlags) check(o *daemon.ClusterConfig) error {
	if err := daemon.CheckStore(c.store); err != nil {
		return usagef("--store: %v, or \"bolt\", or \"embed\"", err)
	}
	if c.port == 0 {
		return usagef("--vxlan-port is 0; want a port")
	}
	if c.wgPort == 0 || c.wgPort == c.port {
		return usagef("--wireguard-port is %d; want a port other than that of --vxlan-port", c.wgPort)
	}
	o.Store, o.Port, o.WireGuardPort, o.Name, o.TokenFile = c.store, c.port, c.wgPort, c.name, c.token
	if c.listen != "" {
		var err error
		if o.StoreListen, err = netip.ParseAddrPort(c.listen); err != nil || o.StoreListen.Port() == 0 {
			return usagef("--store-listen %q: want IP:PORT, as in 192.0.2.1:2379", c.listen)
		}
	}
	var has [len(model.Families)]bool
	for _, s := range c.advertise {
		a, err := netip.ParseAddr(s)
		if err != nil || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
			return usagef("--advertise %q: want an address of this host", s)
		}
		if f := model.FamilyOf(a); has[f] {
			return usagef("--advertise: %s is the second address of %v; want one per family", a, f)
		}
		has[model.FamilyOf(a)] = true
		o.Advertise = append(o.Advertise, a)
	}
	o.StoreOptions.CACert, o.StoreOptions.Cert, o.StoreOptions.Key = c.ca, c.cert, c.key
	if c.credentials == "" {
		return nil
	}
	b, err := os.ReadFile(c.credentials)
	if err != nil {
		return fmt.Errorf("--store-credentials: %w", err)
	}
	text := strings.TrimSpace(string(b))
	if user, password, ok := strings.Cut(text, ":"); ok {
		o.StoreOptions.User, o.StoreOptions.Password = user, password
	} else {
		o.StoreOptions.Password = text
	}
	return nil
}
