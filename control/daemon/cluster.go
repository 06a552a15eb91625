// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster"
	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/kv/open"
	"github.com/fairlead-net/fairlead/control/cluster/launch"
	"github.com/fairlead-net/fairlead/control/cluster/nodes"
	"github.com/fairlead-net/fairlead/control/cluster/token"
	"github.com/fairlead-net/fairlead/control/controller"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/engine"
	"github.com/fairlead-net/fairlead/control/metrics"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/node"
	"github.com/fairlead-net/fairlead/control/peers"
	"github.com/fairlead-net/fairlead/control/querier"
	"github.com/fairlead-net/fairlead/control/reach"
	"github.com/fairlead-net/fairlead/control/reconcile"
	"github.com/fairlead-net/fairlead/control/rtnl/frames"
	"github.com/fairlead-net/fairlead/control/rtnl/underlay"
	"github.com/fairlead-net/fairlead/control/rtnl/vxlan"
	"github.com/fairlead-net/fairlead/control/rtnl/wireguard"
	"github.com/fairlead-net/fairlead/control/store"
	tables "github.com/fairlead-net/fairlead/maps"
)

// The stores that have no URL.
const (
	StoreBolt  = "bolt"  // the host is not part of a cluster
	StoreEmbed = "embed" // an etcd that this daemon starts
)

const etcdPort = 2379

const (
	// TokenFile is the file of the embedded store's join token, in the state directory.
	TokenFile = "store-token"
	// NoToken instead of a file's name means that there is no token.
	NoToken = "none"
)

// ClusterConfig makes a host part of a cluster.
type ClusterConfig struct {
	// Store is the URL of the cluster's store, embed, or bolt for a host on its own.
	Store string
	// StoreOptions are the credentials for the store.
	StoreOptions open.Options
	// StoreListen is where the embedded store listens for other hosts. The default is the host's address
	// in the underlay, and etcd's port.
	StoreListen netip.AddrPort
	// TokenFile is the file of the join token, by which the embedded store and its clients trust each
	// other. With embed the default is TokenFile in the state directory, and NoToken means that
	// every host is admitted; with a URL there is no default.
	TokenFile string
	// Advertise are the host's addresses that others send to, at most one a family. If it is empty,
	// they are the sources of the default routes.
	Advertise []netip.Addr
	// Port is the UDP port of VXLAN, the same on all hosts.
	Port uint16
	// WireGuardPort is the UDP port of this host's device that encrypts.
	WireGuardPort uint16
	// Name is the host's name in the cluster. The default is its host name.
	Name string
}

// DefaultVXLANPort is the port that IANA assigned to VXLAN.
const DefaultVXLANPort = 4789

// DefaultWireGuardPort is not WireGuard's usual port, which a device of the operator may have, and which is
// among those that the kernel chooses for connections.
const DefaultWireGuardPort = 61820

// keyFile is the private key of the device that encrypts, in the state directory.
const keyFile = "wireguard.key"

// CheckStore returns an error unless a store can be used: bolt, embed, or a URL.
func CheckStore(store string) error {
	if store == StoreBolt || store == StoreEmbed {
		return nil
	}
	return open.Check(store)
}

// port returns the port of tunnels, 0 if there are none.
func (c *ClusterConfig) port() uint16 {
	if !c.IsCluster() {
		return 0
	}
	return c.Port
}

// IsCluster reports whether the host is part of a cluster.
func (c *ClusterConfig) IsCluster() bool { return c.Store != "" && c.Store != StoreBolt }

// token returns the join token and its file, zero if there is none. The daemon with the embedded store
// makes one.
func (c *ClusterConfig) token(stateDir string) (t token.Token, file string, err error) {
	switch {
	case c.TokenFile == NoToken, c.TokenFile == "" && c.Store != StoreEmbed:
		return token.Token{}, "", nil
	case c.Store != StoreEmbed:
		t, err = token.Read(c.TokenFile)
		return t, c.TokenFile, err
	}
	file = cmp.Or(c.TokenFile, filepath.Join(stateDir, TokenFile))
	t, err = token.Ensure(file)
	return t, file, err
}

// openKV opens the cluster's store, and starts it if it is the embedded one. under is the host's network.
func (d *daemon) openKV(ctx context.Context, under *underlay.Underlay) (kv.Store, error) {
	cfg := d.cfg.Cluster
	o := cfg.StoreOptions
	o.Log = d.log
	var tokenFile string
	var err error
	if o.Token, tokenFile, err = cfg.token(d.cfg.Dirs.State); err != nil {
		return nil, err
	}
	if cfg.Store != StoreEmbed {
		return open.Open(cfg.Store, o)
	}
	listen := cfg.StoreListen
	if !listen.IsValid() {
		v4, v6, err := under.VTEPs()
		if err != nil {
			return nil, err
		}
		if !v4.IsValid() && !v6.IsValid() {
			return nil, errors.New("this host has no address for the embedded store to listen at (name one with --store-listen)")
		}
		listen = netip.AddrPortFrom(cmp.Or(v4, v6), etcdPort)
	}
	server, err := launch.Start(ctx, launch.Config{Dir: d.cfg.Dirs.State, Listen: listen, TokenFile: tokenFile, Log: d.log})
	if err != nil {
		return nil, fmt.Errorf("--store embed: %w", err)
	}
	d.onClose("embedded store", server.Close)
	return open.Open("etcd://"+server.Endpoint(), o)
}

