// SPDX-License-Identifier: Apache-2.0

package daemon

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

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/server"
	"github.com/fairlead-net/fairlead/control/controller"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/engine"
	"github.com/fairlead-net/fairlead/control/flows"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/uplink"
)

// backend is the backend of the API: the controller's verbs, and what only the running daemon
// knows.
type backend struct {
	*controller.Controller
	daemon *daemon
}

var (
	_ server.Backend     = (*backend)(nil)
	_ server.FlowFlusher = (*backend)(nil)
)

// CreateSandbox implements [server.Backend]. It checks the namespace's path first: the controller
// does not use the kernel, and would only find out from a half-made sandbox that the namespace is
// missing.
func (b *backend) CreateSandbox(ctx context.Context, spec model.SandboxSpec) (*model.Sandbox, error) {
	if filepath.IsAbs(spec.NetNS) {
		ns, err := b.daemon.handle.OpenSandboxNetNS(spec.NetNS)
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
	return b.Controller.CreateSandbox(ctx, spec)
}

// Sandbox implements [server.Backend]. The caller may use a name that the engine has just assigned,
// so it fetches the engine's names if the sandbox is not found.
func (b *backend) Sandbox(ref string) (*model.Sandbox, error) {
	sb, err := b.Controller.Sandbox(ref)
	if errors.Is(err, model.ErrNotFound) && b.learnNames() {
		sb, err = b.Controller.Sandbox(ref)
	}
	return sb, err
}

// Network does the same for networks.
func (b *backend) Network(ref string) (*model.Network, error) {
	n, err := b.Controller.Network(ref)
	if errors.Is(err, model.ErrNotFound) && b.learnNames() {
		n, err = b.Controller.Network(ref)
	}
	return n, err
}

// learnNames fetches names from the engine if some of its objects lack one, and reports whether
// it did.
func (b *backend) learnNames() bool {
	if b.daemon.namer == nil || !lacksNames(b.Snapshot()) {
		return false
	}
	err := b.daemon.namer.Refresh(context.Background()) // it has a timeout of its own
	if err != nil {
		b.daemon.log.Debug("cannot fetch names from the engine", "err", err)
	}
	return err == nil
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
func (b *backend) Warnings(spec model.SandboxSpec) []string {
	warnings := b.Controller.Warnings(spec)
	if len(spec.Ports) == 0 && !spec.PublishAll || len(warnings) > 0 {
		return warnings
	}
	if problem := b.daemon.datapath.CgroupProblem(); problem != "" {
		return []string{"Programs on the host cannot reach published ports at the host's own addresses, including 127.0.0.1: " + problem}
	}
	return nil
}

// refuseHost returns the refusal to use the host's namespace for a sandbox.
func refuseHost(path string) error {
	return &model.Refusal{Kind: model.ErrInvalid, Text: fmt.Sprintf(
		"network namespace %q is the host's own (name another; use --network host to run in the host's network)", path)}
}

// engineVerbs are the verbs of container engines.
type engineVerbs struct {
	*engine.Engine
	handle *rtnl.Handle
	log    *slog.Logger
}

// JoinEndpoint implements [dockerplugin.Controller]. The path need not exist outside of the
// engine.
func (f engineVerbs) JoinEndpoint(ctx context.Context, id, name, netns string) (*model.Endpoint, error) {
	ns, err := f.handle.OpenSandboxNetNS(netns)
	if errors.Is(err, rtnl.ErrHost) {
		return nil, refuseHost(netns)
	}
	if err == nil {
		err = ns.Close()
	}
	if err != nil && !errors.Is(err, rtnl.ErrNoNetNS) {
		f.log.Debug("cannot check the engine's network namespace", "path", netns, "err", err)
	}
	return f.Engine.JoinEndpoint(ctx, id, name, netns)
}

// ForceRemoveNetwork implements [server.Node]. It removes a network even if an engine manages it,
// provided that the engine no longer has it. If there is no engine to query, it trusts the
// operator.
func (b *backend) ForceRemoveNetwork(ctx context.Context, ref string) error {
	n, err := b.Network(ref)
	if err != nil {
		return err
	}
	if n.ManagedBy != model.ByEngine {
		return b.RemoveNetwork(ctx, n.ID)
	}
	if b.daemon.namer != nil {
		has, err := b.daemon.namer.Has(ctx, n.ID)
		if err != nil {
			return &model.Refusal{Kind: model.ErrConflict, Text: fmt.Sprintf("network %s belongs to Docker, which did not answer: %v (restart or stop Docker, then retry)", n.Name, err)}
		}
		if has {
			return &model.Refusal{Kind: model.ErrForbidden, Text: fmt.Sprintf("network %s is managed by Docker (use: docker network rm %[1]s)", n.Name)}
		}
	}
	if err := b.daemon.engine.RemoveEngineNetwork(ctx, n.ID); err != nil {
		return err
	}
	subnets := make([]string, len(n.Subnets))
	for i, s := range n.Subnets {
		subnets[i] = s.Prefix.String()
	}
	return b.daemon.engine.RemoveOrphaned(ctx, subnets)
}

// CheckSandbox implements [server.Node]. It checks a sandbox's interfaces immediately.
func (b *backend) CheckSandbox(ctx context.Context, id string, want api.Expected) error {
	err := b.daemon.reconciler.Check(ctx, id)
	if err == nil && want.EndpointID != "" {
		err = b.daemon.reconciler.Compare(want.EndpointID, want.Gateways)
	}
	switch {
	case err == nil, errors.Is(err, model.ErrVanished):
		return err
	default:
		return &model.Refusal{Kind: model.ErrConflict, Text: err.Error()}
	}
}

// Unserved implements [server.Node]. It lists the gateways where DNS should be served and is not.
func (b *backend) Unserved() []netip.Addr { return b.daemon.dns.Unserved() }

// Flows implements [server.Node].
func (b *backend) Flows(ctx context.Context, filter api.FlowFilter) ([]api.Flow, error) {
	return b.flows().List(ctx, filter)
}

// FlushFlows implements [server.FlowFlusher].
func (b *backend) FlushFlows(_ context.Context, filter api.FlowFilter) (int, error) {
	return b.flows().Flush(filter)
}

func (b *backend) flows() *flows.Flows {
	return flows.New(flows.Config{Tracked: b.daemon.datapath.Maps().Conntrack, Networks: b.Network, Snapshot: b.Snapshot})
}

// Status implements [server.Node].
func (b *backend) Status(context.Context) (api.Status, error) {
	counts, err := b.daemon.datapath.Maps().Conntrack.Counts()
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
	problems, err := uplink.FindProblems(b.daemon.handle, b.daemon.cfg.Uplinks)
	if err != nil {
		return api.Status{}, err
	}
	now := b.daemon.reconciler.Stats()
	snapshot := b.Snapshot()
	has := snapshot.Counts()
	return api.Status{
		Version:   b.daemon.cfg.Version,
		Pid:       os.Getpid(),
		Started:   b.daemon.started,
		StateDir:  b.daemon.cfg.Dirs.State,
		RunDir:    b.daemon.cfg.Dirs.Run,
		BPFDir:    b.daemon.cfg.Dirs.BPF,
		Attach:    string(b.daemon.datapath.Kind()),
		Uplinks:   uplinks,
		Troubles:  problems,
		Networks:  has.Networks,
		Sandboxes: has.Sandboxes,
		Endpoints: has.Endpoints,
		Publishes: publishedPorts(snapshot),
		Flows:     flows,
		FlowsMax:  counts.ConfirmedMax / 2,
		Repairs:   now.Repairs,
		LastError: now.LastError,
	}, nil
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
func (b *backend) uplinks() ([]string, error) {
	links, err := b.daemon.handle.Links()
	if err != nil {
		return nil, err
	}
	names := make(map[uint32]string, len(links))
	for _, link := range links {
		names[link.Index] = link.Name
	}
	var uplinks []string
	for _, uplink := range b.daemon.datapath.Maps().Uplinks.List() {
		if name, ok := names[uplink.IfIndex]; ok {
			uplinks = append(uplinks, name)
		}
	}
	slices.Sort(uplinks)
	return uplinks, nil
}

// version returns the versions of the daemon and of the kernel.
func (d *daemon) version() api.Version {
	v := api.Version{
		Version: d.cfg.Version, GitCommit: d.cfg.Revision,
		GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH,
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		v.KernelVersion = unix.ByteSliceToString(name.Release[:])
	}
	return v
}
