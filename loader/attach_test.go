// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/loader/bpffs"
	"github.com/fairlead-net/fairlead/loader/probe"
)

func (w *world) attach(d *Datapath, ifindex int, h Hook) bool {
	w.tb.Helper()
	changed, err := d.Attach(ifindex, h)
	if err != nil {
		w.tb.Fatalf("Attach: %v", err)
	}
	return changed
}

// onDevice queries the device for the programs and links of a hook.
func (w *world) onDevice(ifindex int, h Hook) (progs, links []uint32) {
	w.tb.Helper()
	res, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: tcxType(h)})
	if err != nil {
		w.tb.Fatal(err)
	}
	for _, p := range res.Programs {
		id, _ := p.LinkID()
		progs, links = append(progs, uint32(p.ID)), append(links, uint32(id))
	}
	return progs, links
}

func tcxType(h Hook) ebpf.AttachType {
	if h == ToUplink {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

// pinName returns the name of the pin that every build gives to an attachment.
func pinName(h Hook, ifindex int) string { return fmt.Sprintf("%s-%d", h, ifindex) }

func TestTCX(t *testing.T) {
	w := newWorld(t)
	a := w.ifindex("a")
	d := w.open()
	if !w.attach(d, a, FromEndpoint) || !w.attach(d, a, ToUplink) {
		t.Error("attached, and nothing changed")
	}
	if w.attach(d, a, FromEndpoint) {
		t.Error("attached twice")
	}
	progs, _ := w.ids(d)
	_, links := w.onDevice(a, FromEndpoint)
	d.Close()

	// A second daemon with the same configuration.
	d = w.open()
	if w.attach(d, a, FromEndpoint) {
		t.Error("what was attached was not adopted")
	}
	got, err := d.Attached()
	if err != nil {
		t.Fatal(err)
	}
	want := []Attachment{
		{IfIndex: a, Hook: FromEndpoint, ProgramID: progs["from_endpoint"], Kind: TCX, Live: true},
		{IfIndex: a, Hook: ToUplink, ProgramID: progs["to_uplink"], Kind: TCX, Live: true},
	}
	slices.SortFunc(got, func(a, b Attachment) int { return strings.Compare(string(a.Hook), string(b.Hook)) })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Attached (-want +got):\n%s", diff)
	}
	d.Close()

	// A daemon with another configuration.
	w.cfg.Timeouts.icmp = time.Minute
	d = w.open()
	if !w.attach(d, a, FromEndpoint) {
		t.Error("the program was not replaced")
	}
	progs, _ = w.ids(d)
	gotProgs, gotLinks := w.onDevice(a, FromEndpoint)
	if !slices.Equal(gotProgs, []uint32{progs["from_endpoint"]}) || !slices.Equal(gotLinks, links) {
		t.Errorf("device has programs %v in links %v; want %d in the previous link, %v",
			gotProgs, gotLinks, progs["from_endpoint"], links)
	}

	for range 2 {
		if err := d.Detach(a, FromEndpoint); err != nil {
			t.Errorf("Detach: %v", err)
		}
	}
	if gotProgs, _ := w.onDevice(a, FromEndpoint); len(gotProgs) != 0 {
		t.Errorf("still attached: %v", gotProgs)
	}
	if got := w.entries(bpffs.LinksDir); !slices.Equal(got, []string{pinName(ToUplink, a)}) {
		t.Errorf("links %v", got)
	}
}

// Two earlier runs left links whose pins were lost. One link is adopted, so that no packet
// bypasses the datapath, and the other is detached.
func TestTCXStrays(t *testing.T) {
	w := newWorld(t)
	a := w.ifindex("a")
	for i := range 2 {
		w.cfg.Timeouts.icmp = time.Duration(i+1) * time.Minute
		d := w.open()
		l, err := link.AttachTCX(link.TCXOptions{Interface: a, Program: d.progs["from_endpoint"], Attach: tcxType(FromEndpoint)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	w.cfg.Timeouts.icmp = 3 * time.Minute
	d := w.open()
	_, before := w.onDevice(a, FromEndpoint)
	if !w.attach(d, a, FromEndpoint) {
		t.Error("attached, and nothing changed")
	}
	progs, _ := w.ids(d)
	gotProgs, gotLinks := w.onDevice(a, FromEndpoint)
	if !slices.Equal(gotProgs, []uint32{progs["from_endpoint"]}) || !slices.Contains(before, gotLinks[0]) {
		t.Errorf("device has programs %v in links %v, which were %v; want %d in one of them",
			gotProgs, gotLinks, before, progs["from_endpoint"])
	}
}

// Attach repairs what others broke.
func TestTCXRepair(t *testing.T) {
	w := newWorld(t)
	a := w.ifindex("a")
	d := w.open()
	pin := filepath.Join(w.cfg.BPFDir, bpffs.LinksDir, pinName(FromEndpoint, a))
	detach := func() {
		l, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := l.Detach(); err != nil {
			t.Fatal(err)
		}
	}
	// An orphan: the link outlives its pin.
	lose := func() {
		l, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		if err := os.Remove(pin); err != nil {
			t.Fatal(err)
		}
	}
	w.attach(d, a, FromEndpoint)
	for name, breakIt := range map[string]func(){"detached": detach, "pin-lost": lose} {
		breakIt()
		if !w.attach(d, a, FromEndpoint) {
			t.Errorf("%s: nothing was repaired", name)
		}
		if w.attach(d, a, FromEndpoint) {
			t.Errorf("%s: repaired twice", name)
		}
		if progs, _ := w.onDevice(a, FromEndpoint); len(progs) != 1 {
			t.Errorf("%s: device has programs %v, want one", name, progs)
		}
	}
}

func TestTCXDeviceGone(t *testing.T) {
	w := newWorld(t)
	a := w.ifindex("a")
	d := w.open()
	w.attach(d, a, FromEndpoint)
	w.ip("link", "del", "dev", "a")
	if _, err := d.Attach(a, FromEndpoint); !errors.Is(err, unix.ENODEV) {
		t.Errorf("Attach to no device: %v, want ENODEV", err)
	}
	got, err := d.Attached()
	if err != nil || len(got) != 1 || got[0].Live {
		t.Errorf("Attached = %+v, %v; want one that is not live", got, err)
	}
	// A new device with the same ifindex: the old link does not count as attached to it.
	w.ip("link", "add", "name", "c", "index", "77", "type", "veth", "peer", "name", "d")
	w.attach(d, 77, FromEndpoint)
	w.ip("link", "del", "dev", "c")
	w.ip("link", "add", "name", "c", "index", "77", "type", "veth", "peer", "name", "d")
	if !w.attach(d, 77, FromEndpoint) {
		t.Error("the link of a device that is gone was adopted")
	}
	if progs, _ := w.onDevice(77, FromEndpoint); len(progs) != 1 {
		t.Errorf("device has programs %v, want one", progs)
	}
	for _, i := range []int{a, 77} {
		if err := d.Detach(i, FromEndpoint); err != nil {
			t.Errorf("Detach: %v", err)
		}
	}
	if got := w.entries(bpffs.LinksDir); len(got) != 0 {
		t.Errorf("links %v", got)
	}
}

// A link to a device with the same ifindex in another network namespace is not adopted.
func TestTCXOtherNamespace(t *testing.T) {
	w := newWorld(t)
	w.ip("link", "add", "name", "c", "index", "77", "type", "veth", "peer", "name", "d")
	d := w.open()
	w.attach(d, 77, FromEndpoint)
	d.Close()

	old, err := os.Open("/proc/thread-self/ns/net") // keeps the first namespace alive
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	w.ip("link", "add", "name", "c", "index", "77", "type", "veth", "peer", "name", "d")
	d = w.open()
	if !w.attach(d, 77, FromEndpoint) {
		t.Error("a link of another network namespace was adopted")
	}
	if progs, _ := w.onDevice(77, FromEndpoint); len(progs) != 1 {
		t.Errorf("device has programs %v, want one", progs)
	}
}

func TestClsact(t *testing.T) {
	w := newWorld(t)
	a := w.ifindex("a")
	w.cfg.ForceClsact = true
	d := w.open()
	progs, _ := w.ids(d)
	from := filterKey{a, false, "fl_from_endpoint"}
	if !w.attach(d, a, FromEndpoint) || w.attach(d, a, FromEndpoint) {
		t.Error("want a change the first time only")
	}
	w.attach(d, a, ToUplink)
	want := map[filterKey]uint32{from: progs["from_endpoint"], {a, true, "fl_to_uplink"}: progs["to_uplink"]}
	if diff := cmp.Diff(want, w.clsact.filters, cmp.AllowUnexported(filterKey{})); diff != "" {
		t.Errorf("filters (-want +got):\n%s", diff)
	}
	got, err := d.Attached()
	if err != nil || len(got) != 2 || got[0].Kind != Clsact || !got[0].Live {
		t.Errorf("Attached = %+v, %v", got, err)
	}
	if err := errors.Join(d.Detach(a, ToUplink), d.Detach(a, ToUplink)); err != nil || w.clsact.qdiscs[a] {
		t.Errorf("Detach: %v; the uplink's qdisc stays: %t", err, w.clsact.qdiscs[a])
	}
	d.Close()

	w.cfg.Timeouts.icmp = time.Minute
	d = w.open()
	if !w.attach(d, a, FromEndpoint) {
		t.Error("the program was not replaced")
	}
	progs, _ = w.ids(d)
	if diff := cmp.Diff(map[filterKey]uint32{from: progs["from_endpoint"]}, w.clsact.filters, cmp.AllowUnexported(filterKey{})); diff != "" {
		t.Errorf("filters (-want +got):\n%s", diff)
	}
	if err := Cleanup(w.cfg.BPFDir, nil); err == nil {
		t.Error("Cleanup without clsact left a filter and said nothing")
	}
	if err := Cleanup(w.cfg.BPFDir, w.clsact); err != nil || len(w.clsact.filters) != 0 {
		t.Errorf("Cleanup: %v, filters %v", err, w.clsact.filters)
	}
}

func TestSwitchKind(t *testing.T) {
	w := newWorld(t)
	a := w.ifindex("a")
	for _, clsact := range []bool{false, true, false} {
		w.cfg.ForceClsact = clsact
		d := w.open()
		if !w.attach(d, a, FromEndpoint) || w.attach(d, a, FromEndpoint) {
			t.Error("want a change the first time only")
		}
		links, _ := w.onDevice(a, FromEndpoint)
		if (len(links) == 0) != clsact || (len(w.clsact.filters) == 1) != clsact {
			t.Errorf("clsact %v: links %v, filters %v", clsact, links, w.clsact.filters)
		}
		d.Close()
	}
}

// AttachFast attaches a filter, for which the kernel does not wait, and Attach replaces it
// with a link. If a link exists, or a filter cannot be attached, AttachFast calls Attach.
func TestAttachAtOnce(t *testing.T) {
	w := newWorld(t)
	a := w.ifindex("a")
	atOnce := func(d *Datapath, change, provisional bool, links, filters int) {
		t.Helper()
		changed, got, err := d.AttachFast(a, FromEndpoint)
		on, _ := w.onDevice(a, FromEndpoint)
		if changed != change || got != provisional || err != nil || len(on) != links || len(w.clsact.filters) != filters {
			t.Errorf("AttachFast = %v, %v, %v; links %v, filters %v; want %v, %v, %d links, %d filters",
				changed, got, err, on, w.clsact.filters, change, provisional, links, filters)
		}
	}
	d := w.open()
	atOnce(d, true, true, 0, 1)
	atOnce(d, false, true, 0, 1)
	if !w.attach(d, a, FromEndpoint) {
		t.Error("the filter was not made a link")
	}
	if !w.clsact.qdiscs[a] {
		t.Error("the qdisc was taken off a device that may be up")
	}
	atOnce(d, false, false, 1, 0)
	if err := d.Detach(a, FromEndpoint); err != nil {
		t.Error(err)
	}
	w.clsact.err = errors.New("no cls_bpf")
	atOnce(d, true, false, 1, 0)
	if got := w.entries(bpffs.FiltersDir); len(got) != 0 {
		t.Errorf("records of filters that do not exist: %v", got)
	}
	if err := d.Detach(a, FromEndpoint); err != nil {
		t.Error(err)
	}
	d.Close()
	d, err := Open(w.cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	atOnce(d, true, false, 1, 0)
}

func TestOpenWithoutAnyKind(t *testing.T) {
	w := newWorld(t)
	w.cfg.ForceClsact = true
	if _, err := Open(w.cfg, nil); err == nil {
		t.Error("opened with no way to attach")
	}
}

func TestCgroup(t *testing.T) {
	w := newWorld(t)
	parent, err := probe.Cgroup()
	if err != nil {
		t.Fatal(err)
	}
	defer parent.Close()
	root, err := os.MkdirTemp(parent.Name(), "fl-loader-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(root) })
	dir, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	w.cfg.CgroupRoot = root
	attach := func(d *Datapath, want int) {
		t.Helper()
		if n, err := d.AttachCgroup(); n != want || err != nil {
			t.Errorf("AttachCgroup = %d, %v; want %d", n, err, want)
		}
	}
	d := w.open()
	attach(d, 10)
	attach(d, 0)
	d.Close()
	d = w.open()
	attach(d, 0)
	if got, err := d.Attached(); len(got) != 0 || err != nil {
		t.Errorf("Attached = %v, %v; want devices only", got, err)
	}
	d.Close()
	w.cfg.Timeouts.icmp = time.Minute
	w.cfg.SNATPorts = PortRange{2000, 3000}
	w.cfg.NetnsCookie = 99 // the only configuration that the sock programs use
	d = w.open()
	attach(d, 10)

	l, err := link.LoadPinnedLink(filepath.Join(w.cfg.BPFDir, bpffs.LinksDir, "cgroup-bind4"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Detach(); err != nil {
		t.Fatal(err)
	}
	attach(d, 1)
	d.Close()

	// Datapaths of this and of another network namespace, each with pins of its own.
	attached := func(want int) {
		t.Helper()
		n := 0
		for _, at := range d.sockets.Types {
			res, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: at})
			if err != nil {
				t.Fatal(err)
			}
			n += len(res.Programs)
		}
		if n != want {
			t.Errorf("%d programs at the cgroup, want %d", n, want)
		}
	}
	beside := func(cookie uint64) {
		t.Helper()
		former, dir := w.cfg.BPFDir, filepath.Join(t.TempDir(), "bpf")
		t.Cleanup(func() {
			if err := errors.Join(Cleanup(dir, w.clsact), Cleanup(former, w.clsact)); err != nil {
				t.Error(err)
			}
		})
		w.cfg.NetnsCookie, w.cfg.BPFDir = cookie, dir
		d = w.open()
		attach(d, 10)
		attach(d, 0)
	}
	attached(10)
	beside(99)
	attached(10)
	if !strings.Contains(w.log.String(), "adopted or detached an orphaned link") {
		t.Error("nothing is logged of the links that were adopted")
	}
	d.Close()
	beside(100)
	attached(20)
}