// copyFile is the copy of what is on other nodes, in the state directory.
const copyFile = "cluster.db"

// openCluster makes the host part of its cluster. It does not wait for the store.
func (d *daemon) openCluster(ctx context.Context) error {
	cfg := d.cfg.Cluster
	if !cfg.IsCluster() {
		return vxlan.New(d.handle, cfg.Port, d.cfg.Dirs.Tunnels()).Ensure(nil) // of a daemon that was
	}
	under := underlay.New(d.handle, cfg.Advertise)
	encryption, err := wireguard.New(wireguard.Config{
		Handle: d.handle, KeyFile: filepath.Join(d.cfg.Dirs.State, keyFile), Port: cfg.WireGuardPort,
		MTU: func() (int, error) {
			mtu, f, err := under.MTU()
			return mtu - model.WireGuardOverhead(f), err
		},
		Attach: d.reconciler.AttachTunnel,
	})
	if err != nil {
		return err
	}
	kvs, err := d.openKV(ctx, under)
	if err != nil {
		return err
	}
	d.onClose("cluster's store", kvs.Close)
	hostname, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find the host's name: %w", err)
	}
	part, err := cluster.Open(ctx, cluster.Config{
		Store: kvs, Local: d.store, State: d.controller, Name: nodes.Name(cfg.Name, hostname), Version: d.cfg.Version, Port: cfg.Port,
		VTEPs: under.VTEPs, MACs: d.uplinkMACs,
		MTU: func(encrypted bool) (int, error) {
			mtu, f, err := under.MTU()
			if encrypted {
				mtu, f = mtu-model.WireGuardOverhead(f), model.V6
			} else if err == nil {
				err = under.CheckTunnels()
			}
			return mtu - peers.Overhead(f), err
		},
		Encryption: encryption,
		Alive:      func(network string) []string { return d.cluster.Peers.Alive(network) },
		Log:        d.log,
	})
	if err != nil {
		return err
	}
	maps := d.datapath.Maps()
	d.cluster = &node.Cluster{Cluster: part, Peers: peers.New(peers.Config{
		Store: kvs, Cache: d.peersCopy, Self: part.Self().ID,
		Tables: peers.Tables{
			Nodes: maps.Nodes, NodeAddrs: maps.NodeAddrs, Flood: maps.TunnelNodes, FDB: maps.PeerFDB, Neighbours: maps.PeerNeighbours,
		},
		Underlay:    paths{under, d},
		Encryption:  encryption,
		Aggregation: vxlan.New(d.handle, cfg.Port, d.cfg.Dirs.Tunnels()),
		Changed:     d.reconciler.RemoteChanged, UnderlayChanged: part.UnderlayChanged,
		Log: d.log,
	}), Encryption: encryption}
	for _, update := range []func(*desired.Snapshot){part.Update, d.cluster.Peers.Update} {
		update(d.state.Snapshot())
		d.state.Subscribe(update)
	}
	d.dns.SetRemote(d.cluster.Peers)
	d.reach = reach.New(reach.Config{Targets: d.probeTargets, Log: d.log})
	d.cluster.Reach = d.reach
	d.querier = querier.New(querier.Config{
		Networks: maps.TunnelNodes.List,
		Heard:    maps.Groups.Here,
		Query:    d.queryGroups,
		Log:      d.log,
	})
	return nil
}

// probeTargets returns the paths to other nodes: for each node and kind of path, the first network that both
// are members of.
func (d *daemon) probeTargets() (list []reach.Target) {
	snapshot := d.state.Snapshot()
	has := map[reach.Target]bool{}
	for _, h := range d.cluster.Peers.Hosts() {
		n := snapshot.Network(h.Network)
		if n == nil {
			continue
		}
		own := n.NodeAddr(model.FamilyOf(h.Addr))
		at := reach.Target{Node: h.Node, Encrypted: n.Encrypted}
		if !own.IsValid() || has[at] {
			continue
		}
		has[at] = true
		at.From, at.To, at.Size = own, h.Addr, n.DeviceMTU()
		list = append(list, at)
	}
	return list
}

// uplinkMACs returns the MACs of the uplinks, separated by commas.
func (d *daemon) uplinkMACs() string {
	var macs []string
	for _, u := range d.datapath.Maps().Uplinks.List() {
		if l, err := d.handle.Link(u.IfIndex); err == nil {
			macs = append(macs, l.MAC.String())
		}
	}
	slices.Sort(macs)
	return strings.Join(slices.Compact(macs), ",")
}

// queryGroups queries the members of a network on this host for multicast groups, by its host port.
func (d *daemon) queryGroups(net uint32) error {
	for _, e := range d.datapath.Maps().Endpoints.List() {
		if e.Net != net || e.Flags&tables.HostPort == 0 {
			continue
		}
		err := frames.QueryGroups(d.handle, e.GatewayIf, model.MAC(e.MAC), model.V4)
		if e.Gateway6.IsValid() {
			err = errors.Join(err, frames.QueryGroups(d.handle, e.GatewayIf, model.MAC(e.MAC), model.V6))
		}
		return err
	}
	return errors.New("the network has no host port")
}

