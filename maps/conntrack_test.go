// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/bpf"
)

// flowSpec is a masqueraded flow from 192.0.2.2:port to 198.51.100.1:80.
type flowSpec struct {
	port             uint16
	created, expires uint32
	onlyReply        bool // the original direction's entry was evicted
}

func (w *world) addFlow(tb testing.TB, confirmed bool, f flowSpec) {
	tb.Helper()
	ip := func(s string) bpf.TCIp { return bpf.IPOf(addr(s)) }
	orig := bpf.TCTuple{Saddr: ip("192.0.2.2"), Daddr: ip("198.51.100.1"), Sport: swap16(f.port), Dport: swap16(80), Proto: 6}
	xlat := orig
	xlat.Saddr, xlat.Sport = ip("203.0.113.1"), swap16(f.port+1000)
	e := bpf.TCCtEntry{
		Xlat: xlat, InIf: 7, Expires: f.expires, Created: f.created, Net: 3, Publish: 9,
		State: uint8(bpf.TCCtStateCT_ESTABLISHED), Flags: uint16(bpf.TCCtFlagCT_F_NAT_SRC),
	}
	r := e
	r.Xlat, r.InIf, r.OutIf = reverse(orig), 0, 7
	r.Flags = uint16(bpf.TCCtFlagCT_F_REPLY | bpf.TCCtFlagCT_F_NAT_DST)
	m := w.m["fl_ct_new"]
	if confirmed {
		m = w.m["fl_ct"]
	}
	if !f.onlyReply {
		must(tb, m.Put(orig, e))
	}
	must(tb, m.Put(reverse(xlat), r))
}

func TestConntrackEach(t *testing.T) {
	w := newWorld(t)
	now := Now()
	w.addFlow(t, true, flowSpec{port: 1, created: now - 5, expires: now + 100})
	w.addFlow(t, false, flowSpec{port: 2, created: now - 5, expires: now + 100})
	var got []Flow
	must(t, w.Conntrack.Each(func(f Flow) bool { got = append(got, f); return true }))
	flow := func(port string, confirmed bool) Flow {
		reply := map[string]string{"1": "1001", "2": "1002"}[port]
		return Flow{
			Orig:  Tuple{netip.MustParseAddrPort("192.0.2.2:" + port), netip.MustParseAddrPort("198.51.100.1:80"), 6},
			Reply: Tuple{netip.MustParseAddrPort("198.51.100.1:80"), netip.MustParseAddrPort("203.0.113.1:" + reply), 6},
			State: "established", Confirmed: confirmed, Publish: 9, Net: 3, InIf: 7, NATSrc: true,
			Age: 5 * time.Second, Expires: 100 * time.Second,
		}
	}
	want := []Flow{flow("1", true), flow("2", false)}
	ignore := cmp.Options{
		equateAddrs, cmpopts.IgnoreFields(Flow{}, "key"),
		cmp.Comparer(func(a, b time.Duration) bool { return (a - b).Abs() <= 2*time.Second }),
	}
	if diff := cmp.Diff(want, got, ignore); diff != "" {
		t.Errorf("flows (-want +got):\n%s", diff)
	}
	n := 0
	must(t, w.Conntrack.Each(func(Flow) bool { n++; return false }))
	if n != 1 {
		t.Errorf("visited %d flows after the first no", n)
	}
	counts, err := w.Conntrack.Counts()
	must(t, err)
	if counts.Confirmed != 2 || counts.Unconfirmed != 2 || counts.States["established"] != 2 || len(counts.States) != int(bpf.TCCtStateCT_STATE_MAX) {
		t.Errorf("Counts = %+v", counts)
	}
}

func TestConntrackExpired(t *testing.T) {
	w := newWorld(t)
	now := Now()
	w.addFlow(t, true, flowSpec{port: 1, expires: now - 1})
	w.addFlow(t, true, flowSpec{port: 2, expires: now + 100})
	w.addFlow(t, false, flowSpec{port: 3, expires: now - 1})
	w.addFlow(t, false, flowSpec{port: 4, expires: now - 1, onlyReply: true})
	keys, err := w.Conntrack.Expired(now)
	if err != nil || len(keys) != 3 {
		t.Fatalf("Expired = %v, %v; want one key for each of three flows", keys, err)
	}
	if n, err := w.Conntrack.Remove(keys, false); n != 3 || err != nil {
		t.Errorf("Remove = %d, %v", n, err)
	}
	if len(w.ran) != 1 || w.ran[0].Count != 3 || w.ran[0].Force != 0 {
		t.Errorf("gc_flows ran %d times: %+v", len(w.ran), w.ran[0].Count)
	}
}

func TestConntrackDeleteWhere(t *testing.T) {
	w := newWorld(t)
	now := Now()
	for port := range uint16(600) {
		w.addFlow(t, true, flowSpec{port: port + 1, created: now, expires: now + 100})
	}
	w.addFlow(t, false, flowSpec{port: 700, created: now, expires: now + 100, onlyReply: true})
	n, err := w.Conntrack.DeleteWhere(func(f Flow) bool {
		return f.InIf == 7 && f.Orig.Src.Addr() == addr("192.0.2.2") && f.Orig.Src.Port() > 100
	})
	if n != 501 || err != nil {
		t.Errorf("DeleteWhere = %d, %v; want 501", n, err)
	}
	total := 0
	for _, b := range w.ran {
		total += int(b.Count)
		if b.Force != 1 || b.Count > 256 || b.Now == 0 {
			t.Errorf("batch: count %d, force %d, now %d", b.Count, b.Force, b.Now)
		}
	}
	if total != 501 || len(w.ran) != 2 {
		t.Errorf("%d keys in %d batches, want 501 in 2", total, len(w.ran))
	}
	if n, err := w.Conntrack.DeleteWhere(func(Flow) bool { return false }); n != 0 || err != nil || len(w.ran) != 2 {
		t.Errorf("DeleteWhere of none = %d, %v", n, err)
	}
}
