// SPDX-License-Identifier: Apache-2.0

// Package presets applies what the daemon's flags configure: the networks that exist from the first start, and what
// networks and sandboxes have whose own flags do not say it.
package presets

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
)

// Networks creates the missing predefined networks, and changes the default one if it is configured in another way
// than before. Like dockerd, it leaves a network alone that is in use.
func Networks(ctx context.Context, t *txn.Tx, d model.Defaults) error {
	bridge := d.Bridge
	bridge.Name, bridge.Driver = model.NetworkBridge, model.DriverBridge
	for _, spec := range []model.NetworkSpec{
		bridge,
		{Name: model.NetworkHost, Driver: model.DriverHost},
		{Name: model.NetworkNone, Driver: model.DriverNull},
	} {
		if desired.First(t.Next.NetworksNamed(spec.Name)) != nil {
			continue
		}
		if _, err := resource.AddNetwork(ctx, t, spec); err != nil {
			return fmt.Errorf("create the predefined network %s: %w", spec.Name, err)
		}
	}
	return configure(ctx, t, bridge)
}

// configure makes the default network what a spec says.
func configure(ctx context.Context, t *txn.Tx, spec model.NetworkSpec) error {
	have := desired.First(t.Next.NetworksNamed(spec.Name))
	spec.Subnets = slices.Clone(spec.Subnets)
	for _, s := range have.Subnets {
		if f := model.FamilyOf(s.Prefix.Addr()); !s.Fixed && !fixes(spec, f) && (f == model.V4 || spec.EnableIPv6) {
			spec.Subnets = append(spec.Subnets, model.SubnetSpec(s))
		}
	}
	want, err := resource.Plan(ctx, t, spec)
	switch {
	case err != nil:
		return fmt.Errorf("configure the default network: %w", err)
	case same(have, want):
		return nil
	case t.Next.HasMembers(have.ID) || t.Next.HasServices(have.ID):
		t.Log().Warn("the default network is in use, so its new configuration takes effect at the first start of the daemon without sandboxes or services in it", "network", have.Name)
		return nil
	}
	want.ID, want.Local, want.Created, want.GatewayMAC = have.ID, have.Local, have.Created, have.GatewayMAC
	if err := t.UseAddresses(want); err != nil {
		return err
	}
	t.PutNetwork(want.ID, want)
	t.Log().Info("changed the default network as the flags of the daemon say", "network", want.Name)
	return nil
}

// fixes reports whether a spec names the subnet of a family.
func fixes(spec model.NetworkSpec, f model.Family) bool {
	return slices.ContainsFunc(spec.Subnets, func(s model.SubnetSpec) bool { return model.FamilyOf(s.Prefix.Addr()) == f })
}

// same reports whether two versions of the default network are configured in the same way.
func same(a, b *model.Network) bool {
	return a.EnableIPv6 == b.EnableIPv6 && maps.Equal(a.Options, b.Options) && slices.EqualFunc(fixed(a), fixed(b), sameSubnet)
}

func sameSubnet(a, b model.Subnet) bool {
	return a.Prefix == b.Prefix && a.Gateway == b.Gateway && a.IPRange == b.IPRange && maps.Equal(a.Aux, b.Aux)
}

func fixed(n *model.Network) []model.Subnet {
	return slices.DeleteFunc(slices.Clone(n.Subnets), func(s model.Subnet) bool { return !s.Fixed })
}

// Network completes the request for a network of a user with the options of its driver. It leaves networks alone that
// container runtimes configure, and those that take their configuration from another network.
func Network(d model.Defaults, spec model.NetworkSpec) model.NetworkSpec {
	if spec.ConfigFrom != "" || byRuntime(spec.Labels) {
		return spec
	}
	driver := spec.Driver
	if driver == "" {
		driver = model.DriverBridge
	}
	if defaults := d.Options[driver]; len(defaults) > 0 {
		all := maps.Clone(defaults)
		maps.Copy(all, spec.Options)
		spec.Options = all
	}
	return spec
}

// Configured completes the request for a network that has its configuration from another.
func Configured(s *desired.Snapshot, spec model.NetworkSpec) (model.NetworkSpec, error) {
	switch {
	case spec.ConfigOnly && spec.ConfigFrom != "":
		return spec, model.Refuse(model.ErrForbidden, "a configuration network cannot depend on another configuration network (leave out --config-only or --config-from)")
	case spec.ConfigOnly && spec.Internal:
		return spec, model.Refuse(model.ErrForbidden, "a configuration network cannot be internal (give --internal to the networks that use it)")
	case spec.ConfigFrom == "":
		return spec, nil
	case spec.NoIPv4 || spec.EnableIPv6 || spec.IPAM != "" || len(spec.Subnets)+len(spec.Options)+len(spec.Labels) > 0:
		return spec, model.Refuse(model.ErrForbidden, "user-specified configurations are not supported if the network depends on a configuration network (give only name, driver and --internal beside --config-from)")
	}
	from, err := s.FindNetwork(spec.ConfigFrom)
	if err != nil {
		return spec, err
	}
	if !from.ConfigOnly {
		return spec, model.Refuse(model.ErrForbidden, "network %s is not a configuration network (create one with --config-only)", from.Name)
	}
	spec.ConfigFrom, spec.NoIPv4, spec.EnableIPv6, spec.IPAM = from.Name, !from.EnableIPv4, from.EnableIPv6, from.IPAM
	spec.Options, spec.Labels = from.Options, from.Labels
	for _, sub := range from.Subnets {
		spec.Subnets = append(spec.Subnets, model.SubnetSpec(sub))
	}
	return spec, nil
}

// byRuntime reports whether the front end of a container runtime made the request for a network with these labels:
// it labels its networks fairlead.FRONTEND.
func byRuntime(labels map[string]string) bool {
	for label := range labels {
		if strings.HasPrefix(label, "fairlead.") {
			return true
		}
	}
	return false
}

// Sandbox completes the request for a sandbox with how its programs look names up, unless they do that in another
// sandbox's namespace or a container runtime configured it.
func Sandbox(d model.Defaults, spec model.SandboxSpec) model.SandboxSpec {
	if model.SharesNetNS(spec.NetworkMode) || model.HasRuntimeLabel(spec.Labels) {
		return spec
	}
	l := &spec.Lookup
	if len(l.Servers) == 0 {
		l.Servers = d.Lookup.Servers
	}
	if len(l.Search) == 0 {
		l.Search = d.Lookup.Search
	}
	if len(l.Options) == 0 {
		l.Options = d.Lookup.Options
	}
	if len(d.HostGateway) == 0 {
		return spec
	}
	var hosts []model.HostLine
	for _, line := range l.Hosts {
		if line.Addr.IsValid() {
			hosts = append(hosts, line)
			continue
		}
		for _, a := range d.HostGateway {
			hosts = append(hosts, model.HostLine{Name: line.Name, Addr: a})
		}
	}
	l.Hosts = hosts
	return spec
}
