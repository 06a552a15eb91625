// SPDX-License-Identifier: Apache-2.0

// Package reconcile makes a Snapshot real: it is the only writer of devices,
// addresses, control-owned tables and attachments. It works by difference
// against what it made before, reads everything back at the start, and repairs
// what others break.
//
// Whatever it does can be interrupted anywhere. A device is marked as
// Fairlead's from its birth, and as finished by its alias; one that is not
// finished, or nobody wants any more, is removed by the next pass.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/loader"
	"github.com/fairlead-net/fairlead/maps"
)

// Datapath attaches programs; *loader.Datapath does.
type Datapath interface {
	// Attach makes sure the hook's program is attached to a device, and reports
	// whether it had to do anything.
	Attach(ifindex int, h loader.Hook) (changed bool, err error)
	// AttachAtOnce is Attach without the time that it takes, and reports whether that
	// is but provisional, until Attach.
	AttachAtOnce(ifindex int, h loader.Hook) (changed, provisional bool, err error)
	// Detach makes sure it is not. No device is success.
	Detach(ifindex int, h loader.Hook) error
	// AttachCgroup makes sure the socket programs are attached, and returns how
	// many were not.
	AttachCgroup() (changed int, err error)
	// Attached lists what is attached, or was until its device went away.
	Attached() ([]loader.Attachment, error)
	// Commit removes what an earlier version left, once all is attached.
	Commit() error
}

// Table is a control-owned table.
type Table[E any] interface {
	PutAll([]E) (written int, err error)
	DeleteAll([]E) (deleted int, err error)
	// Sync makes the entries exactly these, after reading all of them back.
	Sync([]E) (written, deleted int, err error)
	// Verify reads the entries back and restores those that others changed.
	Verify() (restored int, err error)
}

// AddrTable is the table of the host's addresses.
type AddrTable interface {
	Sync([]netip.Addr) (written, deleted int, err error)
}

// FlowTable is the datapath's flows.
type FlowTable interface {
	DeleteWhere(match func(maps.Flow) bool) (removed int, err error)
}

// TrafficTable is the datapath's counters by network.
type TrafficTable interface {
	ResetTraffic(net uint32) error
}

// Tables are the datapath's tables.
type Tables struct {
	Endpoints  Table[maps.Endpoint]
	FDB        Table[maps.FDBEntry]
	Neighbours Table[maps.Neighbour]
	Publishes  Table[maps.Publish]
	Subnets    Table[maps.Subnet]
	Uplinks    Table[maps.Uplink]
	HostAddrs  AddrTable
	HostNets   Table[maps.Subnet]
	Flows      FlowTable
	Traffic    TrafficTable
}

// TablesOf are the tables of a Set.
func TablesOf(s *maps.Set) Tables {
	return Tables{
		Endpoints: s.Endpoints, FDB: s.FDB, Neighbours: s.Neighbours, Publishes: s.Publishes,
		Subnets: s.Subnets, Uplinks: s.Uplinks, HostAddrs: s.HostAddrs, HostNets: s.HostNets,
		Flows: s.Conntrack, Traffic: s.Counters,
	}
}

// Config is what New needs beside the kernel's faces.
type Config struct {
	// NetNSDir is the directory of the namespaces Fairlead owns. What is in it
	// at the start and belongs to no sandbox is removed. Empty: nothing is.
	NetNSDir string
	// Uplinks pins the uplinks by name. None: they are found from addresses and
	// routes.
	Uplinks []string
	// Observe is told how long each operation took, "apply" or "resync", and how
	// it ended. Nil: nobody.
	Observe func(operation string, took time.Duration, err error)
	// Log is told what was repaired and what failed. Nil: nobody.
	Log *slog.Logger
}