// runCluster runs the host's part in the cluster until ctx ends.
func (d *daemon) runCluster(ctx context.Context) error { return d.cluster.Run(ctx) }

// verbsCluster returns the cluster for the verbs, or nil if there is none.
func (d *daemon) verbsCluster() controller.Cluster {
	if d.cluster == nil {
		return nil
	}
	return d.cluster.Cluster
}

// enginesCluster returns the cluster for the verbs of container engines, or nil if there is none.
func (d *daemon) enginesCluster() engine.Cluster {
	if d.cluster == nil {
		return nil
	}
	return d.cluster.Cluster
}

// openCopy opens the copy of what is on other nodes, and replaces a damaged one: the cluster's store
// has the original.
func (d *daemon) openCopy() error {
	path := filepath.Join(d.cfg.Dirs.State, copyFile)
	s, err := store.OpenBolt(store.BoltConfig{Path: path})
	if errors.Is(err, store.ErrDamaged) {
		d.log.Warn("the copy of the cluster's state is damaged; replacing it", "file", path, "err", err)
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("replace the copy of the cluster's state: %w", err)
		}
		s, err = store.OpenBolt(store.BoltConfig{Path: path})
	}
	if err != nil {
		return fmt.Errorf("--state-dir: %w", err)
	}
	d.peersCopy = s
	d.onClose("copy of the cluster's state", s.Close)
	return nil
}

// remoteBackends returns the backends that a service has on other nodes. When the state is applied for the
// first time, only the copy is there.
func (d *daemon) remoteBackends(svc *model.Service) (list []reconcile.RemoteBackend) {
	var members []model.RemoteMember
	if d.cluster != nil {
		members = d.cluster.Peers.Backends(svc)
	} else {
		members = peers.Copied(d.peersCopy, svc, d.log)
	}
	for i := range members {
		list = append(list, reconcile.RemoteBackend{Member: &members[i].Member, Down: members[i].NodeDown})
	}
	return list
}

// confirm returns a function that confirms to other nodes that the services of networks are without the members
// that are leaving now.
func (d *daemon) confirm(networks map[string]bool) (applied func()) {
	if d.cluster == nil {
		return func() {}
	}
	leaving := map[string][]string{}
	for id := range networks {
		leaving[id] = d.cluster.Peers.Leaving(id)
	}
	return func() {
		for id, members := range leaving {
			d.cluster.Confirm(id, members)
		}
	}
}

// paths adds to the underlay what the datapath knows of its uplinks.
type paths struct {
	*underlay.Underlay
	d *daemon
}

// Path implements [peers.Underlay].
func (p paths) Path(to netip.Addr) (peers.Path, error) {
	hop, err := p.Underlay.Path(to)
	if err != nil {
		return peers.Path{}, err
	}
	path := peers.Path{IfIndex: hop.Device, Source: hop.Source, MTU: hop.MTU}
	for _, uplink := range p.d.datapath.Maps().Uplinks.List() {
		if uplink.IfIndex == hop.Device {
			path.Below = uplink.Below
		}
	}
	return path, nil
}

// countRemote adds the backends on other nodes to the numbers of services.
func (d *daemon) countRemote(services []metrics.Service) {
	if d.cluster == nil {
		return
	}
	snapshot := d.controller.Snapshot()
	for i := range services {
		row := &services[i]
		svc := snapshot.Service(row.ID)
		if svc == nil || svc.Cluster == "" {
			continue
		}
		row.Backends["down"] = 0
		for _, b := range d.cluster.Peers.Backends(svc) {
			state := "active"
			switch {
			case svc.IsDrained(b.ID):
				state = "drained"
			case b.Stopped:
				state = "stopped"
			case b.NodeDown:
				state = "down"
			}
			row.Backends[state]++
		}
	}
}

// clusterStats returns the numbers of the cluster, or nil if there is none.
func (d *daemon) clusterStats() *metrics.Cluster {
	if d.cluster == nil {
		return nil
	}
	nodes := d.cluster.Peers.Nodes()
	c := peers.Count(nodes)
	out := &metrics.Cluster{
		Up: d.cluster.Store().Health().Reachable, Nodes: c.Nodes, Down: c.Down, Members: c.Members, Waiting: d.cluster.Waiting(),
	}
	named := map[string]bool{}
	for _, n := range nodes {
		name := n.Name
		if named[name] { // names need not be unique, and labels must be
			name += " " + model.ShortID(n.ID)
		}
		named[name] = true
		for _, r := range d.reach.Results(n.ID) {
			if state := r.State(time.Now()); state != model.PathUnknown {
				out.Paths = append(out.Paths, metrics.ClusterPath{Node: name, Encrypted: r.Encrypted, Works: state == model.PathWorks, RoundTrip: r.Small.RoundTrip.Seconds()})
			}
		}
	}
	return out
}
