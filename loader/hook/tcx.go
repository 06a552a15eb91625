// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"errors"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/loader/bpffs"
	"github.com/fairlead-net/fairlead/loader/probe"
)

// tcx.create retries this often, at this interval, while a dying link holds the program's place.
const (
	dyingLinkTries = 25
	dyingLinkWait  = 10 * time.Millisecond
)

// tcx attaches programs with tcx links, since Linux 6.6.
type tcx struct {
	missing string // why it is not available
}

func newTCX(cfg Config) *links {
	t := &tcx{}
	switch {
	case cfg.ForceClsact:
		t.missing = "tcx is disabled"
	case probe.TCX() != nil:
		t.missing = "the kernel has no tcx"
	}
	return &links{linkType: t, name: TCX, dir: filepath.Join(cfg.BPFDir, bpffs.LinksDir), log: cfg.Log}
}

func (t *tcx) problem() string { return t.missing }

func (t *tcx) pinName(at point) string { return at.pinName() }

func (t *tcx) parsePin(name string) (point, bool) { return parsePinName(name) }

func tcxType(h Hook) ebpf.AttachType {
	if h.egress() {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

// create attaches at the head, so that a program that ends the chain cannot bypass
// ours. A link whose last pin was removed holds the program's place until the kernel
// has released it.
func (t *tcx) create(at point, prog *ebpf.Program) (l link.Link, err error) {
	for range dyingLinkTries {
		l, err = link.AttachTCX(link.TCXOptions{
			Interface: at.ifindex, Program: prog, Attach: tcxType(at.hook), Anchor: link.Head(),
		})
		if !errors.Is(err, unix.EEXIST) {
			return l, err
		}
		time.Sleep(dyingLinkWait)
	}
	return nil, err
}

func (t *tcx) isAt(at point, info *link.Info) bool {
	tcx := info.TCX()
	return tcx != nil && int(tcx.Ifindex) == at.ifindex && ebpf.AttachType(tcx.AttachType) == tcxType(at.hook)
}

// isAttached queries the device for the link, because a device in another network
// namespace can have the same ifindex.
func (t *tcx) isAttached(at point, info *link.Info) (bool, error) {
	if !t.isAt(at, info) {
		return false, nil
	}
	all, err := t.query(at)
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	return slices.ContainsFunc(all, func(p placed) bool { return p.link == info.ID }), err
}

func (t *tcx) query(at point) ([]placed, error) {
	res, err := link.QueryPrograms(link.QueryOptions{Target: at.ifindex, Attach: tcxType(at.hook)})
	if err != nil {
		return nil, err
	}
	var all []placed
	for _, p := range res.Programs {
		if id, ok := p.LinkID(); ok {
			all = append(all, placed{id, p.ID})
		}
	}
	return all, nil
}
