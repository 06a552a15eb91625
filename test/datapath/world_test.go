// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
	flmaps "github.com/fairlead-net/fairlead/maps"
)

// world holds the shipped programs, loaded, with filled maps, in a namespace with the devices
// and routes that the maps refer to.
type world struct {
	topology
	ns       *netns
	programs map[string]*ebpf.Program
	tables   map[string]*ebpf.Map
	set      *flmaps.Set
	to       *redirects // nil unless config.noteRedirects
	names    map[uint32]string
}

// config is the load-time configuration, by the name of the C variable, and the sizes of
// maps.
type config struct {
	vars    map[string]any
	entries map[string]uint32
	// noteRedirects makes results include where packets are redirected to, for which the
	// programs are changed slightly.
	noteRedirects bool
}

func newWorld(tb testing.TB, cfg config) *world {
	tb.Helper()
	w := &world{ns: newNetns(tb), programs: make(map[string]*ebpf.Program), tables: make(map[string]*ebpf.Map)}
	w.topology = build(tb, w.ns)
	tc, err := bpf.LoadTC()
	must(tb, err)
	sock, err := bpf.LoadSock()
	must(tb, err)
	gc, err := bpf.LoadGC()
	must(tb, err)
	for name, n := range cfg.entries {
		tc.Maps[name].MaxEntries = n
	}
	if cfg.noteRedirects {
		w.to = noteRedirects(tb, tc)
	}
	w.load(tb, tc, cfg)
	for _, spec := range []*ebpf.CollectionSpec{sock, gc} {
		for name, m := range spec.Maps {
			if t := tc.Maps[name]; t != nil {
				m.MaxEntries = t.MaxEntries
			}
		}
		w.load(tb, spec, config{})
	}
	w.set, err = flmaps.New(w.tables, tc.Types, w.gc)
	must(tb, err)
	w.fill(tb, w.set)
	w.names = make(map[uint32]string)
	for name, d := range w.ns.devices(tb) {
		w.names[d.index] = name
	}
	return w
}

