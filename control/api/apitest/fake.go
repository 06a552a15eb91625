// SPDX-License-Identifier: Apache-2.0

// Package apitest provides a Backend for tests: a model in memory with few
// checks and without a kernel.
package apitest

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/model"
)

// Created returns the creation time of everything in a Fake.
func Created() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// Fake is a [server.Backend]. It records the requests.
type Fake struct {
	mu       sync.Mutex
	snap     desiredtest.Plain
	serial   int
	Networks []model.NetworkSpec
	Specs    []model.SandboxSpec
	Connects []model.EndpointSpec
	Services []model.ServiceSpec
	Events   []string // started and exited reports, removals
	FlowList []api.Flow
	Filter   api.FlowFilter // of the last call of Flows
	State    api.Status
	Missing  []netip.Addr // gateways where DNS is not served
	Err      error        // returned by every verb if set
	// Making, if not nil, is called while a sandbox is being created.
	Making func(ctx context.Context)
}

// New returns a Fake with the predefined networks.
func New() *Fake {
	f := &Fake{snap: desiredtest.New()}
	f.addNetwork(&model.Network{Name: model.NetworkBridge, Driver: model.DriverBridge, EnableIPv4: true, EnableIPv6: true, Subnets: []model.Subnet{
		{Prefix: netip.MustParsePrefix("172.17.0.0/16"), Gateway: netip.MustParseAddr("172.17.0.1")},
		{Prefix: netip.MustParsePrefix("fd00:17::/64"), Gateway: netip.MustParseAddr("fd00:17::1")},
	}})
	f.addNetwork(&model.Network{Name: model.NetworkHost, Driver: model.DriverHost})
	f.addNetwork(&model.Network{Name: model.NetworkNone, Driver: model.DriverNull})
	return f
}

// id generates IDs that differ in their first digits.
func (f *Fake) id() string {
	f.serial++
	return fmt.Sprintf("%04x", f.serial) + strings.Repeat("ab", 30)
}

func (f *Fake) addNetwork(n *model.Network) *model.Network {
	n.ID, n.Created = f.id(), Created()
	f.snap.Networks[n.ID] = n
	return n
}

// Add adds a sandbox to the model unchanged, and attaches it to networks by name.
func (f *Fake) Add(sb model.Sandbox, networks ...string) *model.Sandbox {
	f.mu.Lock()
	defer f.mu.Unlock()
	sb.ID = f.id()
	if sb.Created.IsZero() {
		sb.Created = Created()
	}
	f.snap.Sandboxes[sb.ID] = &sb
	for i, name := range networks {
		n, _ := f.network(name)
		f.join(n, &sb, i)
	}
	return &sb
}

func (f *Fake) join(n *model.Network, sb *model.Sandbox, order int) *model.Endpoint {
	last := byte(f.serial)
	ep := &model.Endpoint{
		ID: f.id(), NetworkID: n.ID, SandboxID: sb.ID, IfName: fmt.Sprintf("eth%d", order), Order: order, DefaultRoute4: order == 0, DefaultRoute6: order == 0,
		MAC: model.MAC{2, 0x42, 0, 0, 0, last},
	}
	if s, ok := n.Subnet(model.V4); ok {
		a := s.Prefix.Addr().As4()
		a[3] = last
		ep.IPv4 = netip.PrefixFrom(netip.AddrFrom4(a), s.Prefix.Bits())
	}
	if s, ok := n.Subnet(model.V6); ok {
		a := s.Prefix.Addr().As16()
		a[15] = last
		ep.IPv6 = netip.PrefixFrom(netip.AddrFrom16(a), s.Prefix.Bits())
	}
	f.snap.Endpoints[ep.ID] = ep
	if ep.IsGateway() {
		for _, b := range sb.Ports {
			id := uint32(len(f.snap.Publishes) + 1)
			f.snap.Publishes[id] = &model.Publish{ID: id, EndpointID: ep.ID, PortBinding: b}
		}
	}
	return ep
}

func (f *Fake) network(ref string) (*model.Network, error) {
	for _, n := range f.snap.Networks {
		if n.Name == ref || strings.HasPrefix(n.ID, ref) {
			return n, nil
		}
	}
	return nil, model.NoNetwork(ref)
}

func (f *Fake) sandbox(ref string) (*model.Sandbox, error) {
	for _, s := range f.snap.Sandboxes {
		if s.Name == ref || strings.HasPrefix(s.ID, ref) {
			return s, nil
		}
	}
	return nil, model.NoSandbox(ref)
}

// Snapshot implements [server.Controller].
func (f *Fake) Snapshot() *desired.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.snap.Snapshot()
}

