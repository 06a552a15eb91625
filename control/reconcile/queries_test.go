// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// A check repairs a sandbox immediately, and returns what it cannot repair.
func TestCheck(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	b := p.sandbox("box")
	b.ManagedBy, b.NetNS = model.ByUser, filepath.Join(w.dir, "external")
	e := p.endpoint(b, p.network("net", 7))
	if err := rtnl.CreateNetNS(b.NetNS); err != nil {
		t.Fatal(err)
	}
	defer rtnl.RemoveNetNS(b.NetNS)
	w.apply(p)
	for _, harm := range []func(){
		func() {},
		func() { deleteAddr(w, b, e.IPv4) },
		func() { w.must(w.nl.DeleteLink(w.link(rtnl.EndpointAlias(e.ID)).Index)) },
		func() { w.deletePeer(b) },
	} {
		harm()
		if err := w.r.Check(t.Context(), b.ID); err != nil {
			t.Errorf("check: %v", err)
		}
		if got := w.resync(); got.Total() != 0 {
			t.Errorf("left to repair after a check: %v", got)
		}
	}
	if err := w.r.Check(t.Context(), "nobody"); err == nil {
		t.Error("a check of an unknown sandbox succeeds")
	}
	// Changes by the program in the sandbox are reported, not repaired.
	gateways := []netip.Addr{netip.MustParseAddr("10.7.0.1")}
	compare := func(id, want string) {
		t.Helper()
		if err := w.r.Compare(id, gateways); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("compare: %v, want %q", err, want)
		}
	}
	compare(e.ID, "")
	w.inNetNS(b, func(*rtnl.Handle) error {
		ip(t, "route", "replace", "default", "via", "10.7.0.99", "dev", "eth0")
		return nil
	})
	w.must(w.r.Check(t.Context(), b.ID))
	compare(e.ID, `default via 10.7.0.99 dev eth0`)
	w.inNetNS(b, func(*rtnl.Handle) error {
		ip(t, "route", "del", "default")
		return nil
	})
	w.must(w.r.Check(t.Context(), b.ID))
	compare(e.ID, "")
	compare("nobody", "endpoint nobody does not exist")
	// Another device has the name.
	w.inNetNS(b, func(h *rtnl.Handle) error {
		l, err := h.LinkByName("eth0")
		if err == nil {
			err = h.DeleteLink(l.Index)
		}
		_, made := h.CreateVeth(rtnl.Veth{Name: "eth0", PeerName: "stranger", MTU: 1500})
		return errors.Join(err, made)
	})
	w.wantCheckErr(b, `interface "eth0" already exists in `)
	// The device is deleted, then the namespace's path; the namespace still exists.
	w.deletePeer(b)
	w.must(w.r.Check(t.Context(), b.ID))
	ns, err := rtnl.OpenNetNS(b.NetNS)
	w.must(err)
	defer ns.Close()
	w.must(rtnl.RemoveNetNS(b.NetNS))
	w.wantCheckErr(b, "exists, but not at "+b.NetNS)
	w.restart()
	w.apply(p)
	w.wantCheckErr(b, "exists, but not at "+b.NetNS)
	w.must(ns.Close())
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := w.r.Check(t.Context(), b.ID)
		if errors.Is(err, model.ErrVanished) && strings.Contains(err.Error(), "no longer exists") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("check after the namespace ended: %v, want ErrVanished", err)
		}
	}
}

// wantCheckErr fails the test unless a check returns an error with this text.
func (w *world) wantCheckErr(b *model.Sandbox, text string) {
	w.tb.Helper()
	if err := w.r.Check(w.tb.Context(), b.ID); err == nil || errors.Is(err, model.ErrVanished) || !strings.Contains(err.Error(), text) {
		w.tb.Errorf("check: %v, want %q", err, text)
	}
}

func (w *world) must(err error) {
	w.tb.Helper()
	if err != nil {
		w.tb.Fatal(err)
	}
}

// deletePeer deletes the pair from within the sandbox.
func (w *world) deletePeer(b *model.Sandbox) {
	w.inNetNS(b, func(h *rtnl.Handle) error {
		l, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		return h.DeleteLink(l.Index)
	})
}
