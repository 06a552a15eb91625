// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/controller/naming"
	"github.com/fairlead-net/fairlead/control/controller/presets"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
)

// Sandbox finds a sandbox as Network finds a network. An engine-managed sandbox is also
// found by the engine's ID of the container.
func (c *Controller) Sandbox(ref string) (*model.Sandbox, error) {
	return c.Snapshot().FindSandbox(ref)
}

// modeDefault is Docker's alias of the network bridge.
const modeDefault = "default"

// hostnameRule is the rule of RFC 1123, extended by the underscore as in Docker.
var hostnameRule = regexp.MustCompile(`^[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,62}[a-zA-Z0-9_])?$`)

// CreateSandbox creates a sandbox and attaches it to its first network.
func (c *Controller) CreateSandbox(ctx context.Context, spec model.SandboxSpec) (*model.Sandbox, error) {
	if err := validateSandboxSpec(spec); err != nil {
		return nil, err
	}
	spec = presets.Sandbox(c.cfg.Defaults, spec)
	spec.ID = resource.NewID(c.Snapshot().SandboxesByPrefix)
	member := model.Member{SandboxID: spec.ID, Name: spec.Name, Hostname: spec.Hostname}
	var sb *model.Sandbox
	err := c.withClaim(ctx, networkRef(spec), &spec.Endpoint, member, func() error {
		return c.state.Update(ctx, func(t *txn.Tx) (err error) {
			sb, err = c.createSandbox(ctx, t, spec)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	c.state.Log().Info("created sandbox", "sandbox", sb.Name, "id", model.ShortID(sb.ID), "network", sb.NetworkMode)
	return sb, nil
}

// Warnings returns what CreateSandbox accepts but does not serve, one sentence
// each.
func (c *Controller) Warnings(spec model.SandboxSpec) []string {
	if len(spec.Ports) == 0 && !spec.PublishAll {
		return nil
	}
	n, err := c.Snapshot().FindNetwork(networkRef(spec))
	switch {
	case err != nil:
		return nil
	case n.Driver == model.DriverHost:
		return []string{"Published ports are discarded when using host network mode"}
	case n.Driver == model.DriverNull:
		return []string{"Published ports are discarded when using network none"}
	case n.Has().OnHost != model.DeviceHostPort:
		return []string{"Published ports are not served while the default route is through a network of driver " + n.Driver}
	case n.Closed():
		return []string{"Published ports are not served while the sandbox is in internal networks only (networks that are created with -o " + model.OptPublish + "=true do publish)"}
	}
	return nil
}

// networkRef returns the network of a spec that does not join another sandbox.
func networkRef(spec model.SandboxSpec) string {
	if spec.NetworkMode == "" || spec.NetworkMode == modeDefault {
		return model.NetworkBridge
	}
	return spec.NetworkMode
}

func validateSandboxSpec(spec model.SandboxSpec) error {
	if spec.Name != "" {
		if err := naming.Validate(spec.Name); err != nil {
			return err
		}
	}
	switch {
	case spec.NetNS != "" && (!filepath.IsAbs(spec.NetNS) || filepath.Clean(spec.NetNS) != spec.NetNS):
		return model.Refuse(model.ErrInvalid, "invalid network namespace path %q (give an absolute path without . or ..)", spec.NetNS)
	case spec.Hostname != "" && !hostnameRule.MatchString(spec.Hostname):
		return model.Refuse(model.ErrInvalid, "invalid hostname format: %s (letters, digits, dots and hyphens, at most 64)", spec.Hostname)
	}
	if err := cmp.Or(model.CheckLookup(spec.Lookup), model.CheckSysctls(spec.Sysctls)); err != nil {
		return err
	}
	for _, e := range spec.Expose {
		if err := resource.ValidatePortRange("exposed port", e.Port, e.Count, e.Proto); err != nil {
			return err
		}
		if spec.PublishAll {
			if err := resource.Publishable(e.Proto, e.Port); err != nil {
				return err
			}
		}
	}
	if err := resource.ValidatePorts(spec.Ports); err != nil {
		return err
	}
	if model.SharesNetNS(spec.NetworkMode) {
		return validateJoin(spec)
	}
	return nil
}

// validateJoin refuses options that need a namespace of the sandbox's own. The
// texts are Docker's.
func validateJoin(spec model.SandboxSpec) error {
	conflicting := ""
	switch {
	case spec.NetNS != "":
		conflicting = "a network namespace path"
	case spec.Hostname != "":
		conflicting = "hostname"
	case len(spec.Ports) > 0 || spec.PublishAll:
		conflicting = "port publishing"
	case len(spec.Expose) > 0:
		conflicting = "port exposing"
	case len(spec.Lookup.Hosts) > 0:
		conflicting = "custom host-to-IP mapping"
	case !spec.Lookup.IsZero():
		conflicting = "dns"
	case len(spec.Sysctls) > 0:
		conflicting = "sysctl"
	default:
		return validateNoEndpoint(spec, "the container type network mode")
	}
	return model.Refuse(model.ErrInvalid, "conflicting options: %s and the container type network mode (give it to the sandbox that is joined)", conflicting)
}

// validateNoEndpoint refuses endpoint settings where there is no endpoint.
func validateNoEndpoint(spec model.SandboxSpec, mode string) error {
	ep := spec.Endpoint
	switch {
	case ep.IPv4.IsValid() || ep.IPv6.IsValid():
		return model.Refuse(model.ErrInvalid, "user specified IP address is supported on user defined networks only, not with %s (leave it out, or choose a network)", mode)
	case !ep.MAC.IsZero():
		return model.Refuse(model.ErrInvalid, "conflicting options: mac-address and %s (leave one out)", mode)
	case ep.IfName != "":
		return model.Refuse(model.ErrInvalid, "conflicting options: interface name and %s (leave one out)", mode)
	case len(ep.Sysctls) > 0:
		return model.Refuse(model.ErrInvalid, "conflicting options: sysctls of an interface and %s (leave one out)", mode)
	case !ep.Bandwidth.IsZero():
		return model.Refuse(model.ErrInvalid, "conflicting options: bandwidth limits and %s (leave one out)", mode)
	case len(ep.Links) > 0:
		return model.Refuse(model.ErrInvalid, "conflicting options: links and %s (leave them out)", mode)
	case len(ep.Aliases) > 0:
		return model.Refuse(model.ErrInvalid, "network-scoped aliases are only supported for user-defined networks, not with %s (leave them out)", mode)
	}
	return nil
}

func (c *Controller) createSandbox(ctx context.Context, t *txn.Tx, spec model.SandboxSpec) (*model.Sandbox, error) {
	sb := &model.Sandbox{
		ID:         spec.ID,
		Name:       spec.Name,
		Created:    t.Now(),
		NetNS:      spec.NetNS,
		Hostname:   spec.Hostname,
		Lookup:     spec.Lookup,
		Labels:     maps.Clone(spec.Labels),
		Command:    slices.Clone(spec.Command),
		AutoRemove: spec.AutoRemove,
		Sysctls:    maps.Clone(spec.Sysctls),
		Expose:     joinExposed(spec.Expose),
	}
	if desired.First(t.Next.SandboxesByPrefix(sb.ID[:resource.IDPrefix])) != nil {
		sb.ID = resource.NewID(t.Next.SandboxesByPrefix)
	}
	if sb.Name == "" {
		sb.Name = naming.New(func(name string) bool { return desired.First(t.Next.SandboxesNamed(name)) != nil })
	}
	if err := naming.CheckFree(t, sb.Name, sb.ID); err != nil {
		return nil, err
	}
	if ref, ok := strings.CutPrefix(spec.NetworkMode, model.ModeContainer); ok {
		if err := joinSandbox(t, sb, ref); err != nil {
			return nil, err
		}
		t.PutSandbox(sb.ID, sb)
		return sb, nil
	}
	n, err := t.Next.FindNetwork(networkRef(spec))
	if err != nil {
		return nil, err
	}
	if n.ManagedBy == model.ByEngine {
		return nil, model.RefuseEngineManaged("network "+n.Name, n.ManagedBy.CLI()+" run --network; or name another network")
	}
	if err := cmp.Or(model.RefuseConfigOnly(n), c.giveNamespace(t, sb, n)); err != nil {
		return nil, err
	}
	t.PutSandbox(sb.ID, sb) // bindPorts adds its ports before the snapshot is published
	if n.Has().Endpoint == model.NoDevice {
		return sb, validateNoEndpoint(spec, "network "+n.Name)
	}
	if _, err := addEndpoint(ctx, t, n, sb, spec.Endpoint); err != nil {
		return nil, err
	}
	ports := spec.Ports
	if spec.PublishAll {
		ports = withExposed(ports, spec.Expose)
	}
	return sb, bindPorts(t, sb, resource.JoinRuns(ports), chooseGateways(t, sb.ID).v4)
}

// joinSandbox makes the new sandbox share another one's namespace.
func joinSandbox(t *txn.Tx, sb *model.Sandbox, ref string) error {
	to, err := t.Next.FindSandbox(ref)
	if err != nil {
		return err
	}
	if to.ManagedBy == model.ByEngine {
		return model.RefuseEngineManaged("sandbox "+to.Name, to.ManagedBy.CLI()+" run --network container:…")
	}
	sb.NetNS, sb.NetworkMode = to.NetNS, model.ModeContainer+to.ID
	if to.SharesNetNS() {
		sb.NetworkMode = to.NetworkMode // of the sandbox that has the namespace
	}
	return nil
}

// giveNamespace sets the network mode and the namespace of a new sandbox.
func (c *Controller) giveNamespace(t *txn.Tx, sb *model.Sandbox, n *model.Network) error {
	sb.NetworkMode = n.Name
	if n.Driver == model.DriverHost {
		if sb.NetNS != "" {
			return model.Refuse(model.ErrInvalid, "conflicting options: a network namespace path and network host (leave one out)")
		}
		if len(sb.Sysctls) > 0 {
			return model.Refuse(model.ErrInvalid, "sysctl %q not allowed in host network namespace (leave it out, or choose another network)", slices.Sorted(maps.Keys(sb.Sysctls))[0])
		}
		return nil
	}
	if sb.NetNS == "" {
		sb.NetNS = filepath.Join(c.cfg.RunDir, "netns", model.ShortID(sb.ID))
		return nil
	}
	if len(sb.Sysctls) > 0 {
		return model.Refuse(model.ErrInvalid, "conflicting options: sysctl and a network namespace path (set it in that namespace)")
	}
	if sb.ManagedBy = model.ByUser; model.HasRuntimeLabel(sb.Labels) {
		sb.ManagedBy = model.ByRuntime
	}
	for o := range t.Next.SandboxesAt(sb.NetNS) {
		if o.ID != sb.ID {
			return model.Refuse(model.ErrConflict, "network namespace %s is already in use by sandbox %q (join it with --network container:%s)", sb.NetNS, o.Name, o.Name)
		}
	}
	return nil
}

// RemoveSandbox removes a sandbox whose program is not running, or any sandbox with
// force. It does not stop the program. With force it also succeeds if the kernel
// refuses to remove something.
func (c *Controller) RemoveSandbox(ctx context.Context, ref string, force bool) error {
	var endpoints []*model.Endpoint
	if sb, err := c.Sandbox(ref); err == nil && c.removable(c.Snapshot(), sb, force) == nil {
		endpoints = slices.Collect(c.Snapshot().EndpointsOf(sb.ID))
		if err := c.withdraw(ctx, endpoints); err != nil && !force {
			return err
		}
	}
	var sb *model.Sandbox
	err := c.state.Update(ctx, func(t *txn.Tx) (err error) {
		t.IgnoreApplyErr = force
		if sb, err = t.Next.FindSandbox(ref); err != nil {
			return err
		}
		if err := c.removable(t.Next, sb, force); err != nil {
			return err
		}
		removeSandbox(t, sb)
		return nil
	})
	if err != nil {
		return c.stay(ctx, idsOf(endpoints), err)
	}
	c.logRemoved(sb)
	return nil
}

// removable refuses the removal of a sandbox that is in use.
func (c *Controller) removable(s *desired.Snapshot, sb *model.Sandbox, force bool) error {
	if !force && sb.ManagedBy == model.ByEngine {
		return model.RefuseEngineManaged("sandbox "+sb.Name, sb.ManagedBy.CLI()+" rm; if the engine no longer has it, use force")
	}
	if !force && c.running(sb) {
		return model.Refuse(model.ErrConflict, "cannot remove sandbox %q: its program is running (PID %d): stop it before removing or force remove (fairlead rm -f %s)", sb.Name, sb.PID, sb.Name)
	}
	if js := s.Joiners(sb.ID); len(js) > 0 {
		return model.Refuse(model.ErrConflict, "cannot remove sandbox %q: sandbox %q shares its network namespace (remove that first)", sb.Name, js[0].Name)
	}
	return nil
}

func (c *Controller) logRemoved(sb *model.Sandbox) {
	c.state.Log().Info("removed sandbox", "sandbox", sb.Name, "id", model.ShortID(sb.ID))
}

func removeSandbox(t *txn.Tx, sb *model.Sandbox) {
	for _, p := range t.Served(sb.ID) {
		t.FreePublish(p)
	}
	t.Serve(sb.ID, nil)
	for _, ep := range slices.Collect(t.Next.EndpointsOf(sb.ID)) {
		resource.RemoveEndpoint(t, ep)
	}
	t.PutSandbox(sb.ID, nil)
}
