// SPDX-License-Identifier: Apache-2.0

// Package daemon assembles the daemon: it opens the datapath, the state and the sockets, runs all
// parts, and closes everything when it is asked to end. Kernel objects stay, since traffic does
// not need the daemon.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/fairlead-net/fairlead/control/announce"
	"github.com/fairlead-net/fairlead/control/api/server"
	"github.com/fairlead-net/fairlead/control/controller"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/dhcp"
	"github.com/fairlead-net/fairlead/control/dhcp/leases"
	"github.com/fairlead-net/fairlead/control/dns"
	"github.com/fairlead-net/fairlead/control/dockerplugin"
	"github.com/fairlead-net/fairlead/control/engine"
	"github.com/fairlead-net/fairlead/control/etcfiles"
	"github.com/fairlead-net/fairlead/control/events"
	"github.com/fairlead-net/fairlead/control/fdstore"
	"github.com/fairlead-net/fairlead/control/gc"
	"github.com/fairlead-net/fairlead/control/host"
	"github.com/fairlead-net/fairlead/control/hostsockets"
	"github.com/fairlead-net/fairlead/control/instance"
	"github.com/fairlead-net/fairlead/control/metrics"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/node"
	"github.com/fairlead-net/fairlead/control/querier"
	"github.com/fairlead-net/fairlead/control/reach"
	"github.com/fairlead-net/fairlead/control/reconcile"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/reconcile/tables"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/tc"
	"github.com/fairlead-net/fairlead/control/store"
	"github.com/fairlead-net/fairlead/loader"
	"github.com/fairlead-net/fairlead/maps"
)

const (
	defaultMemoryLimit = 150 << 20
	// gcPercent is the heap growth between garbage collections. A verb on a crowded host
	// allocates much, of which little stays.
	gcPercent = 50
)

// daemon holds all parts. They are closed in the reverse order.
type daemon struct {
	cfg     Config
	started time.Time
	log     *slog.Logger
	closers []func() error

	store      store.Store
	datapath   *loader.Datapath
	handle     *rtnl.Handle
	reconciler *reconcile.Reconciler
	state      *txn.State
	controller *controller.Controller
	engine     *engine.Engine
	collector  *gc.Collector
	metrics    *metrics.Metrics
	server     *server.Server
	docker     *dockerplugin.Server
	namer      *dockerplugin.Namer // nil if no engine is queried for names
	dns        *dns.Server
	files      *etcfiles.Files
	sockets    *hostsockets.Sockets
	events     *events.Log
	cluster    *node.Cluster    // nil if the host is not part of a cluster
	querier    *querier.Querier // nil likewise
	reach      *reach.Prober    // nil likewise
	announcer  *announce.Announcer
	leases     *leases.Keeper
	peersCopy  store.Store // of what is on other nodes; nil likewise

	apiSocket     net.Listener
	dockerSocket  net.Listener   // nil if Docker is not served
	passed        []net.Listener // systemd's sockets
	stored        *fdstore.Store // what systemd keeps while no daemon runs
	metricsSocket net.Listener   // nil if metrics are not served
}

// Run runs a daemon. It returns when ctx ends, or with the error that ended it. It takes over
// from a daemon that serves the same run directory.
func Run(ctx context.Context, cfg Config) (retErr error) {
	limitMemory(cfg.MemoryLimit)
	d := &daemon{cfg: cfg, started: time.Now(), log: cfg.Log}
	defer func() { retErr = errors.Join(retErr, d.close()) }()
	d.takePassed()
	if err := d.open(ctx); err != nil {
		d.refuseDocker(ctx, err)
		return err
	}
	d.notify(systemd.SdNotifyReady)
	d.log.Info("serving", "socket", d.apiSocket.Addr().String(), "adopted", d.datapath.Adopted(), "took", time.Since(d.started))
	err := d.serve(ctx)
	d.notify(systemd.SdNotifyStopping)
	if err == nil {
		d.log.Info("ending; the datapath stays")
	}
	return err
}

// limitMemory makes the garbage collector run more often near a limit, unless the operator set
// one. The daemon retains far less; the limit is for temporary copies of large tables.
func limitMemory(limit int64) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if limit == 0 {
		limit = defaultMemoryLimit
	}
	debug.SetMemoryLimit(limit)
}

// notify notifies systemd, if it runs the daemon.
func (d *daemon) notify(state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		d.log.Warn("systemd not notified", "state", state, "err", err)
	}
}

// onClose registers a function that is called when the daemon ends.
func (d *daemon) onClose(what string, close func() error) {
	d.closers = append(d.closers, func() error {
		if err := close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("close %s: %w", what, err)
		}
		return nil
	})
}

func (d *daemon) close() error {
	var errs []error
	for _, close := range slices.Backward(d.closers) {
		errs = append(errs, close())
	}
	return errors.Join(errs...)
}

