// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/test/lab"
)

// flowState is what both ends of a flow would know, the same in both twins.
type flowState struct {
	client, server       uint32 // next sequence numbers
	clientISN, serverISN uint32
}

// seq is the sequence number of a packet of one end whose first one is isn and next one next: a SYN that comes again is the
// same one.
func (st *step) seq(isn, next uint32) uint32 {
	if st.Flags&(syn|rst|fin) == syn {
		next = isn
	}
	return next + uint32(st.Seq)
}

// difference is one packet that came out of one twin only, or differently.
type difference struct {
	seq              *sequence
	step             int
	flowOf           int   // its flow
	outlives         bool  // time moved on after a packet that only one twin forwarded, or whose hop limit ended: its flow is not as old there
	invalid          bool  // the kernel's connection tracking refused something
	fairlead, kernel *seen // one of them may be nil
}

func (d difference) String() string {
	text := func(s *seen) string {
		if s == nil {
			return "nothing"
		}
		return s.text
	}
	invalid := ""
	if d.invalid {
		invalid = " (refused as invalid)"
	}
	return fmt.Sprintf("step %d: Fairlead: %s\n           kernel:   %s%s", d.step, text(d.fairlead), text(d.kernel), invalid)
}

// run tries a sequence in both twins and returns what no rule explains, or the rule or known fault that ended it.
func (f *fuzzer) run(s sequence) (found []difference, ends string) {
	f.Helper()
	states := f.begin(&s)
	f.one, f.outlives = false, false
	for i := range s.Steps {
		found, ends = f.step(&s, i, states)
		if len(found) > 0 || ends != "" {
			return found, ends // what follows would follow from it
		}
	}
	return f.compareStates(&s)
}

// begin has both twins forget what was, and returns what the ends of a sequence's flows know.
func (f *fuzzer) begin(s *sequence) []flowState {
	f.Helper()
	for _, w := range f.twins() {
		w.closeSockets()
	}
	check(f.Lab, f.barrier.wait())
	for _, w := range f.twins() {
		check(f.Lab, w.flush())
		_, _, err := w.collect()
		check(f.Lab, err)
		w.view = newView()
		w.round++
	}
	states := make([]flowState, len(s.Flows))
	for k := range states {
		c, s := uint32(k+1)<<20, uint32(k+1)<<28
		states[k] = flowState{client: c, server: s, clientISN: c, serverISN: s}
	}
	return states
}

// step does one thing in both twins and compares what comes of it.
func (f *fuzzer) step(s *sequence, i int, states []flowState) (found []difference, ends string) {
	f.Helper()
	st := s.Steps[i]
	if st.Kind == "time" {
		f.outlives = f.outlives || f.one
		for _, w := range f.twins() {
			check(f.Lab, w.age(st.Sleep))
		}
		return nil, ""
	}
	for _, w := range f.twins() {
		w.forgetDead(s)
	}
	var does [2]func() error
	for n, w := range f.twins() {
		does[n] = w.does(s, &s.Steps[i], states[st.Flow])
		if does[n] == nil {
			return nil, "" // one of them cannot: nothing can be compared
		}
	}
	st = s.Steps[i] // as spoil left it
	advance(&states[st.Flow], st, s.Flows[st.Flow])
	var out [2][]*seen
	var noted [2]notes
	var invalid bool // in the kernel's twin, which comes last
	for n, w := range f.twins() {
		check(f.Lab, does[n]())
		check(f.Lab, f.barrier.wait())
		var err error
		out[n], invalid, err = w.collect()
		check(f.Lab, err)
		out[n], noted[n] = w.observe(s, st, out[n])
	}
	if (noted[0].server == nil) == (noted[1].server == nil) && (noted[0].client == nil) == (noted[1].client == nil) {
		for n, w := range f.twins() {
			w.note(st.Flow, noted[n]) // what only one of them forwarded is not built upon
		}
	}
	if *showFlag {
		for n, w := range f.twins() {
			for _, o := range out[n] {
				f.Logf("step %d %s: %s", i, w.name, o.text)
			}
		}
	}
	d := difference{seq: s, step: i, flowOf: st.Flow, invalid: invalid, outlives: f.outlives}
	before := f.one
	f.one = false
	found, ends = f.compare(d, out[0], out[1])
	if f.one && d.slept() { // it may have begun another flow, in one of them
		for _, w := range f.twins() {
			delete(w.view.server, st.Flow)
			delete(w.view.client, st.Flow)
		}
	}
	f.one = f.one || before || st.TTL == 1
	return found, ends
}