// Network implements [server.Controller].
func (f *Fake) Network(ref string) (*model.Network, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.network(ref)
}

// Sandbox implements [server.Controller].
func (f *Fake) Sandbox(ref string) (*model.Sandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sandbox(ref)
}

// CreateNetwork implements [server.Controller].
func (f *Fake) CreateNetwork(_ context.Context, spec model.NetworkSpec) (*model.Network, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Networks = append(f.Networks, spec)
	if f.Err != nil {
		return nil, f.Err
	}
	n := &model.Network{Name: spec.Name, Driver: cmp.Or(spec.Driver, model.DriverBridge), EnableIPv4: !spec.NoIPv4, EnableIPv6: spec.EnableIPv6,
		Internal: spec.Internal, Options: spec.Options, Labels: spec.Labels}
	for _, s := range spec.Subnets {
		n.Subnets = append(n.Subnets, model.Subnet(s))
	}
	return f.addNetwork(n), nil
}

// RemoveNetwork implements [server.Controller].
func (f *Fake) RemoveNetwork(_ context.Context, ref string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.network(ref)
	if err == nil {
		delete(f.snap.Networks, n.ID)
		err = f.Err
	}
	return err
}

// ForceRemoveNetwork implements [server.Node].
func (f *Fake) ForceRemoveNetwork(ctx context.Context, ref string) error {
	f.mu.Lock()
	f.Events = append(f.Events, "force "+ref)
	f.mu.Unlock()
	return f.RemoveNetwork(ctx, ref)
}

// PruneNetworks implements [server.Controller].
func (f *Fake) PruneNetworks(_ context.Context, keep func(*model.Network) bool) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for id, n := range f.snap.Networks {
		if n.Driver == model.DriverBridge && n.Name != model.NetworkBridge && !keep(n) {
			names = append(names, n.Name)
			delete(f.snap.Networks, id)
		}
	}
	return names, f.Err
}

// Connect implements [server.Controller].
func (f *Fake) Connect(_ context.Context, network, sandbox string, spec model.EndpointSpec) (*model.Endpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Connects = append(f.Connects, spec)
	n, err := f.network(network)
	if err != nil {
		return nil, err
	}
	sb, err := f.sandbox(sandbox)
	if err != nil {
		return nil, err
	}
	return f.join(n, sb, len(f.Connects)), f.Err
}

// Disconnect implements [server.Controller].
func (f *Fake) Disconnect(_ context.Context, network, sandbox string, force bool) error {
	f.event("disconnect %s %s force=%t", network, sandbox, force)
	return f.Err
}

// PublishPorts implements [server.Controller].
func (f *Fake) PublishPorts(_ context.Context, ref string, specs []model.PortSpec) error {
	return f.changed(ref, "publish %d", len(specs))
}

// UnpublishPorts implements [server.Controller].
func (f *Fake) UnpublishPorts(_ context.Context, ref string, specs []model.PortSpec) error {
	return f.changed(ref, "unpublish %d", len(specs))
}

// RenameSandbox implements [server.Controller].
func (f *Fake) RenameSandbox(_ context.Context, ref, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	sb, err := f.sandbox(ref)
	if err == nil {
		sb.Name = name
	}
	return err
}

// SetBandwidth implements [server.Controller].
func (f *Fake) SetBandwidth(_ context.Context, ref, network string, ingress, egress *model.Limit) error {
	return f.changed(ref, "bandwidth %q %v %v", network, ingress, egress)
}

// changed records a change of a sandbox that exists.
func (f *Fake) changed(ref, format string, args ...any) error {
	sb, err := f.Sandbox(ref)
	if err != nil {
		return err
	}
	f.event(format+" of "+sb.Name, args...)
	return f.Err
}

// CreateSandbox implements [server.Controller].
func (f *Fake) CreateSandbox(ctx context.Context, spec model.SandboxSpec) (*model.Sandbox, error) {
	f.mu.Lock()
	f.Specs = append(f.Specs, spec)
	f.mu.Unlock()
	if f.Err != nil {
		return nil, f.Err
	}
	if f.Making != nil {
		f.Making(ctx)
	}
	name := spec.Name
	if name == "" {
		name = "made_up"
	}
	sb := model.Sandbox{Name: name, NetworkMode: spec.NetworkMode, NetNS: "/run/fairlead/netns/" + name,
		Hostname: spec.Hostname, Labels: spec.Labels, Command: spec.Command, AutoRemove: spec.AutoRemove, Expose: spec.Expose}
	for _, p := range spec.Ports {
		sb.Ports = append(sb.Ports, model.PortBinding{HostIP: p.HostIP, HostPort: p.HostPort, Port: p.Port, Count: p.Count, Proto: p.Proto, From: p.From})
	}
	if spec.Endpoint.Network == "" {
		return f.Add(sb), nil
	}
	return f.Add(sb, spec.Endpoint.Network), nil
}

