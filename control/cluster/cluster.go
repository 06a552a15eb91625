// SPDX-License-Identifier: Apache-2.0

// Package cluster is this host's part in a cluster: its registration, the networks that it shares
// with other hosts, and its members of them. The local state does not depend on it: a store that does
// not answer stops neither what runs nor any removal.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/cluster/leaving"
	"github.com/fairlead-net/fairlead/control/cluster/members"
	"github.com/fairlead-net/fairlead/control/cluster/networks"
	"github.com/fairlead-net/fairlead/control/cluster/nodes"
	"github.com/fairlead-net/fairlead/control/cluster/services"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

// Config configures a Cluster. All fields are required, unless they say otherwise.
type Config struct {
	Store   kv.Store
	Local   store.Store // of this host
	State   Local
	Name    string // of this host
	Version string
	Port    uint16 // of VXLAN
	// VTEPs returns the addresses of this host in the underlay.
	VTEPs func() (v4, v6 netip.Addr, err error)
	// MACs returns the MACs of this host's uplinks, separated by commas; nil: none.
	MACs func() string
	// MTU returns the size of the largest packet that a shared network can have here, in bytes.
	MTU func(encrypted bool) (int, error)
	// Encryption is this host's device that encrypts.
	Encryption Encryption
	// Alive returns the IDs of the other nodes with members in a network that are connected to the store.
	Alive func(network string) []string
	Log   *slog.Logger
	Now   func() time.Time // nil: time.Now
	// Grace is how long an address may be held without an endpoint. 0: one minute.
	Grace time.Duration
}

// Encryption is this host's device that encrypts.
type Encryption interface {
	// Key returns its public key and its UDP port, zero until the host has had a device.
	Key() (model.PublicKey, uint16)
	// Ensure makes sure that it exists.
	Ensure() (model.EncryptingDevice, error)
}

// Local is the state of this host, as verbs change it.
type Local interface {
	networks.Local
	services.Local
}

// Cluster is this host's part in a cluster.
type Cluster struct {
	cfg      Config
	self     *nodes.Self
	networks *networks.Networks
	members  *members.Members
	services *services.Services
	leaving  *leaving.Leaving
}

