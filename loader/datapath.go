// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps"
)

// Datapath holds the programs and tables in the kernel. Its methods are not safe for
// concurrent use, except those of [Datapath.Maps].
type Datapath struct {
	dir    string
	cfg    Config
	clsact Clsact // nil: not available
	tcx    bool
	log    *slog.Logger

	tables  *tables
	set     *maps.Set
	hash    string
	adopted bool
	progs   map[string]*ebpf.Program
	cgroup  map[string]ebpf.AttachType // attach types of the cgroup programs, by name

	cgroupProblem atomic.Pointer[string] // nil: not checked yet
}

// Open adopts the datapath pinned in cfg.BPFDir, or creates it. Compatible maps are
// reused with their contents; programs are loaded only if they, their configuration
// or their maps changed. Open does not attach anything, and existing attachments stay
// as they are until [Datapath.Attach]. c is needed if the kernel does not have tcx,
// and may be nil otherwise.
func Open(cfg Config, c Clsact) (_ *Datapath, retErr error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	// Kernels since 5.11 charge the memory cgroup and ignore the limit. So raising it
	// may fail, and need not succeed.
	if err := rlimit.RemoveMemlock(); err != nil {
		cfg.Log.Debug("cannot raise the memory lock limit", "err", err)
	}
	if cfg.NetnsCookie == 0 {
		var err error
		if cfg.NetnsCookie, err = netnsCookie(); err != nil {
			return nil, err
		}
	}
	d := &Datapath{dir: cfg.BPFDir, cfg: cfg, clsact: c, log: cfg.Log}
	d.tcx = !cfg.ForceClsact && probeTCX() == nil
	if !d.tcx && c == nil {
		return nil, errors.New("attach programs: the kernel has no tcx, and clsact is not available")
	}
	if err := makeDirs(d.dir); err != nil {
		return nil, err
	}
	defer func() {
		if retErr != nil {
			d.Close()
		}
	}()
	objs, err := newObjects(cfg, probeFlags())
	if err != nil {
		return nil, err
	}
	if err := d.openPrograms(objs); err != nil {
		return nil, err
	}
	d.cgroup = make(map[string]ebpf.AttachType)
	for name, p := range objs.sock.Programs {
		d.cgroup[name] = p.AttachType
	}
	if d.set, err = maps.New(d.tables.maps, objs.tc.Types, d.runGC); err != nil {
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
	if d.tables, err = openTables(filepath.Join(d.dir, mapsDir), specs, d.log); err != nil {
		return err
	}
	if d.hash, err = objs.hash(d.tables.maps); err != nil {
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
	if d.progs, err = objs.load(d.tables.maps); err != nil {
		return err
	}
	if err := d.tables.pin(); err != nil {
		return err
	}
	if err := pinPrograms(d.progsDir(), d.progs); err != nil {
		return err
	}
	d.log.Info("loaded programs", "hash", d.hash)
	return nil
}

func (d *Datapath) progsDir() string { return filepath.Join(d.dir, progsPrefix+d.hash) }

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

// beforeAttach must run before a program is attached to a hook. After tables were replaced,
// programs of the previous version write to the old tables until the last of these programs is
// replaced, and a flow known to one version only would be lost. So programs of this version
// refuse new TCP connections in the meantime, and entries are copied when the programs are
// loaded, before the first one is attached, before the first one that sees the replies of
// masqueraded flows is attached, and at the end ([Datapath.Settle]).
func (d *Datapath) beforeAttach(h Hook) error {
	t := d.tables
	if !t.replaced() {
		return nil
	}
	if !t.attaching {
		if err := d.set.Conntrack.Hold(); err != nil {
			return err
		}
		t.attaching = true
		if _, _, err := t.copy(false); err != nil {
			return err
		}
	}
	if h != FromUplink || t.answers {
		return nil
	}
	t.answers = true
	_, _, err := t.copy(true)
	return err
}

// Settle ends a pass that attached what it could: it copies the entries written to replaced
// tables in the meantime, and allows new TCP connections again.
func (d *Datapath) Settle() error {
	if err := d.tables.settle(d.log); err != nil {
		return err
	}
	return d.set.Conntrack.Recount()
}

// Commit ends a replacement after everything has been attached: it copies the entries
// written to replaced tables in the meantime, and removes the pins of other versions.
func (d *Datapath) Commit() error {
	if err := d.Settle(); err != nil {
		return err
	}
	d.tables.closeReplaced()
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return fmt.Errorf("look for old programs: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(d.dir, e.Name())
		if !strings.HasPrefix(e.Name(), progsPrefix) || path == d.progsDir() {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove old programs: %w", err)
		}
	}
	return nil
}

// Maps returns the tables.
func (d *Datapath) Maps() *maps.Set { return d.set }

// Adopted reports whether the programs were adopted from an earlier run, not loaded.
func (d *Datapath) Adopted() bool { return d.adopted }

// TCX reports whether programs are attached with tcx links, not with clsact filters.
func (d *Datapath) TCX() bool { return d.tcx }

// RemoveFlows removes the expired ones of these flows, or all of them with force. The
// datapath itself removes them. It returns how many it removed.
func (d *Datapath) RemoveFlows(keys []maps.FlowKey, force bool) (removed int, err error) {
	return d.set.Conntrack.Remove(keys, force)
}

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
		d.tables.close()
	}
	closeAll(d.progs)
	return nil
}

// ProgramInfo describes a loaded program.
type ProgramInfo struct {
	Name  string
	ID    uint32
	Tag   string // hash of its instructions
	Insns uint32 // instructions the verifier processed; 0: unknown
}

// Programs describes all programs, sorted by name.
func (d *Datapath) Programs() ([]ProgramInfo, error) {
	var all []ProgramInfo
	for name, p := range d.progs {
		info, err := p.Info()
		if err != nil {
			return nil, fmt.Errorf("describe program %s: %w", name, err)
		}
		id, _ := info.ID()
		insns, _ := info.VerifiedInstructions()
		all = append(all, ProgramInfo{Name: name, ID: uint32(id), Tag: info.Tag, Insns: insns})
	}
	slices.SortFunc(all, func(a, b ProgramInfo) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// MapInfo describes a table in the kernel.
type MapInfo struct {
	Name       string
	ID         uint32
	Type       string
	MaxEntries uint32
	Memory     uint64 // bytes the kernel accounts for it; 0: unknown
}

// MapInfos describes all tables, sorted by name.
func (d *Datapath) MapInfos() ([]MapInfo, error) {
	var all []MapInfo
	for name, m := range d.tables.maps {
		info, err := m.Info()
		if err != nil {
			return nil, fmt.Errorf("describe map %s: %w", name, err)
		}
		id, _ := info.ID()
		memory, _ := info.Memlock()
		all = append(all, MapInfo{
			Name: name, ID: uint32(id), Type: info.Type.String(), MaxEntries: info.MaxEntries, Memory: memory,
		})
	}
	slices.SortFunc(all, func(a, b MapInfo) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// netnsCookie returns the cookie of the calling thread's network namespace.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("identify the network namespace: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("identify the network namespace: %w", err)
	}
	return cookie, nil
}