// open opens everything in order of dependency: the lock early, so that nothing is shared with
// another daemon; what the operator may have misconfigured before the kernel's objects; the API
// last, so that its clients are served.
func (d *daemon) open(ctx context.Context) error {
	if err := d.cfg.validate(); err != nil {
		return err
	}
	if err := d.adoptDockerSocket(); err != nil {
		return err
	}
	if err := d.checkDockerSocket(); err != nil {
		return err
	}
	if err := d.makeDirs(); err != nil {
		return err
	}
	if err := d.openLock(ctx); err != nil {
		return err
	}
	if err := d.openStore(); err != nil {
		return err
	}
	if err := d.listenMetrics(); err != nil {
		return err
	}
	if err := d.listenDocker(); err != nil {
		return err
	}
	if err := d.unlockSysctls(); err != nil {
		return err
	}
	if err := d.openDatapath(); err != nil {
		return err
	}
	if err := d.openState(ctx); err != nil {
		return err
	}
	if err := d.openCluster(ctx); err != nil {
		return err
	}
	d.docker = dockerplugin.NewServer(dockerplugin.Config{Controller: node.Engines{Engine: d.engine, Handle: d.handle, Log: d.log}, Log: d.log, Socket: d.cfg.DockerSocket, Scope: d.cfg.DockerScope})
	if d.dockerSocket != nil && d.cfg.DockerSocket != "" {
		d.namer = dockerplugin.NewNamer(d.cfg.DockerSocket, d.engine, d.log)
	}
	return d.openAPI()
}

func (d *daemon) openLock(ctx context.Context) error {
	release, err := instance.Start(ctx, d.cfg.Dirs, d.log)
	if err != nil {
		return err
	}
	d.onClose("lock", release)
	return nil
}

func (d *daemon) openDatapath() error {
	var err error
	if d.handle, err = rtnl.New(); err != nil {
		return err
	}
	d.onClose("rtnetlink", d.handle.Close)
	if err := d.warnUplinks(); err != nil {
		return err
	}
	cookie, err := rtnl.NetNSCookie()
	if err != nil {
		return err
	}
	d.datapath, err = loader.Open(loader.Config{
		NetnsCookie:  cookie,
		BPFDir:       d.cfg.Dirs.BPF,
		CgroupRoot:   d.cfg.CgroupRoot,
		ForceClsact:  d.cfg.ForceClsact,
		SNATPorts:    d.cfg.SNATPorts,
		CacheAfter:   d.cfg.CacheAfter,
		CTMax:        d.cfg.CTMax,
		Timeouts:     d.cfg.CTTimeouts,
		MaxEndpoints: d.cfg.MaxEndpoints,
		MaxPublishes: d.cfg.MaxPublishes,
		MaxPeers:     d.cfg.MaxPeers,
		VXLANPort:    d.cfg.Cluster.port(),
		Log:          d.log,
	}, tc.NewFilters(d.handle))
	if err != nil {
		return err
	}
	d.onClose("datapath", d.datapath.Close)
	return nil
}

// openState loads the desired state, and applies it.
func (d *daemon) openState(ctx context.Context) error {
	d.metrics = metrics.New(metrics.Config{
		Stats:     d.stats,
		Version:   d.cfg.Version,
		Revision:  d.cfg.Revision,
		GoVersion: runtime.Version(),
		Log:       d.log,
	})
	d.events = events.New()
	d.reconciler = reconcile.New(reconcile.Config{
		NetNSDir:    d.cfg.Dirs.NetNS(),
		StationsDir: d.cfg.Dirs.Stations(),
		Uplinks:     d.cfg.Uplinks,
		Observe:     d.metrics.Observe,
		Repaired:    d.events.Repaired,
		Log:         d.log,
	}, d.datapath, tables.Of(d.datapath.Maps()), d.handle)
	d.leases = leases.New(leases.Config{Client: &dhcp.Client{NL: d.handle}, Verbs: setLease{d}, Log: d.log})
	d.dns = dns.New(dns.Config{DialIn: d.dialIn, ListenIn: d.listenIn, Sockets: d.stored, Log: d.log})
	var err error
	d.state, err = txn.New(txn.Config{
		Store:        d.store,
		Realizer:     d.leases.Before(kernel{d.reconciler}),
		Host:         host.New(d.handle, func() []netip.AddrPort { return dns.Places(d.state.Snapshot()) }),
		DefaultPools: d.cfg.DefaultPools,
		Log:          d.log,
	})
	if err != nil {
		return err
	}
	d.announcer = announce.New(d.handle, d.log)
	d.announcer.Update(d.state.Snapshot())
	d.state.Subscribe(d.announcer.Update)
	d.state.Subscribe(d.leases.Update)
	d.files = etcfiles.New(etcfiles.Config{Dir: d.cfg.Dirs.EtcFiles(), Log: d.log, Repaired: func(n int) { d.reconciler.NoteRepaired(report.File, n) }})
	d.state.Subscribe(d.files.Update)
	d.sockets = hostsockets.New(hostsockets.Config{Redirects: d.datapath.Maps().Redirects, Log: d.log})
	d.state.Subscribe(d.sockets.Update)
	d.state.Subscribe(server.NewLogs(d.cfg.Dirs.Run, d.log).Update)
	d.state.Subscribe(d.events.Update)
	d.state.Subscribe(d.dns.Update) // so that names are served when a verb returns
	if d.controller, err = controller.New(d.state, controller.Config{Namespaces: d.reconciler, Alive: host.ProcessAlive, RunDir: d.cfg.Dirs.Run, Cluster: d.verbsCluster, Defaults: d.cfg.Defaults}); err != nil {
		return err
	}
	if d.engine, err = engine.New(d.state, engine.Config{Inner: d.reconciler, Cluster: d.enginesCluster, Networks: d.controller}); err != nil {
		return err
	}
	if d.cfg.Cluster.IsCluster() {
		if err := d.openCopy(); err != nil {
			return err
		}
		d.reconciler.SetRemote(d.remoteBackends, d.confirm)
	}
	d.collector = gc.New(gc.Config{Flows: d.datapath.Maps().Conntrack, Refused: d.refusedFlows, Log: d.log})
	if err := d.explainDamage(d.controller.Start(ctx)); err != nil {
		return err
	}
	d.stored.Discard()
	return nil
}

