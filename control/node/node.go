// SPDX-License-Identifier: Apache-2.0

// Package node is the backend of the API: the controller's verbs, and what only a running daemon
// knows about its host.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/announce"
	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/server"
	"github.com/fairlead-net/fairlead/control/controller"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/dhcp/leases"
	"github.com/fairlead-net/fairlead/control/dns"
	"github.com/fairlead-net/fairlead/control/dockerplugin"
	"github.com/fairlead-net/fairlead/control/engine"
	"github.com/fairlead-net/fairlead/control/events"
	"github.com/fairlead-net/fairlead/control/flows"
	"github.com/fairlead-net/fairlead/control/instance"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/settings"
	"github.com/fairlead-net/fairlead/control/rtnl/uplink"
	"github.com/fairlead-net/fairlead/loader"
)

// Config configures New. All fields are required, unless they say otherwise.
type Config struct {
	Controller *controller.Controller
	Engine     *engine.Engine
	Handle     *rtnl.Handle
	Datapath   *loader.Datapath
	Reconciler *reconcile.Reconciler
	DNS        *dns.Server
	Namer      *dockerplugin.Namer // nil: no engine is queried for names
	Cluster    *Cluster            // nil: the host is not part of a cluster
	Announcer  *announce.Announcer
	Leases     *leases.Keeper
	EventLog   *events.Log
	Log        *slog.Logger

	// What the status says of the daemon.
	Dirs    instance.Dirs
	Uplinks []string // as configured
	Version string
	Started time.Time
}

// Node is the backend of the API.
type Node struct {
	*controller.Controller
	cfg Config
}

// New returns the backend.
func New(cfg Config) *Node { return &Node{cfg.Controller, cfg} }

var (
	_ server.Backend     = (*Node)(nil)
	_ server.FlowFlusher = (*Node)(nil)
)

// CreateSandbox implements [server.Backend]. It checks the namespace's path and settings first: the controller
// does not use the kernel, and would only find out from a half-made sandbox that the namespace is
// missing, or that the kernel refuses a setting.
func (b *Node) CreateSandbox(ctx context.Context, spec model.SandboxSpec) (*model.Sandbox, error) {
	if model.CheckSysctls(spec.Sysctls) == nil { // else the controller refuses them
		if err := settings.Try(spec.Sysctls); err != nil {
			return nil, err
		}
	}
	if filepath.IsAbs(spec.NetNS) {
		ns, err := b.cfg.Handle.OpenSandboxNetNS(spec.NetNS)
		if errors.Is(err, rtnl.ErrHost) {
			return nil, refuseHost(spec.NetNS)
		}
		if err != nil {
			return nil, &model.Refusal{Kind: model.ErrInvalid, Text: fmt.Sprintf(
				"%v (ip netns add NAME creates one at /run/netns/NAME; without --netns the sandbox gets a new one)", err)}
		}
		if err := ns.Close(); err != nil {
			return nil, err
		}
	}
	sb, err := b.Controller.CreateSandbox(ctx, spec)
	if err != nil {
		return nil, err
	}
	for ep := range b.Snapshot().EndpointsOf(sb.ID) {
		if err := b.cfg.Leases.Obtain(ctx, ep.ID); err != nil {
			return nil, errors.Join(err, b.RemoveSandbox(context.WithoutCancel(ctx), sb.ID, true))
		}
	}
	return sb, nil
}

// Connect implements [server.Backend]. In a network whose addresses a DHCP server allocates, it waits for one.
func (b *Node) Connect(ctx context.Context, netRef, sandboxRef string, spec model.EndpointSpec) (*model.Endpoint, error) {
	ep, err := b.Controller.Connect(ctx, netRef, sandboxRef, spec)
	if err != nil || ep.Lease == nil {
		return ep, err
	}
	if err := b.cfg.Leases.Obtain(ctx, ep.ID); err != nil {
		return nil, errors.Join(err, b.Disconnect(context.WithoutCancel(ctx), ep.NetworkID, ep.SandboxID, true))
	}
	if now := b.Snapshot().Endpoint(ep.ID); now != nil {
		return now, nil
	}
	return ep, nil
}

// Sandbox implements [server.Backend]. The caller may use a name that the engine has just assigned,
// so it fetches the engine's names if the sandbox is not found.
func (b *Node) Sandbox(ref string) (*model.Sandbox, error) {
	sb, err := b.Controller.Sandbox(ref)
	if errors.Is(err, model.ErrNotFound) {
		b.learnNames()
		return b.Controller.Sandbox(ref)
	}
	return sb, err
}

// Network does the same for networks.
func (b *Node) Network(ref string) (*model.Network, error) {
	n, err := b.Controller.Network(ref)
	if errors.Is(err, model.ErrNotFound) {
		b.learnNames()
		return b.Controller.Network(ref)
	}
	return n, err
}

