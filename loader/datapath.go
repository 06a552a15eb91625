// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/loader/bpffs"
	"github.com/fairlead-net/fairlead/loader/hook"
	"github.com/fairlead-net/fairlead/loader/probe"
	"github.com/fairlead-net/fairlead/loader/tables"
	"github.com/fairlead-net/fairlead/maps"
)

// Datapath holds the programs and tables in the kernel. Its methods are not safe for
// concurrent use, except those of [Datapath.Maps].
type Datapath struct {
	dir   string
	log   *slog.Logger
	hooks *hook.Attacher

	tables  *tables.Tables
	set     *maps.Set
	hash    string
	adopted bool
	progs   map[string]*ebpf.Program
	sockets hook.Sockets

	replacing sync.Mutex // guards what follows, and the replacement of tables
	// attaching is set when programs of this version may write to the maps.
	attaching bool
	// answers is set when the hooks that create masqueraded flows have programs of this version.
	answers bool
}

// Open adopts the datapath pinned in cfg.BPFDir, or creates it. Compatible maps are
// reused with their contents; programs are loaded only if they, their configuration
// or their maps changed. Open does not attach anything, and existing attachments stay
// as they are until [Datapath.Attach]. f is needed if the kernel does not have tcx,
// and may be nil otherwise.
func Open(cfg Config, f hook.Filters) (_ *Datapath, retErr error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	// Kernels since 5.11 charge the memory cgroup and ignore the limit. So raising it
	// may fail, and need not succeed.
	if err := rlimit.RemoveMemlock(); err != nil {
		cfg.Log.Debug("cannot raise the memory lock limit", "err", err)
	}
	d := &Datapath{dir: cfg.BPFDir, log: cfg.Log, hooks: hook.New(hook.Config{
		BPFDir: cfg.BPFDir, CgroupRoot: cfg.CgroupRoot, ForceClsact: cfg.ForceClsact, Filters: f, Log: cfg.Log,
	})}
	if err := d.hooks.Check(); err != nil {
		return nil, err
	}
	if err := bpffs.MakeDirs(d.dir); err != nil {
		return nil, err
	}
	defer func() {
		if retErr != nil {
			d.Close()
		}
	}()
	objs, err := readObjects()
	if err != nil {
		return nil, err
	}
	if err := objs.configure(cfg, probe.TryFlags(objs.tc)); err != nil {
		return nil, err
	}
	if err := d.openPrograms(objs); err != nil {
		return nil, err
	}
	d.sockets = hook.Sockets{Types: make(map[Hook]ebpf.AttachType), Cookie: objs.sock.Variables[bpf.SockVarCfgNetnsCookie]}
	for name, p := range objs.sock.Programs {
		d.sockets.Types[Hook(name)] = p.AttachType
	}
	if d.set, err = maps.New(d.tables.Maps, objs.tc.Types, d.runGC); err != nil {
		return nil, err
	}
	return d, d.set.Conntrack.Recount()
}

// openPrograms opens the maps, adopts or loads the programs, and pins both last.
func (d *Datapath) openPrograms(objs objects) error {
	specs, err := objs.shared()
	if err != nil {
		return err
	}
	if d.tables, err = tables.Open(filepath.Join(d.dir, bpffs.MapsDir), specs, d.log); err != nil {
		return err
	}
	if d.hash, err = objs.hash(d.tables.Maps); err != nil {
		return err
	}
	names := objs.programs()
	if d.progs, err = adoptPrograms(d.progsDir(), names); err != nil {
		return err
	}
	d.adopted = d.progs != nil
	if d.adopted {
		d.log.Info("adopted programs", "hash", d.hash)
		return nil
	}
	if d.progs, err = objs.load(d.tables.Maps); err != nil {
		return err
	}
	if err := d.tables.Pin(); err != nil {
		return err
	}
	if err := pinPrograms(d.progsDir(), d.progs); err != nil {
		return err
	}
	d.log.Info("loaded programs", "hash", d.hash)
	return nil
}

func (d *Datapath) progsDir() string { return filepath.Join(d.dir, bpffs.ProgsPrefix+d.hash) }

// adoptPrograms opens the pinned programs of a directory. It returns nil if any of them
// is missing, which means that pinPrograms was interrupted.
func adoptPrograms(dir string, names map[string]*ebpf.ProgramSpec) (map[string]*ebpf.Program, error) {
	progs := make(map[string]*ebpf.Program)
	for name, spec := range names {
		p, err := ebpf.LoadPinnedProgram(filepath.Join(dir, name), nil)
		if err == nil && p.Type() != spec.Type {
			err = fmt.Errorf("a %s is pinned there: %w", p.Type(), os.ErrNotExist)
			p.Close()
		}
		if err != nil {
			closeAll(progs)
			if errors.Is(err, os.ErrNotExist) {
				return nil, nil
			}
			return nil, fmt.Errorf("open pinned program %s: %w", name, err)
		}
		progs[name] = p
	}
	return progs, nil
}

// pinPrograms recreates the directory of pinned programs.
func pinPrograms(dir string, progs map[string]*ebpf.Program) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove unfinished programs: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make directory for programs: %w", err)
	}
	for name, p := range progs {
		if err := p.Pin(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("pin program %s: %w", name, err)
		}
	}
	return nil
}

// Maps returns the tables.
func (d *Datapath) Maps() *maps.Set { return d.set }

// Adopted reports whether the programs were adopted from an earlier run, not loaded.
func (d *Datapath) Adopted() bool { return d.adopted }

func (d *Datapath) runGC() error {
	ret, err := d.progs[bpf.GCProgGcFlows].Run(&ebpf.RunOptions{})
	if err != nil {
		return fmt.Errorf("run %s: %w", bpf.GCProgGcFlows, err)
	}
	if ret != 0 {
		return fmt.Errorf("run %s: it returned %d", bpf.GCProgGcFlows, int32(ret))
	}
	return nil
}

// Close closes the file descriptors. Pins and attachments stay.
func (d *Datapath) Close() error {
	if d.tables != nil {
		d.tables.Close()
	}
	closeAll(d.progs)
	return nil
}