// Open loads what this host knows of itself. It does not need the cluster's store.
func Open(ctx context.Context, cfg Config) (*Cluster, error) {
	c := &Cluster{cfg: cfg}
	var err error
	c.self, err = nodes.Open(ctx, nodes.Config{
		Cluster: cfg.Store, Local: cfg.Local, Name: cfg.Name, Version: cfg.Version, Port: cfg.Port,
		VTEPs: cfg.VTEPs, MACs: cfg.MACs, Key: cfg.Encryption.Key, Verify: c.Verify, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	c.networks, err = networks.New(ctx, networks.Config{
		Cluster: cfg.Store, Store: cfg.Local, State: cfg.State, Node: c.self.Node, ClusterID: c.self.ClusterID, Listed: c.self.Check, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	c.members, err = members.New(ctx, members.Config{
		Store: cfg.Store, Local: cfg.Local, Node: c.self.Node, Check: c.check, Log: cfg.Log, Now: cfg.Now, Grace: cfg.Grace,
	})
	if err != nil {
		return nil, err
	}
	c.leaving = leaving.New(leaving.Config{Store: cfg.Store, Node: c.self.Node().ID, Alive: cfg.Alive, Log: cfg.Log})
	c.services, err = services.New(ctx, services.Config{Cluster: cfg.Store, Store: cfg.Local, State: cfg.State, ClusterID: c.self.ClusterID, Log: cfg.Log})
	return c, err
}

// Run keeps this host in the cluster until ctx ends.
func (c *Cluster) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.self.Run(ctx) })
	group.Go(func() error { return c.networks.Run(ctx) })
	group.Go(func() error { return c.members.Run(ctx) })
	group.Go(func() error { return c.services.Run(ctx) })
	group.Go(func() error { return c.leaving.Run(ctx) })
	return group.Wait()
}

// Update passes the desired state. It does not wait for the store.
func (c *Cluster) Update(s *desired.Snapshot) { c.members.Update(s) }

// Verify compares everything with the store, which may be a new one.
func (c *Cluster) Verify() {
	c.networks.Verify()
	c.members.Verify()
	c.services.Verify()
}

// check refuses endpoints in networks that cannot work on this host.
func (c *Cluster) check(ctx context.Context, n *model.Network) error {
	if err := c.ready(ctx); err != nil {
		return err
	}
	if n.Encrypted {
		if err := c.encrypt(ctx); err != nil {
			return err
		}
	}
	mtu, err := c.cfg.MTU(n.Encrypted)
	if err != nil {
		return fmt.Errorf("find the MTU of the underlay: %w", err)
	}
	if n.DeviceMTU() > mtu {
		return model.Refuse(model.ErrInvalid, "packets of network %s have up to %d bytes, but this host's underlay carries %d (raise the MTU of its uplink, or recreate the network with: -o %s=%d)",
			n.Name, n.DeviceMTU(), mtu, model.OptMTU, mtu)
	}
	return nil
}

// encrypt makes sure that this host can be a node of encrypted networks, and that the others know its key.
func (c *Cluster) encrypt(ctx context.Context) error {
	dev, err := c.cfg.Encryption.Ensure()
	if err != nil {
		return err
	}
	if c.self.Node().WireGuardKey == dev.Key {
		return nil
	}
	c.self.Check()
	if !c.self.WaitKey(ctx, dev.Key, registerTimeout) {
		return model.Refuse(model.ErrUnavailable, "the other hosts do not know this host's WireGuard key yet (try again; the daemon's log says if something prevents it)")
	}
	return nil
}

// registerTimeout bounds the wait of a verb for the registration after the daemon's start.
const registerTimeout = 3 * time.Second

// UnderlayChanged registers this host again if its addresses in the underlay changed.
func (c *Cluster) UnderlayChanged() {
	v4, v6, err := c.cfg.VTEPs()
	if self := c.self.Node(); err != nil || v4 != self.VTEP4 || v6 != self.VTEP6 {
		c.self.Check() // reports the error
	}
}

// ready returns a refusal unless this host is registered.
func (c *Cluster) ready(ctx context.Context) error {
	if c.self.WaitRegistered(ctx, registerTimeout) {
		return nil
	}
	if err := c.Answers(); err != nil {
		return err
	}
	return model.Refuse(model.ErrUnavailable, "this host is not registered in the cluster yet (try again; the daemon's log says if something prevents it)")
}

// Answers returns a refusal if the cluster's store does not answer.
func (c *Cluster) Answers() error {
	h := c.cfg.Store.Health()
	if h.Reachable || h.Err == nil {
		return nil
	}
	return model.Refuse(model.ErrUnavailable, "the cluster's store %s does not answer: %v (check that it runs and admits this host; what runs goes on meanwhile)", h.Store, h.Err)
}

// CreateNetwork implements the controller's interface; see [networks.Networks.Create].
func (c *Cluster) CreateNetwork(ctx context.Context, encrypted bool, plan func(taken []netip.Prefix, mtu int) (*model.Network, error)) (*model.Network, error) {
	if err := c.ready(ctx); err != nil {
		return nil, err
	}
	if encrypted {
		if err := c.encrypt(ctx); err != nil {
			return nil, err
		}
	}
	mtu, err := c.cfg.MTU(encrypted)
	if err != nil {
		return nil, fmt.Errorf("find the MTU of the underlay: %w", err)
	}
	return c.networks.Create(ctx, func(taken []netip.Prefix) (*model.Network, error) { return plan(taken, mtu) })
}

// RemoveNetwork implements the controller's interface; see [networks.Networks.Remove].
func (c *Cluster) RemoveNetwork(ctx context.Context, n *model.Network, wait bool) error {
	return c.networks.Remove(ctx, n, wait)
}

// Claim implements the controller's interface; see [members.Members.Claim].
func (c *Cluster) Claim(ctx context.Context, n *model.Network, spec model.EndpointSpec, member model.Member) (*model.Claim, error) {
	return c.members.Claim(ctx, n, spec, member)
}

// Done ends a claim.
func (c *Cluster) Done(claim *model.Claim) { c.members.Done(claim) }

// Withdrawn implements the controller's interface: the members are leaving in the local state.
func (c *Cluster) Withdrawn(ctx context.Context, network string, members []string) {
	if c.Answers() != nil || c.members.Publish(ctx, network) != nil {
		return // other nodes learn of it when the store answers
	}
	c.leaving.Await(ctx, network, members)
}

// Confirm records that no service on this node sends new flows to these members of a network, which other nodes
// are about to remove. It does not wait.
func (c *Cluster) Confirm(network string, members []string) { c.leaving.Confirm(network, members) }

// CreateService implements the controller's interface; see [services.Services.Create].
func (c *Cluster) CreateService(ctx context.Context, n *model.Network, spec model.ServiceSpec, id string, plan func(v4, v6 netip.Addr) (*model.Service, error)) (*model.Service, error) {
	if err := c.ready(ctx); err != nil {
		return nil, err
	}
	return c.services.Create(ctx, n, spec, id, plan)
}

// RemoveService implements the controller's interface; see [services.Services.Remove].
func (c *Cluster) RemoveService(ctx context.Context, n *model.Network, svc *model.Service) error {
	return c.services.Remove(ctx, n, svc)
}

// ChangeService implements the controller's interface; see [services.Services.Change].
func (c *Cluster) ChangeService(ctx context.Context, svc *model.Service, change func(*model.Service)) (*model.Service, error) {
	return c.services.Change(ctx, svc, change)
}

// Store returns the cluster's store.
func (c *Cluster) Store() kv.Store { return c.cfg.Store }

// Registered reports whether the store has had this node's record since the daemon's start.
func (c *Cluster) Registered() bool { return c.self.Registered() }

// Self returns this node's record.
func (c *Cluster) Self() model.Node { return c.self.Node() }

// RemoveNode removes another node from the cluster.
func (c *Cluster) RemoveNode(ctx context.Context, node model.Node) error {
	if node.ID == c.self.Node().ID {
		return model.Refuse(model.ErrForbidden, "node %s is this host (stop its daemon, and remove it on another node)", node.Name)
	}
	return c.self.Remove(ctx, node)
}

// Waiting returns how many networks' members are not published yet.
func (c *Cluster) Waiting() int { return c.members.Waiting() }

// Holders returns the holders of the addresses of a network on all nodes.
func (c *Cluster) Holders(ctx context.Context, network string) (map[netip.Addr]model.AddressHolder, error) {
	entries, err := c.cfg.Store.List(ctx, layout.ShardsOf(network))
	if errors.Is(err, kv.ErrUnavailable) {
		err = model.Refuse(model.ErrUnavailable, "the holders of addresses are in the cluster's store: %v", err)
	}
	if err != nil {
		return nil, err
	}
	held := map[netip.Addr]model.AddressHolder{}
	for _, e := range entries {
		var s layout.Shard
		if err := layout.Decode(e.Key, e.Value, &s); err != nil {
			return nil, err
		}
		for a, by := range s.Held {
			held[a] = by
		}
	}
	return held, nil
}