// forgetDead has the ports of sockets that are closed be anybody's again.
func (w *twin) forgetDead(s *sequence) {
	alive := map[string]bool{}
	for k := range s.Flows {
		if w.sockets[k].alive() {
			alive[s.Flows[k].name()] = true
		}
	}
	for k := range s.Flows {
		if fl := &s.Flows[k]; fl.Client == "host" && !alive[fl.name()] {
			w.view.forget(fl)
		}
	}
}

// advance moves the sequence numbers on if the packet was in order.
func advance(state *flowState, st step, f flow) {
	if f.Proto != unix.IPPROTO_TCP || st.Seq != 0 || (st.Kind != "forward" && st.Kind != "reverse") || st.Flags&rst != 0 || st.Cut > 0 || st.Flip > 0 {
		return
	}
	next, isn := &state.client, state.clientISN
	if st.Kind == "reverse" {
		next, isn = &state.server, state.serverISN
	}
	end := st.seq(isn, *next) + uint32(st.Len)
	if st.Flags&syn != 0 {
		end++
	}
	if st.Flags&fin != 0 {
		end++
	}
	if int32(end-*next) > 0 {
		*next = end
	}
}

// does prepares a step in a twin; nil: it cannot be done there.
func (w *twin) does(s *sequence, st *step, state flowState) func() error {
	fl := &s.Flows[st.Flow]
	switch st.Kind {
	case "connect":
		return func() error { return w.connect(st.Flow, fl) }
	case "close":
		return func() error { w.closeSocket(st.Flow); w.view.said[st.Flow] = ""; return nil }
	case "forward":
		return w.sends(fl.Client, st, w.forward(fl, *st, state))
	case "reverse":
		server := w.view.server[st.Flow]
		if server == nil {
			return nil
		}
		return w.sends(server.node, st, w.reverse(fl, *st, state, server))
	case "error":
		return w.error(fl, st)
	}
	return nil
}

func familyOf(a netip.Addr) lab.Family {
	if a.Is6() {
		return lab.IPv6
	}
	return lab.IPv4
}

// networkOf is the network of a node; "": none.
func networkOf(name string) string {
	if name == "host" {
		return ""
	}
	return nodeOf(name).network
}

// forward is a packet of a flow from its client.
func (w *twin) forward(fl *flow, st step, state flowState) *packet {
	n := nodeOf(fl.Client)
	p := &packet{smac: n.mac, dmac: w.hop[fl.Client], src: n.addr(familyOf(fl.Dst)), dst: fl.Dst, proto: fl.Proto, sport: fl.Sport, dport: fl.Dport}
	if fl.Src.IsValid() {
		p.src = fl.Src
	}
	if fl.DMAC != "" {
		p.dmac = nodeOf(fl.DMAC).mac
	}
	if isICMP(p.proto) {
		p.icmpType, p.dport = byte(fl.Dport), 0
	}
	p.seq, p.ack = st.seq(state.clientISN, state.client), state.server+uint32(st.Ack)
	return p
}

func isICMP(proto byte) bool { return proto == unix.IPPROTO_ICMP || proto == unix.IPPROTO_ICMPV6 }

// reverse answers the last packet that came out of the flow.
func (w *twin) reverse(fl *flow, st step, state flowState, server *seen) *packet {
	asked := server.p
	p := &packet{smac: nodeOf(server.node).mac, dmac: asked.smac, src: asked.dst, dst: asked.src, proto: fl.Proto, sport: asked.dport, dport: asked.sport}
	if isICMP(p.proto) {
		p.icmpType, p.icmpRest = asked.icmpType, asked.icmpRest
		if answer, ok := map[byte]byte{8: 0, 13: 14, 17: 18, 128: 129, 139: 140}[asked.icmpType]; ok {
			p.icmpType = answer
		}
	}
	p.seq, p.ack = st.seq(state.serverISN, state.server), state.client+uint32(st.Ack)
	if w.view.ofSocket(asked) { // the host's own socket chose its own
		p.ack = w.view.base[asked.from()] + 1 + uint32(st.Ack)
	}
	return p
}

// sends prepares the frames of a packet, with all that the step says is odd about it.
func (w *twin) sends(node string, st *step, p *packet) func() error {
	p.flags, p.window, p.ttl, p.tags = st.Flags, st.Window, st.TTL, st.Tags
	// The kernel remembers what it put together, or not, for up to a minute. IPv4 has the lower half only.
	p.id = w.round<<16 | uint32(st.ID+uint16(w.round*0x9e37))
	if w.judge && len(p.tags) == 1 && p.tags[0].VID == 0 { // a priority tag is no tag to a receiver (802.1Q section 6.9.1)
		p.tags = nil
	}
	if p.ttl == 0 {
		p.ttl = 64
	}
	if p.window == 0 {
		p.window = defaultWindow
	}
	if p.flags&ack == 0 {
		p.ack = 0
	}
	p.payload = make([]byte, st.Len)
	for i := range p.payload {
		p.payload[i] = byte(i + st.Flow)
	}
	frames := [][]byte{p.frame(spoil(p.ip(p.layer4()), st))}
	if len(st.Frags) > 0 {
		frames = p.fragments(st.Frags)
	}
	return func() error {
		for _, frame := range frames {
			if err := w.ports[node].send(frame); err != nil {
				return err
			}
		}
		return nil
	}
}