// learnNames fetches names from the engine if some of its objects lack one. The caller looks again
// whatever comes of it: the Namer may have learned the name since the caller looked.
func (b *Node) learnNames() {
	if b.cfg.Namer == nil || !lacksNames(b.Snapshot()) {
		return
	}
	if err := b.cfg.Namer.Refresh(context.Background()); err != nil { // it has a timeout of its own
		b.cfg.Log.Debug("cannot fetch names from the engine", "err", err)
	}
}

// lacksNames reports whether a sandbox or network of the engine lacks its name.
func lacksNames(s *desired.Snapshot) bool {
	for sb := range s.Sandboxes() {
		if sb.ManagedBy == model.ByEngine && sb.EngineID == "" {
			return true
		}
	}
	for n := range s.Networks() {
		if n.ManagedBy == model.ByEngine && n.OriginalName == "" {
			return true
		}
	}
	return false
}

// Warnings implements [server.Backend]. It returns what CreateSandbox accepts but cannot serve.
func (b *Node) Warnings(spec model.SandboxSpec) []string {
	warnings, ports := b.ConnectWarnings(spec.NetworkMode, spec.Endpoint), b.Controller.Warnings(spec)
	if len(spec.Ports) == 0 && !spec.PublishAll || len(ports) > 0 {
		return append(warnings, ports...)
	}
	if problem := b.cfg.Datapath.CgroupProblem(); problem != "" {
		return append(warnings, "Programs on the host cannot reach published ports at the host's own addresses, including 127.0.0.1: "+problem)
	}
	return warnings
}

// ConnectWarnings implements [server.Backend]. It returns what Connect accepts but does not serve.
func (b *Node) ConnectWarnings(network string, spec model.EndpointSpec) []string {
	n, err := b.Snapshot().FindNetwork(network)
	if err != nil || len(spec.Aliases) == 0 || n.IPAM != model.IPAMNull {
		return nil
	}
	return []string{fmt.Sprintf("Aliases in network %s have no addresses: it has the IPAM driver %s, and Fairlead does not know those that programs in its sandboxes configure", n.Name, n.IPAM)}
}

// refuseHost returns the refusal to use the host's namespace for a sandbox.
func refuseHost(path string) error {
	return &model.Refusal{Kind: model.ErrInvalid, Text: fmt.Sprintf(
		"network namespace %q is the host's own (name another; use --network host to run in the host's network)", path)}
}

// Engines are the verbs of container engines.
type Engines struct {
	*engine.Engine
	Handle *rtnl.Handle
	Log    *slog.Logger
}

// JoinEndpoint implements [dockerplugin.Controller]. The path need not exist outside of the
// engine.
func (f Engines) JoinEndpoint(ctx context.Context, id, name, netns string) (*model.Endpoint, error) {
	ns, err := f.Handle.OpenSandboxNetNS(netns)
	if errors.Is(err, rtnl.ErrHost) {
		return nil, refuseHost(netns)
	}
	if err == nil {
		err = ns.Close()
	}
	if err != nil && !errors.Is(err, rtnl.ErrNoNetNS) {
		f.Log.Debug("cannot check the engine's network namespace", "path", netns, "err", err)
	}
	return f.Engine.JoinEndpoint(ctx, id, name, netns)
}

// ForceRemoveNetwork implements [server.Node]. It removes a network even if an engine manages it,
// provided that the engine no longer has it. If there is no engine to query, it trusts the
// operator.
func (b *Node) ForceRemoveNetwork(ctx context.Context, ref string) error {
	n, err := b.Network(ref)
	if err != nil {
		return err
	}
	id := n.EngineRef()
	if id == "" {
		return b.RemoveNetwork(ctx, n.ID)
	}
	if b.cfg.Namer != nil {
		has, err := b.cfg.Namer.Has(ctx, id)
		if err != nil {
			return &model.Refusal{Kind: model.ErrConflict, Text: fmt.Sprintf("network %s belongs to Docker, which did not answer: %v (restart or stop Docker, then retry)", n.Name, err)}
		}
		if has {
			return &model.Refusal{Kind: model.ErrForbidden, Text: fmt.Sprintf("network %s is managed by Docker (use: docker network rm %[1]s)", n.Name)}
		}
	}
	if err := b.cfg.Engine.RemoveEngineNetwork(ctx, id); err != nil {
		return err
	}
	subnets := make([]string, len(n.Subnets))
	for i, s := range n.Subnets {
		subnets[i] = s.Prefix.String()
	}
	err = b.cfg.Engine.RemoveOrphaned(ctx, subnets)
	if err == nil && n.Has().Shared {
		err = b.RemoveNetwork(ctx, n.ID)
	}
	return err
}