// dialIn connects from the network namespace of a sandbox.
func (d *daemon) dialIn(ctx context.Context, netns, network, address string) (c net.Conn, err error) {
	ns, err := d.handle.OpenSandboxNetNS(netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = ns.Do(func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// listenIn listens in the network namespace of a sandbox.
func (d *daemon) listenIn(lc net.ListenConfig, netns string, at netip.AddrPort) (packets net.PacketConn, streams net.Listener, err error) {
	ns, err := d.handle.OpenSandboxNetNS(netns)
	if err != nil {
		return nil, nil, err
	}
	defer ns.Close()
	err = ns.Do(func() error {
		if packets, err = lc.ListenPacket(context.Background(), "udp", at.String()); err != nil {
			return err
		}
		if streams, err = lc.Listen(context.Background(), "tcp", at.String()); err != nil {
			return errors.Join(err, packets.Close())
		}
		return nil
	})
	return packets, streams, err
}

// setLease is the verb by which leases get to the desired state.
type setLease struct{ d *daemon }

// SetLease implements [leases.Verbs].
func (v setLease) SetLease(ctx context.Context, endpointID string, addr netip.Prefix, lease *model.Lease) error {
	return v.d.controller.SetLease(ctx, endpointID, addr, lease)
}

// refusedFlows returns how many packets were dropped because the flow table was full.
func (d *daemon) refusedFlows() (uint64, error) {
	drops, err := d.datapath.Maps().Counters.Drops()
	return drops["ct_full"].Packets, err
}

// kernel is the reconciler, with errors that name the daemon's flags.
type kernel struct{ *reconcile.Reconciler }

// Accept implements [txn.Realizer].
func (k kernel) Accept(ctx context.Context, s *desired.Snapshot) func() error {
	apply := k.Reconciler.Accept(ctx, s)
	return func() error { return explainFull(apply()) }
}

// sizeFlags are the flags that set the sizes of tables.
var sizeFlags = map[string][]string{
	"--max-endpoints": {"fl_endpoint", "fl_fdb", "fl_neigh", "fl_resolver"},
	"--max-publishes": {"fl_service", "fl_backend"},
	"--max-peers":     {"fl_peer_fdb", "fl_peer_neigh"},
}

// explainFull adds the flag that enlarges a full table, if that is the error.
func explainFull(err error) error {
	full := (*maps.FullError)(nil)
	if !errors.As(err, &full) {
		return err
	}
	for flag, tables := range sizeFlags {
		if slices.Contains(tables, full.Table) {
			return &model.Refusal{Kind: model.ErrExhausted, Text: fmt.Sprintf(
				"%v (restart the daemon with a larger %s)", err, flag)}
		}
	}
	return err
}

// openAPI opens the API socket.
func (d *daemon) openAPI() error {
	l, err := d.cfg.Dirs.ListenAPI()
	if err != nil {
		return err
	}
	d.apiSocket = l
	d.onClose("API socket", l.Close)
	d.server = server.New(server.Config{
		Backend: node.New(node.Config{
			Controller: d.controller, Engine: d.engine, Handle: d.handle, Datapath: d.datapath, Reconciler: d.reconciler,
			DNS: d.dns, Namer: d.namer, Cluster: d.cluster, Announcer: d.announcer, Leases: d.leases, EventLog: d.events, Log: d.log,
			Dirs: d.cfg.Dirs, Uplinks: d.cfg.Uplinks, Version: d.cfg.Version, Started: d.started,
		}),
		Log:     d.log,
		Version: node.Version(d.cfg.Version, d.cfg.Revision),
		RunDir:  d.cfg.Dirs.Run,
		Alive:   host.ProcessAlive,
	})
	return nil
}