// Warnings implements [server.Controller].
func (f *Fake) Warnings(spec model.SandboxSpec) []string {
	if spec.NetworkMode == model.NetworkHost && len(spec.Ports) > 0 {
		return []string{"Published ports are discarded"}
	}
	return nil
}

// ConnectWarnings implements [server.Controller].
func (f *Fake) ConnectWarnings(_ string, spec model.EndpointSpec) []string {
	if slices.Contains(spec.Aliases, "unserved") {
		return []string{"Aliases are not served"}
	}
	return nil
}

// RemoveSandbox implements [server.Controller].
func (f *Fake) RemoveSandbox(_ context.Context, ref string, force bool) error {
	f.mu.Lock()
	sb, err := f.sandbox(ref)
	if err != nil {
		f.mu.Unlock()
		return err
	}
	delete(f.snap.Sandboxes, sb.ID)
	f.mu.Unlock()
	f.event("remove %s force=%t", sb.Name, force)
	return nil
}

// Withdraw implements [server.Controller].
func (f *Fake) Withdraw(_ context.Context, ref string) error {
	f.mu.Lock()
	sb, err := f.sandbox(ref)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	f.event("withdraw %s", sb.Name)
	return nil
}

// SandboxStarted implements [server.Controller].
func (f *Fake) SandboxStarted(_ context.Context, ref string, pid int, start uint64) error {
	f.event("started")
	return f.change(ref, func(sb *model.Sandbox) { sb.PID, sb.PIDStart = pid, start })
}

// SandboxExited implements [server.Controller].
func (f *Fake) SandboxExited(_ context.Context, ref string, code int) error {
	f.event("exited %d", code)
	return f.change(ref, func(sb *model.Sandbox) { sb.Exited, sb.ExitCode = true, code })
}

func (f *Fake) change(ref string, change func(*model.Sandbox)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	sb, err := f.sandbox(ref)
	if err != nil {
		return err
	}
	next := *sb
	change(&next)
	f.snap.Sandboxes[sb.ID] = &next
	return f.Err
}

func (f *Fake) event(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Events = append(f.Events, fmt.Sprintf(format, args...))
}

// Flows implements [server.Node].
func (f *Fake) Flows(_ context.Context, filter api.FlowFilter) ([]api.Flow, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Filter = filter
	return f.FlowList, f.Err
}

// FlushFlows implements [server.FlowFlusher].
func (f *Fake) FlushFlows(_ context.Context, filter api.FlowFilter) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Filter = filter
	return len(f.FlowList), f.Err
}

// CheckSandbox implements [server.Node].
func (f *Fake) CheckSandbox(_ context.Context, id string, want api.Expected) error {
	f.event("check %s %v", id, want)
	return f.Err
}

// Unserved implements [server.Node].
func (f *Fake) Unserved() []netip.Addr { return f.Missing }

// Status implements [server.Node].
func (f *Fake) Status(context.Context) (api.Status, error) { return f.State, f.Err }

// Service implements [server.Services].
func (f *Fake) Service(ref string) (*model.Service, error) { return f.Snapshot().FindService(ref) }

// CreateService implements [server.Services].
func (f *Fake) CreateService(_ context.Context, spec model.ServiceSpec) (*model.Service, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Services = append(f.Services, spec)
	if f.Err != nil {
		return nil, f.Err
	}
	n, err := f.network(spec.Network)
	if err != nil {
		return nil, err
	}
	svc := &model.Service{
		ID: f.id(), Name: spec.Name, NetworkID: n.ID, Created: Created(), Number: uint32(f.serial), IPv4: spec.IPv4, IPv6: spec.IPv6,
		Affinity: spec.Affinity, Labels: spec.Labels, MAC: model.MAC{2, 0x42, 1},
	}
	for _, p := range spec.Ports {
		svc.Ports = append(svc.Ports, model.PortBinding{HostIP: p.HostIP, HostPort: p.HostPort, Port: p.Port, Count: p.Count, Proto: p.Proto})
	}
	f.snap.Services[svc.ID] = svc
	return svc, nil
}

// RemoveService implements [server.Services].
func (f *Fake) RemoveService(_ context.Context, ref string) error {
	svc, err := f.Service(ref)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		delete(f.snap.Services, svc.ID)
		err = f.Err
	}
	return err
}

// DrainBackend implements [server.Services].
func (f *Fake) DrainBackend(_ context.Context, ref, sandbox string, drained bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Events = append(f.Events, fmt.Sprintf("drain %s %s %t", ref, sandbox, drained))
	return f.Err
}
