// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/loader/bpffs"
	"github.com/fairlead-net/fairlead/loader/probe"
)

// cgroupPrefix is the prefix of the pins of cgroup links.
const cgroupPrefix = "cgroup-"

// cgroup attaches the programs of sockets to a cgroup.
type cgroup struct {
	path  string                 // empty: the root cgroup
	wrong atomic.Pointer[string] // nil: not checked yet
	log   *slog.Logger

	// While AttachSockets runs:
	root    *os.File
	id      uint64
	sockets Sockets
}

// Sockets describes the programs of sockets.
type Sockets struct {
	Types map[Hook]ebpf.AttachType
	// Cookie is the constant of a program, in the map of its constants, by which it serves one network namespace.
	Cookie *ebpf.VariableSpec
}

func newCgroup(cfg Config) (*cgroup, *links) {
	c := &cgroup{path: cfg.CgroupRoot, log: cfg.Log}
	return c, &links{linkType: c, name: Cgroup, dir: filepath.Join(cfg.BPFDir, bpffs.LinksDir), log: cfg.Log}
}

// AttachSockets ensures that the programs of sockets are attached to the cgroup, each with its
// type. It returns how many it attached or replaced.
func (a *Attacher) AttachSockets(sockets Sockets, progs map[string]*ebpf.Program) (changed int, err error) {
	c := a.cgroup
	if err := c.open(sockets); err != nil {
		c.setProblem(err.Error())
		return 0, fmt.Errorf("attach programs of host sockets: %w", err)
	}
	defer c.root.Close()
	for _, h := range slices.Sorted(maps.Keys(sockets.Types)) {
		did, err := a.kinds[Cgroup].attach(point{hook: h}, progs[string(h)])
		if err != nil {
			c.setProblem(err.Error())
			return changed, fmt.Errorf("attach %s to cgroup %q: %w", h, c.root.Name(), err)
		}
		if did {
			changed++
		}
	}
	partly := ""
	if c.path == "" {
		partly = probe.PartialCgroup(c.root)
	}
	if c.setProblem(partly) && partly != "" {
		c.log.Warn("host processes outside the daemon's cgroup cannot reach published ports at 127.0.0.1", "err", partly,
			"remedy", "start the daemon in the host's cgroup namespace, or pass the root with --cgroup-root")
	}
	return changed, nil
}

// CgroupProblem returns the reason that host processes cannot reach published ports at
// 127.0.0.1. It is empty if they can, or if the cgroup has not been opened yet.
func (a *Attacher) CgroupProblem() string { return a.cgroup.problem() }

// open opens the cgroup to attach to.
func (c *cgroup) open(sockets Sockets) (err error) {
	if c.path != "" {
		c.root, err = os.Open(c.path)
	} else {
		c.root, err = probe.Cgroup()
	}
	if err != nil {
		return err
	}
	// The inode number of a cgroup's directory is the cgroup's ID.
	var st unix.Stat_t
	if err := unix.Fstat(int(c.root.Fd()), &st); err != nil {
		c.root.Close()
		return fmt.Errorf("identify cgroup %q: %w", c.root.Name(), err)
	}
	c.id, c.sockets = st.Ino, sockets
	return nil
}

// setProblem records what is wrong with the cgroup, and reports whether that changed.
func (c *cgroup) setProblem(problem string) bool {
	was := c.wrong.Swap(&problem)
	return was == nil || *was != problem
}

func (c *cgroup) problem() string {
	if s := c.wrong.Load(); s != nil {
		return *s
	}
	return ""
}

func (c *cgroup) pinName(at point) string { return cgroupPrefix + string(at.hook) }

func (c *cgroup) parsePin(name string) (point, bool) {
	program, ok := strings.CutPrefix(name, cgroupPrefix)
	return point{hook: Hook(program)}, ok
}

func (c *cgroup) create(at point, prog *ebpf.Program) (link.Link, error) {
	return link.AttachCgroup(link.CgroupOptions{
		Path: fmt.Sprintf("/proc/self/fd/%d", c.root.Fd()), Attach: c.sockets.Types[at.hook], Program: prog,
	})
}

func (c *cgroup) isAt(_ point, info *link.Info) bool {
	cg := info.Cgroup()
	return cg != nil && cg.CgroupId == c.id
}

func (c *cgroup) isAttached(at point, info *link.Info) (bool, error) { return c.isAt(at, info), nil }

// query lists the links of this network namespace alone: the datapaths of others use the same cgroup.
func (c *cgroup) query(at point) (all []placed, err error) {
	err = eachLink(func(id link.ID, info *link.Info) {
		if cg := info.Cgroup(); cg == nil || cg.CgroupId != c.id || ebpf.AttachType(cg.AttachType) != c.sockets.Types[at.hook] {
			return
		}
		if uses(info.Program, at.hook, c.sockets.isCookie) {
			all = append(all, placed{id, info.Program})
		}
	})
	return all, err
}

// beingMade is how long eachLink waits for links that others create at the moment.
const beingMade = 5 * time.Second

// eachLink calls f for every link of the machine. A link that is being created has an ID, but does not open yet (EAGAIN:
// bpf_link_by_id() in kernel/bpf/syscall.c); it opens a moment later.
func eachLink(f func(id link.ID, info *link.Info)) error {
	until := time.Now().Add(beingMade)
	for last := link.ID(0); ; time.Sleep(time.Millisecond) {
		it := &link.Iterator{ID: last}
		for it.Next() {
			last = it.ID
			info, err := it.Link.Info()
			if err != nil {
				it.Close()
				return fmt.Errorf("describe link %d: %w", last, err)
			}
			f(last, info)
		}
		err := it.Err()
		it.Close()
		if !errors.Is(err, unix.EAGAIN) || time.Now().After(until) {
			return err
		}
	}
}

// isCookie reports whether a map has the constants of a program, perhaps of another build, that serves this network namespace.
func (s Sockets) isCookie(m *ebpf.Map) bool {
	value, err := m.LookupBytes(uint32(0))
	at := int(s.Cookie.Offset)
	return m.Type() == ebpf.Array && m.MaxEntries() == 1 && err == nil && len(value) >= at+len(s.Cookie.Value) &&
		bytes.Equal(value[at:at+len(s.Cookie.Value)], s.Cookie.Value)
}