// load adds an object's programs and maps to the world.
func (w *world) load(tb testing.TB, spec *ebpf.CollectionSpec, cfg config) {
	tb.Helper()
	for name, v := range cfg.vars {
		if spec.Variables[name] == nil {
			tb.Fatalf("the object has no variable %s", name)
		}
		must(tb, spec.Variables[name].Set(v))
	}
	shared := make(map[string]*ebpf.Map)
	for name := range spec.Maps {
		if m := w.tables[name]; m != nil {
			shared[name] = m
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if verifier := (*ebpf.VerifierError)(nil); errors.As(err, &verifier) {
		tb.Fatalf("%+v", verifier)
	}
	must(tb, err)
	tb.Cleanup(coll.Close)
	maps.Copy(w.programs, coll.Programs)
	for name, m := range coll.Maps {
		if w.tables[name] == nil && name[0] != '.' {
			w.tables[name] = m
		}
	}
}

func (w *world) gc() error {
	_, err := w.programs["gc_flows"].Run(&ebpf.RunOptions{})
	return err
}

// forget empties the maps that the datapath writes.
func (w *world) forget(tb testing.TB) {
	tb.Helper()
	must(tb, w.tables["fl_ct_used"].Put(uint32(0), uint64(0)))
	w.endDecisions(tb)
	for _, name := range []string{"fl_ct", "fl_ct_new", "fl_frag"} {
		m := w.tables[name]
		var keys [][]byte
		var k, v []byte
		for it := m.Iterate(); it.Next(&k, &v); {
			keys = append(keys, slices.Clone(k))
		}
		for _, k := range keys {
			if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				tb.Fatal(err)
			}
		}
	}
	w.forgetHeld(tb)
}

// forgetHeld empties the slots of fragments that wait for their first, if one was used.
func (w *world) forgetHeld(tb testing.TB) {
	tb.Helper()
	m := w.tables["fl_held"]
	empty := make([]byte, m.ValueSize())
	var summary []byte
	must(tb, m.Lookup(uint32(heldSlots), &summary))
	if slices.Equal(summary, empty) {
		return
	}
	for i := range uint32(heldSlots + 1) {
		must(tb, m.Put(i, empty))
	}
}

// change sets other properties of a member until the test ends.
func (w *world) change(tb testing.TB, name string, f func(*flmaps.Endpoint)) {
	tb.Helper()
	old := w.members[name]
	e := old.Endpoint
	f(&e)
	put := func(e flmaps.Endpoint) {
		_, err := w.set.Endpoints.Put(e)
		must(tb, err)
		_, err = w.set.FDB.Put(flmaps.FDBEntry{Net: e.Net, MAC: e.MAC, IfIndex: e.IfIndex, Flags: e.Flags})
		must(tb, err)
	}
	put(e)
	tb.Cleanup(func() { put(old.Endpoint) })
}

// skBuff is struct __sk_buff of <linux/bpf.h>.
type skBuff struct {
	Len, PktType, Mark, QueueMapping, Protocol uint32
	VlanPresent, VlanTci, VlanProto, Priority  uint32
	IngressIfindex, Ifindex, TcIndex           uint32
	Cb                                         [5]uint32
	Hash, TcClassid, Data, DataEnd, NapiID     uint32
	Family, RemoteIP4, LocalIP4                uint32
	RemoteIP6, LocalIP6                        [4]uint32
	RemotePort, LocalPort, DataMeta            uint32
	FlowKeys, Tstamp                           uint64
	WireLen, GsoSegs                           uint32
	Sk                                         uint64
	GsoSize                                    uint32
	TstampType                                 uint8
	_                                          [3]uint8
	Hwtstamp                                   uint64
}

// The verdicts of tc programs.
const (
	next       = "next" // TC_ACT_UNSPEC
	shot       = "shot"
	redirected = "redirect"
)

func verdictName(v uint32) string {
	switch int32(v) {
	case -1:
		return next
	case 2:
		return shot
	case 7:
		return redirected
	}
	return fmt.Sprintf("verdict %d", int32(v))
}

// result is the result of one run of a program.
type result struct {
	verdict string
	out     []byte
	mark    uint32
	to      []string // redirects
	counts  counts
}

// checksumComplete is BPF_F_TEST_SKB_CHECKSUM_COMPLETE: the packet comes as from a NIC that
// computes the checksum of the whole packet, and the kernel fails the run if the program has
// made that checksum wrong (since 6.16, commit a3cfe84cca28).
const checksumComplete = 1 << 2

// run runs a program on a packet and returns everything it did.
func (w *world) run(tb testing.TB, program string, data []byte, skb skBuff, flags uint32) (result, error) {
	tb.Helper()
	if w.to != nil {
		w.to.take(tb)
	}
	before := w.counts(tb)
	r, err := w.exec(program, data, skb, flags)
	if err != nil {
		return result{}, err
	}
	r.counts = w.counts(tb).since(before)
	if w.to != nil {
		for _, c := range w.to.take(tb) {
			r.to = append(r.to, c.show(w.names))
		}
		slices.Sort(r.to)
	}
	return r, nil
}

// exec runs a program on a packet and returns only the packet: it is quick.
func (w *world) exec(program string, data []byte, skb skBuff, flags uint32) (result, error) {
	opts := runOptions(data, skb, flags)
	var r result
	var err error
	w.ns.do(func() { r, err = w.execHere(program, &opts) })
	return r, err
}

func runOptions(data []byte, skb skBuff, flags uint32) ebpf.RunOptions {
	return ebpf.RunOptions{
		Data: data, DataOut: make([]byte, len(data)+256), Context: &skb, ContextOut: &skBuff{}, Flags: flags,
	}
}

// execHere is like exec on a thread that is in the world's namespace.
func (w *world) execHere(program string, opts *ebpf.RunOptions) (result, error) {
	ret, err := w.programs[program].Run(opts)
	if err != nil {
		return result{}, err
	}
	return result{verdict: verdictName(ret), out: opts.DataOut, mark: opts.ContextOut.(*skBuff).Mark}, nil
}

// counts holds counters by name: "drop icc", "path peer", "event ct_created", and "from 1"
// and "to 1": traffic of network 1.
type counts map[string]flmaps.Counter

func (w *world) counts(tb testing.TB) counts {
	tb.Helper()
	all := make(counts)
	for kind, read := range map[string]func() (map[string]flmaps.Counter, error){
		"drop": w.set.Counters.Drops, "path": w.set.Counters.Paths, "event": w.set.Counters.Events,
	} {
		m, err := read()
		must(tb, err)
		for name, c := range m {
			all[kind+" "+name] = c
		}
	}
	for n := range uint32(len(networks) + 1) {
		from, to, err := w.set.Counters.Traffic(n)
		must(tb, err)
		all[fmt.Sprint("from ", n)], all[fmt.Sprint("to ", n)] = from, to
	}
	return all
}

// since returns what has changed.
func (c counts) since(before counts) counts {
	moved := make(counts)
	for name, n := range c {
		if old := before[name]; n != old {
			moved[name] = flmaps.Counter{Packets: n.Packets - old.Packets, Bytes: n.Bytes - old.Bytes}
		}
	}
	return moved
}
