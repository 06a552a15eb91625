// SPDX-License-Identifier: Apache-2.0

// Package attachtest provides a daemon for the tests of the front ends: a controller without
// a kernel, behind the real API and its socket.
package attachtest

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/control/api/server"
	"github.com/fairlead-net/fairlead/control/attach"
	"github.com/fairlead-net/fairlead/control/controller"
	"github.com/fairlead-net/fairlead/control/controller/controllertest"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/host"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

// Daemon ends with its test.
type Daemon struct {
	*controller.Controller
	Socket   string
	Broken   error        // the result of a check of a sandbox
	Expected api.Expected // what a check of a sandbox had to compare
	Silent   []netip.Addr // gateways where no names are served
}

// Status returns nothing.
func (d *Daemon) Status(context.Context) (api.Status, error) { return api.Status{}, nil }

// CheckSandbox returns what the test has set.
func (d *Daemon) CheckSandbox(_ context.Context, _ string, want api.Expected) error {
	d.Expected = want
	return d.Broken
}

// ForceRemoveNetwork does not remove networks managed by an engine.
func (d *Daemon) ForceRemoveNetwork(ctx context.Context, ref string) error {
	return d.RemoveNetwork(ctx, ref)
}

// Unserved returns the gateways that the test has set.
func (d *Daemon) Unserved() []netip.Addr { return d.Silent }

// Flows returns nothing.
func (d *Daemon) Flows(context.Context, api.FlowFilter) ([]api.Flow, error) { return nil, nil }

// Dial returns a client of the daemon at a host.
func Dial(host string) (attach.Daemon, error) { return client.New(host) }

// New starts a daemon on a host whose port 22 is in use.
func New(t *testing.T) *Daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "att") // short, for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	st, err := store.OpenBolt(store.BoltConfig{Path: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	d := &Daemon{Socket: filepath.Join(dir, "sock")}
	state, err := txn.New(txn.Config{Store: st, Realizer: controllertest.Kernel{}, Host: controllertest.Host{Busy: 22}})
	if err != nil {
		t.Fatal(err)
	}
	if d.Controller, err = controller.New(state, controller.Config{Namespaces: controllertest.Kernel{}, Alive: host.ProcessAlive, RunDir: dir, Cluster: func() controller.Cluster { return cluster{} }}); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", d.Socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- server.New(server.Config{Backend: d, Alive: host.ProcessAlive, RunDir: dir, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, l)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return d
}

// ConnectWarnings returns nothing: a runtime that gives an alias does not see warnings.
func (d *Daemon) ConnectWarnings(string, model.EndpointSpec) []string { return nil }

// Names returns the names of the sandboxes.
func (d *Daemon) Names() string {
	var names []string
	for sb := range d.Snapshot().Sandboxes() {
		names = append(names, sb.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// Namespace returns the path of a namespace, which can be removed.
func Namespace(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.Symlink("/proc/self/ns/net", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// cluster allocates the addresses of shared networks, in which only this host is. Endpoints get the
// addresses from .100 on.
type cluster struct{}

func (cluster) CreateNetwork(_ context.Context, _ bool, plan func([]netip.Prefix, int) (*model.Network, error)) (*model.Network, error) {
	return plan(nil, 1450)
}

func (cluster) RemoveNetwork(context.Context, *model.Network, bool) error { return nil }

func (cluster) Claim(_ context.Context, n *model.Network, spec model.EndpointSpec, member model.Member) (*model.Claim, error) {
	claim := &model.Claim{NetworkID: n.ID, Member: member, NodeIPv4: n.Subnets[0].Gateway.Next()}
	claim.Member.IPv4, claim.Member.MAC = spec.IPv4, spec.MAC
	if !spec.IPv4.IsValid() {
		a := n.Subnets[0].Prefix.Addr().As4()
		a[3] = 100
		claim.Member.IPv4 = netip.AddrFrom4(a)
	}
	return claim, nil
}

func (cluster) Done(*model.Claim) {}

func (cluster) CreateService(_ context.Context, _ *model.Network, spec model.ServiceSpec, _ string, plan func(v4, v6 netip.Addr) (*model.Service, error)) (*model.Service, error) {
	return plan(spec.IPv4, spec.IPv6)
}

func (cluster) RemoveService(context.Context, *model.Network, *model.Service) error { return nil }

func (cluster) Withdrawn(context.Context, string, []string) {}

func (cluster) ChangeService(_ context.Context, svc *model.Service, change func(*model.Service)) (*model.Service, error) {
	now := *svc
	change(&now)
	return &now, nil
}