// Reconciler keeps the kernel as the last snapshot says. Its methods may be
// called from several goroutines; passes run one after the other.
type Reconciler struct {
	cfg    Config
	dp     Datapath
	tables Tables
	nl     *rtnl.Handle
	log    *slog.Logger

	mu           sync.Mutex
	snap         *model.Snapshot // as applied last; nil before the first Apply
	networks     map[string]*network
	numbers      map[uint32]string // network by the number whose traffic is counted for it
	sandboxes    map[string]*sandbox
	endpoints    map[string]*endpoint
	publishes    map[uint32]*publish
	serving      map[string]map[uint32]*publish // by endpoint
	uplinks      []rtnl.Uplink
	kept         keptUplinks
	hostAddrs    map[netip.Addr]uint32 // of the host's own devices, by which has them, as last seen
	lost         lostAddrs
	linger       time.Duration
	wroteAddrs   []netip.Addr   // what fl_hostaddr holds
	hostNets     []maps.Subnet  // what fl_hostnet holds
	attached     map[place]bool // where programs were attached
	unpromoted   map[place]bool // of the attached: those that Attach is to be called for
	passes       uint64         // so far
	rerun        bool           // a pass left something for the next one
	unsynced     bool           // writing to a table failed
	lastCheckErr string         // of the last check
	warned       bool           // about IPv6 forwarding
	committed    bool
	dropLater    flowFilter       // flows whose removal failed
	cursor       string           // sandbox that was checked last
	netnsWatch   *rtnl.NetNSWatch // nil: there is none now
	clsactTurn   int              // attachment that is checked next

	lastApply time.Time     // when it ended
	promote   chan struct{} // something is provisional

	overlaps map[overlap]bool // that were told

	suspects suspects
	stats    statistics
}

// New returns a Reconciler. It does nothing until the first Apply.
func New(cfg Config, dp Datapath, tables Tables, nl *rtnl.Handle) *Reconciler {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, time.Duration, error) {}
	}
	return &Reconciler{
		cfg: cfg, dp: dp, tables: tables, nl: nl, log: cfg.Log,
		networks:   make(map[string]*network),
		numbers:    make(map[uint32]string),
		sandboxes:  make(map[string]*sandbox),
		endpoints:  make(map[string]*endpoint),
		publishes:  make(map[uint32]*publish),
		serving:    make(map[string]map[uint32]*publish),
		attached:   make(map[place]bool),
		unpromoted: make(map[place]bool),
		promote:    make(chan struct{}, 1),
		stats:      newStatistics(),
		linger:     linger,
	}
}

// Apply makes a snapshot real and returns when it is. The error is about what
// changed against the snapshot before; what was dirty already, or is left
// over, stays with Resync. After an error the kernel may hold half of the
// change: applying another snapshot, for example the one before, cleans up.
//
// The first Apply reads everything back and adopts what is right. It fails
// only if that is impossible; single objects that cannot be restored are
// logged and tried again by Resync.
func (r *Reconciler) Apply(ctx context.Context, s *model.Snapshot) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	start := time.Now()
	var err error
	if r.snap == nil {
		err = r.first(ctx, s)
	} else {
		err = r.change(ctx, s)
	}
	r.done("apply", start, err)
	r.lastApply = time.Now()
	if len(r.unpromoted) > 0 {
		wake(r.promote)
	}
	return err
}

// first takes over what an earlier daemon left.
func (r *Reconciler) first(ctx context.Context, s *model.Snapshot) error {
	p, err := r.newPass(ctx, s)
	if err != nil {
		return err
	}
	p.first = true
	if p.hostState, err = readHost(r.nl); err != nil {
		return err
	}
	attached, err := r.dp.Attached()
	if err != nil {
		return err
	}
	r.snap = s
	if err := p.sweep(); err != nil {
		r.log.Error("leftovers stay", "err", err)
	}
	for id, n := range s.Networks {
		r.numbers[n.Index] = id
	}
	p.diff(nil)
	p.run()
	errs := []error{p.syncTables(), p.checkUplinks(), p.checkCgroup(), p.checkAttachments(attached)}
	if err := errors.Join(errs...); err != nil {
		// The next resync goes on; the daemon can serve meanwhile.
		r.log.Error("the datapath is not complete", "err", err)
		r.stats.fail(err)
	}
	for _, err := range p.errs {
		r.log.Error("not restored", "err", err)
		r.stats.fail(err)
	}
	if len(p.errs) == 0 && errors.Join(errs...) == nil {
		return r.commit()
	}
	return nil
}

// change applies the difference between two snapshots.
func (r *Reconciler) change(ctx context.Context, s *model.Snapshot) error {
	p, err := r.newPass(ctx, s)
	if err != nil {
		return err
	}
	before := r.snap
	r.snap = s
	p.diff(before)
	p.run()
	if p.netsTouched {
		p.fail(p.writeHostAddrs())
	}
	return errors.Join(p.errs...)
}

// commit tells the loader once that everything is attached.
func (r *Reconciler) commit() error {
	if r.committed {
		return nil
	}
	if err := r.dp.Commit(); err != nil {
		return fmt.Errorf("commit the datapath: %w", err)
	}
	r.committed = true
	return nil
}

// done keeps account of an operation.
func (r *Reconciler) done(operation string, start time.Time, err error) {
	took := time.Since(start)
	r.stats.note(operation, took, err)
	r.cfg.Observe(operation, took, err)
}