// CheckSandbox implements [server.Node]. It checks a sandbox's interfaces immediately.
func (b *Node) CheckSandbox(ctx context.Context, id string, want api.Expected) error {
	err := b.cfg.Reconciler.Check(ctx, id)
	if err == nil && want.EndpointID != "" {
		err = b.cfg.Reconciler.Compare(want.EndpointID, want.Gateways)
	}
	switch {
	case err == nil, errors.Is(err, model.ErrVanished):
		return err
	default:
		return &model.Refusal{Kind: model.ErrConflict, Text: err.Error()}
	}
}

// Unserved implements [server.Node]. It lists the gateways where DNS should be served on port 53 and
// is not.
func (b *Node) Unserved() (list []netip.Addr) {
	for _, at := range b.cfg.DNS.Unserved() {
		if at.Port() == model.PortDNS {
			list = append(list, at.Addr())
		}
	}
	return list
}

// Events implements [server.EventSource].
func (b *Node) Events(ctx context.Context, run string, after uint64) api.Events {
	return b.cfg.EventLog.After(ctx, run, after)
}

// Flows implements [server.Node].
func (b *Node) Flows(ctx context.Context, filter api.FlowFilter) ([]api.Flow, error) {
	return b.flows().List(ctx, filter)
}

// FlushFlows implements [server.FlowFlusher].
func (b *Node) FlushFlows(_ context.Context, filter api.FlowFilter) (int, error) {
	return b.flows().Flush(filter)
}

func (b *Node) flows() *flows.Flows {
	return flows.New(flows.Config{Tracked: b.cfg.Datapath.Maps().Conntrack, Networks: b.Network, Snapshot: b.Snapshot})
}

// Status implements [server.Node].
func (b *Node) Status(context.Context) (api.Status, error) {
	counts, err := b.cfg.Datapath.Maps().Conntrack.Counts()
	if err != nil {
		return api.Status{}, err
	}
	flows := 0
	for _, n := range counts.States {
		flows += n
	}
	uplinks, err := b.uplinks()
	if err != nil {
		return api.Status{}, err
	}
	problems, err := uplink.FindProblems(b.cfg.Handle, b.cfg.Uplinks)
	if err != nil {
		return api.Status{}, err
	}
	now := b.cfg.Reconciler.Stats()
	snapshot := b.Snapshot()
	has := snapshot.Counts()
	return api.Status{
		Version:   b.cfg.Version,
		Pid:       os.Getpid(),
		Started:   b.cfg.Started,
		StateDir:  b.cfg.Dirs.State,
		RunDir:    b.cfg.Dirs.Run,
		BPFDir:    b.cfg.Dirs.BPF,
		Attach:    string(b.cfg.Datapath.Kind()),
		Uplinks:   uplinks,
		Troubles:  problems,
		Leases:    leases.Problems(snapshot, time.Now()),
		Gateways:  gateways(snapshot),
		Networks:  has.Networks,
		Sandboxes: has.Sandboxes,
		Endpoints: has.Endpoints,
		Publishes: publishedPorts(snapshot),
		Flows:     flows,
		FlowsMax:  counts.ConfirmedMax / 2,
		Repairs:   now.Repairs,
		LastError: now.LastError,
		Cluster:   b.clusterStatus(),
	}, nil
}

// gateways describes the gateways of networks that do not serve, one line each.
func gateways(snapshot *desired.Snapshot) (list []string) {
	for n := range snapshot.Networks() {
		if why := snapshot.RouterError(n); why != "" {
			list = append(list, fmt.Sprintf("network %s: what members send outside is dropped without gateway %s: %s", n.Name, n.Router, why))
		}
	}
	slices.Sort(list)
	return list
}

// publishedPorts counts host ports. Each port of a range counts.
func publishedPorts(snapshot *desired.Snapshot) int {
	ports := 0
	for p := range snapshot.Publishes() {
		ports += int(p.Count)
	}
	return ports
}

// uplinks returns the names of the uplinks. It omits devices that were just removed.
func (b *Node) uplinks() ([]string, error) {
	names, err := b.deviceNames()
	if err != nil {
		return nil, err
	}
	var uplinks []string
	for _, uplink := range b.cfg.Datapath.Maps().Uplinks.List() {
		if name, ok := names[uplink.IfIndex]; ok {
			uplinks = append(uplinks, name)
		}
	}
	slices.Sort(uplinks)
	return uplinks, nil
}

// Version returns the versions of the daemon, built from a revision, and of the kernel.
func Version(version, revision string) api.Version {
	v := api.Version{
		Version: version, GitCommit: revision,
		GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH,
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		v.KernelVersion = unix.ByteSliceToString(name.Release[:])
	}
	return v
}