// spoil damages a packet as the step says. Damage beyond the packet's end is deleted from the step,
// so that no rule takes the packet for a damaged one.
func spoil(ip []byte, st *step) []byte {
	if st.Flip >= len(ip) {
		st.Flip = 0
	}
	if st.Cut >= len(ip) {
		st.Cut = 0
	}
	if st.Flip > 0 {
		ip[st.Flip] ^= 0x55
	}
	if st.Cut > 0 {
		ip = ip[:st.Cut]
	}
	return ip
}

const defaultWindow = 8192

const fragmentSize = 64

// fragments are the frames of these parts of a packet.
func (p *packet) fragments(which []int) (frames [][]byte) {
	whole := p.layer4()
	for _, i := range which {
		if i*fragmentSize >= len(whole) {
			continue
		}
		part := *p
		end := min((i+1)*fragmentSize, len(whole))
		part.offset, part.more = i*fragmentSize, end < len(whole)
		frames = append(frames, part.frame(part.ip(whole[i*fragmentSize:end])))
	}
	return frames
}

// error prepares an ICMP error about a packet of the flow: the last one at its server, or the last answer at its client.
func (w *twin) error(fl *flow, st *step) func() error {
	about := w.view.server[st.Flow]
	if st.Back {
		about = w.view.client[st.Flow]
	} else if st.Forged {
		about = &seen{node: fl.Client, p: w.forward(fl, step{}, flowState{})}
	}
	if about == nil {
		return nil
	}
	node := st.Node
	if node == "" {
		node = about.node
	}
	n := nodeOf(node)
	p := &packet{smac: n.mac, dmac: w.hop[node], src: n.addr(familyOf(about.p.src)), dst: about.p.src, ttl: 64, proto: unix.IPPROTO_ICMP, icmpType: st.Type, icmpCode: st.Code}
	if about.p.is6() {
		p.proto, p.icmpType = unix.IPPROTO_ICMPV6, map[byte]byte{3: 1, 11: 3, 12: 4, 4: 2, 5: 2}[st.Type]
	}
	if (st.Type == 3 && st.Code == 4) || p.proto == unix.IPPROTO_ICMPV6 && p.icmpType == 2 {
		p.icmpRest = 1280
	}
	p.payload = about.p.ip(about.p.layer4())
	frame := p.frame(spoil(p.ip(p.layer4()), st))
	return func() error { return w.ports[node].send(frame) }
}

// notes are where a step's flow came out.
type notes struct {
	server, client *seen
}

func (w *twin) note(k int, n notes) {
	if n.server != nil {
		w.view.server[k] = n.server
	}
	if n.client != nil {
		w.view.client[k] = n.client
	}
}

// observe finds where the flow came out, names the ports that were chosen, and writes down what is compared.
func (w *twin) observe(s *sequence, st step, all []*seen) (out []*seen, n notes) {
	k := st.Flow
	fl := &s.Flows[k]
	for _, o := range all {
		if o.p.proto != fl.Proto || o.p.icmpError() || o.p.fragment() {
			continue
		}
		if fl.Client != "host" && w.view.ofSocket(o.p) {
			continue // its timer expired meanwhile
		}
		switch {
		case st.Kind == "forward" && o.p.dport != fl.Sport || st.Kind == "connect":
			if fl.Client == "host" && o.p.flags&(syn|ack) == syn {
				w.view.base[o.p.from()] = o.p.seq
			}
			w.view.name(fl, o.p)
			if st.Cut == 0 && st.Flip == 0 {
				n.server = o
			}
		case st.Kind == "reverse" && o.node == fl.Client && st.Flip == 0:
			n.client = o
		}
	}
	w.texts(all)
	if socket := w.sockets[k]; socket != nil {
		said := socket.said()
		if said != "" && (said != w.view.said[k] || fl.Proto == unix.IPPROTO_UDP) {
			w.view.said[k] = said
			all = append(all, &seen{node: "host", p: &packet{}, text: "host: socket:" + said})
		}
	}
	return all, n
}
