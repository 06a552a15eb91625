// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

type serviceCreateOptions struct {
	network  string
	vips     []string
	publish  []string
	announce bool
	affinity time.Duration
	labels   []string
}

func newServiceCreateCommand(e *env) *cobra.Command {
	var o serviceCreateOptions
	cmd := &cobra.Command{
		Use:   "create [flags] --network NETWORK NAME",
		Short: "Create a service and print its ID",
		Long: `Create a service and print its ID.

A service is a virtual address and a name in a network. Its backends are the sandboxes that have
the name as their --network-alias; each new connection goes to one of them, and stays there. The
virtual address serves every port.

In a network of driver overlay the service exists on every host of the cluster: its backends may be
on any of them, and its published ports answer on all.

With --announce the addresses of -p belong to no host by itself. One of the hosts that have a device in
their subnet answers ARP and neighbour discovery for them; when it dies, another one does within a second.`,
		Example: `  fairlead service create --network shop web
  fairlead service create --network shop -p 8080:80 --affinity 10m web
  fairlead service create --network shop -p 192.0.2.80:80:80 --announce web
  fairlead run -d --network shop --network-alias web nginx -g 'daemon off;'`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return runServiceCreate(cmd.Context(), e, o, args[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&o.network, "network", "", "network of the service and of its backends")
	f.StringArrayVar(&o.vips, "vip", nil, "virtual address, one per address family (default: free ones of the network)")
	f.StringArrayVarP(&o.publish, "publish", "p", nil, "publish a port of the backends: [IP:][HOST[-HOST]:]PORT[-PORT][/tcp|udp]")
	f.BoolVar(&o.announce, "announce", false, "announce the addresses of -p, which no host has by itself")
	f.DurationVar(&o.affinity, "affinity", 0, "how long a client keeps its backend after its last new connection (default: each connection gets one)")
	f.StringArrayVar(&o.labels, "label", nil, "label, KEY[=VALUE]")
	return cmd
}

func (o *serviceCreateOptions) spec(name string) (model.ServiceSpec, error) {
	spec := model.ServiceSpec{Name: name, Network: o.network, Announce: o.announce, Affinity: o.affinity}
	if o.network == "" {
		return spec, usagef("--network is missing: name the network of the service")
	}
	for _, s := range o.vips {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			return spec, usagef("--vip %q is not an IP address", s)
		}
		of := &spec.IPv4
		if a.Is6() {
			of = &spec.IPv6
		}
		if of.IsValid() {
			return spec, usagef("--vip is given twice for %s: %s and %s", model.FamilyOf(a), *of, a)
		}
		*of = a
	}
	for _, s := range o.publish {
		p, err := api.ParsePublish(s)
		if err != nil {
			return spec, usageError{err}
		}
		spec.Ports = append(spec.Ports, p)
	}
	var err error
	spec.Labels, err = keyValues("label", o.labels)
	return spec, err
}

func runServiceCreate(ctx context.Context, e *env, o serviceCreateOptions, name string) error {
	spec, err := o.spec(name)
	if err != nil {
		return err
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	s, err := c.CreateService(ctx, api.NewServiceCreate(spec))
	if err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, s.ID)
	return nil
}
