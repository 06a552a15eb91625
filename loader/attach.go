// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/fairlead-net/fairlead/loader/bpffs"
	"github.com/fairlead-net/fairlead/loader/hook"
)

// The names of [hook] that callers of [Datapath.Attach] need.
type (
	Hook       = hook.Hook
	Attachment = hook.Attachment
)

// The hooks of devices, and the kinds of attachment to them.
const (
	FromEndpoint = hook.FromEndpoint
	FromUplink   = hook.FromUplink
	FromTunnel   = hook.FromTunnel
	ToUplink     = hook.ToUplink

	TCX    = hook.TCX
	Clsact = hook.Clsact
)

// Attach ensures that the current version of the hook's program is attached to a
// device. An attachment of this version is adopted; another version is replaced in
// place, so that no packet bypasses the datapath. It reports whether it changed anything. This and the other methods that
// attach and detach may be called concurrently for different devices.
func (d *Datapath) Attach(ifindex int, h Hook) (changed bool, err error) {
	if err := d.beforeAttach(h); err != nil {
		return false, err
	}
	return d.hooks.Attach(ifindex, h, d.progs[string(h)])
}

// AttachFast is Attach without the delay of a tcx link: it may attach provisionally, and Attach
// must be called later ([hook.Attacher.AttachFast]).
func (d *Datapath) AttachFast(ifindex int, h Hook) (changed, provisional bool, err error) {
	if err := d.beforeAttach(h); err != nil {
		return false, false, err
	}
	return d.hooks.AttachFast(ifindex, h, d.progs[string(h)])
}

// Detach ensures that the hook's program is not attached to a device. It succeeds
// if the attachment or the device does not exist.
func (d *Datapath) Detach(ifindex int, h Hook) error { return d.hooks.Detach(ifindex, h) }

// Attached lists the attachments to devices, including those left over from removed devices.
func (d *Datapath) Attached() ([]Attachment, error) { return d.hooks.Attached() }

// Kind returns how programs are attached to devices.
func (d *Datapath) Kind() hook.Kind { return d.hooks.KindOf(FromEndpoint) }

// AttachCgroup ensures that the current versions of the host's socket programs are
// attached to the cgroup. It returns how many it attached or replaced.
func (d *Datapath) AttachCgroup() (changed int, err error) {
	return d.hooks.AttachSockets(d.sockets, d.progs)
}

// CgroupProblem returns the reason that host processes cannot reach published ports at
// 127.0.0.1. It is empty if they can, or if the cgroup has not been opened yet.
func (d *Datapath) CgroupProblem() string { return d.hooks.CgroupProblem() }

// beforeAttach must run before a program is attached to a hook. After tables were replaced,
// programs of the previous version write to the old tables until the last of these programs is
// replaced, and a flow known to one version only would be lost. So programs of this version
// refuse new TCP connections in the meantime, and entries are copied when the programs are
// loaded, before the first one is attached, before the first one that sees the replies of
// masqueraded flows is attached, and at the end ([Datapath.Settle]).
func (d *Datapath) beforeAttach(h Hook) error {
	d.replacing.Lock()
	defer d.replacing.Unlock()
	t := d.tables
	if !t.Replacing() {
		return nil
	}
	if !d.attaching {
		if err := d.set.Conntrack.Hold(); err != nil {
			return err
		}
		d.attaching = true
		if _, _, err := t.Copy(false); err != nil {
			return err
		}
	}
	if h != FromUplink && h != FromTunnel || d.answers {
		return nil
	}
	d.answers = true
	_, _, err := t.Copy(true)
	return err
}

// Settle ends a pass that attached what it could: it copies the entries written to replaced
// tables in the meantime, and allows new TCP connections again.
func (d *Datapath) Settle() error {
	d.replacing.Lock()
	defer d.replacing.Unlock()
	return d.settle()
}

func (d *Datapath) settle() error {
	if err := d.tables.Settle(d.log); err != nil {
		return err
	}
	return d.set.Conntrack.Recount()
}

// Commit ends a replacement after everything has been attached: it copies the entries
// written to replaced tables in the meantime, and removes the pins of other versions.
func (d *Datapath) Commit() error {
	d.replacing.Lock()
	defer d.replacing.Unlock()
	if err := d.settle(); err != nil {
		return err
	}
	d.tables.CloseReplaced()
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return fmt.Errorf("look for old programs: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(d.dir, e.Name())
		if !strings.HasPrefix(e.Name(), bpffs.ProgsPrefix) || path == d.progsDir() {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove old programs: %w", err)
		}
	}
	return removeFormer(d.dir)
}
