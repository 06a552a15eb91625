// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/loader/bpffs"
)

// Config is the configuration of an Attacher.
type Config struct {
	BPFDir string // of the pins
	// CgroupRoot is the cgroup for the hooks of sockets. Empty: the root cgroup.
	CgroupRoot string
	// ForceClsact attaches with clsact filters even if the kernel has tcx.
	ForceClsact bool
	Filters     Filters // nil: clsact is not available
	Log         *slog.Logger
}

// Attacher attaches programs to hooks. Its methods may be called concurrently for different devices, and those for sockets
// one at a time, except for CgroupProblem.
type Attacher struct {
	kinds  map[Kind]kind
	cgroup *cgroup
	log    *slog.Logger
}

// New returns an Attacher. It does not attach anything.
func New(cfg Config) *Attacher {
	root, links := newCgroup(cfg)
	return &Attacher{cgroup: root, log: cfg.Log, kinds: map[Kind]kind{
		TCX:    newTCX(cfg),
		Clsact: newClsact(cfg),
		Cgroup: links,
	}}
}

// Check returns an error if the programs of devices cannot be attached.
func (a *Attacher) Check() error {
	for h, row := range devices {
		if a.KindOf(h) != "" {
			continue
		}
		var problems []string
		for _, k := range row.kinds {
			problems = append(problems, a.kinds[k].problem())
		}
		return fmt.Errorf("attach programs: %s", strings.Join(problems, ", and "))
	}
	return nil
}

// KindOf returns the kind that serves a hook of devices, or "" if none can.
func (a *Attacher) KindOf(h Hook) Kind {
	for _, k := range devices[h].kinds {
		if a.kinds[k].problem() == "" {
			return k
		}
	}
	return ""
}

// Attach ensures that prog is attached to a device. An attachment of the same program is
// adopted; another program is replaced in place, so that no packet bypasses the datapath. It
// reports whether it changed anything.
func (a *Attacher) Attach(ifindex int, h Hook, prog *ebpf.Program) (changed bool, err error) {
	at, use := point{ifindex, h}, a.KindOf(h)
	if changed, err = a.attach(use, at, prog); err != nil {
		return false, err
	}
	// Detach the other kinds only now, so that the device always has a program.
	for _, k := range devices[h].kinds {
		if k == use {
			continue
		}
		other, err := a.detach(k, at)
		changed = changed || other
		if err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// AttachFast attaches prog to a device without the delay of a tcx link:
// the kernel waits for an RCU grace period, some 10 ms, with rtnl held (tcx_entry_sync),
// which blocks all network configuration. AttachFast uses a clsact filter, which costs
// each packet a little more. changed reports whether it changed anything, provisional
// that Attach must be called later to replace the filter with a link. If the device
// already has a link, or a filter cannot be attached, AttachFast is the same as Attach.
func (a *Attacher) AttachFast(ifindex int, h Hook, prog *ebpf.Program) (changed, provisional bool, err error) {
	if at := (point{ifindex, h}); a.isSlow(at) {
		changed, err = a.kinds[Clsact].attach(at, prog)
		if err == nil {
			return changed, true, nil
		}
		a.log.Debug("cannot attach a clsact filter; attaching a tcx link", "hook", string(h), "ifindex", ifindex, "err", err)
	}
	changed, err = a.Attach(ifindex, h, prog)
	return changed, false, err
}

// isSlow reports whether the hook is served by tcx, has no link yet, and can have a filter.
func (a *Attacher) isSlow(at point) bool {
	if a.KindOf(at.hook) != TCX || a.kinds[Clsact].problem() != "" || !slices.Contains(devices[at.hook].kinds, Clsact) {
		return false
	}
	_, err := os.Lstat(a.kinds[TCX].pin(at))
	return errors.Is(err, os.ErrNotExist)
}

// Detach ensures that no program is attached to a hook of a device. It succeeds
// if the attachment or the device does not exist.
func (a *Attacher) Detach(ifindex int, h Hook) error {
	var errs []error
	for _, k := range devices[h].kinds {
		_, err := a.detach(k, point{ifindex, h})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (a *Attacher) attach(k Kind, at point, prog *ebpf.Program) (changed bool, err error) {
	if changed, err = a.kinds[k].attach(at, prog); err != nil {
		return false, fmt.Errorf("attach %s to device %d: %w", at.hook, at.ifindex, err)
	}
	return changed, nil
}

func (a *Attacher) detach(k Kind, at point) (changed bool, err error) {
	if changed, err = a.kinds[k].detach(at); err != nil {
		return false, fmt.Errorf("detach %s from device %d: %w", at.hook, at.ifindex, err)
	}
	return changed, nil
}

// Attached lists the attachments to devices, including those left over from removed devices.
func (a *Attacher) Attached() ([]Attachment, error) {
	var all []Attachment
	for k, impl := range a.kinds {
		if k == Cgroup {
			continue
		}
		some, err := impl.list()
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// Cleanup detaches all programs of a bpffs directory and removes their pins. filters is needed if
// there are clsact filters, and may be nil otherwise.
func Cleanup(dir string, filters Filters) error {
	a := New(Config{BPFDir: dir, Filters: filters, Log: slog.New(slog.DiscardHandler)})
	for _, k := range []Kind{Clsact, TCX, Cgroup} {
		all, err := a.kinds[k].list()
		if err != nil {
			return err
		}
		for _, x := range all {
			if _, err := a.kinds[k].detach(point{x.IfIndex, x.Hook}); err != nil {
				return err
			}
		}
	}
	return errors.Join(
		bpffs.Each(filepath.Join(dir, bpffs.FiltersDir), removeNext),
		bpffs.Each(filepath.Join(dir, bpffs.LinksDir), removeNext),
	)
}

// removeNext removes pins that an interrupted replacement left.
func removeNext(path, name string) error {
	if _, ok := parsePinName(strings.TrimSuffix(name, bpffs.NextSuffix)); ok {
		return bpffs.Remove(path)
	}
	return nil
}
