// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// rule explains a difference that is right. docs/fuzzing.md has its row.
type rule struct {
	name     string
	explains func(d difference) bool
}

var rules = []rule{
	{"bridged", bridged},
	{"invalid passes", invalidPasses},
	{"middle of a published flow", middleOfPublished},
	{"incomplete fragments", incompleteFragments},
	{"strangers' errors", strangersErrors},
	{"bad checksum", badChecksum},
	{"not judged on a bridge", notJudged},
	{"invalid on a bridge", invalidBridged},
	{"inner sources", innerSources},
	{"unasked replies", unaskedReplies},
	{"hop limit on a bridge", hopLimitBridged},
	{"hop limit told", hopLimitTold},
	{"closed flow", closedFlow},
	{"timers of the host", hostTimers},
	{"privileged at the gateway", privilegedAtGateway},
	{"error to the host", errorToHost},
	{"hop limit of odd ICMP", hopLimitOddICMP},
	{"length believed", lengthBelieved},
	{"refused first", refusedFirst},
	{"router's address", routersAddress},
	{"flags that nobody sends", oddFlags},
	{"SYN again", synAgain},
	{"exact segments", exactSegments},
	{"exact end", exactEnd},
	{"unseen data", unseenData},
	{"late middle", lateMiddle},
	{"revived flow", revivedFlow},
}

// parting are rules after which the twins' flows are not the same: what follows is not compared.
var parting = []rule{
	{"one port of the host twice", hostPortTwice},
	{"port of a closed socket", portOfClosed},
	{"tags", tags},
	{"server opens", serverOpens},
	{"kernel reuses a port", kernelReuses},
	{"closed socket answers", closedSocketAnswers},
	{"ids of another NAT", idsOfAnotherNAT},
	{"requests without an id", withoutID},
	{"socket outlives flow", socketOutlives},
	{"socket keeps its port", socketKeepsPort},
	{"late answer", lateAnswer},
	{"late answer to a published port", lateToOwnPort},
	{"late answer on a bridge", lateOnBridge},
	{"late answer that begins", lateBegins},
	{"late error", lateError},
	{"late unconfirmed", lateUnconfirmed},
	{"FIN again", finAgain},
	{"sign of life", signOfLife},
}

// known are faults that are not fixed, by their row in docs/fuzzing.md. Each has a sequence in testdata, which fails when it
// shows the fault no more: then the row goes, and the sequence must find nothing from then on.
var known []rule

// memberNetwork is the network of the sandbox with an address; "": no sandbox has it.
func memberNetwork(a netip.Addr) string {
	for _, n := range nodes {
		if n.addr4 == a || n.addr6 == a {
			return n.network
		}
	}
	return ""
}

// A receiver finds a wrong checksum or length by itself. Fairlead adjusts a checksum to what it translates, leaves it wrong, and
// the flow follows the packet. A router's stack and connection tracking verify both.
func badChecksum(d difference) bool {
	damaged := func(st step) bool { return st.Flip > 0 || st.Cut > 0 }
	if d.is("state") {
		return d.had(damaged)
	}
	if d.kernel != nil {
		return d.movedBy(damaged)
	}
	if d.fairlead == nil {
		return false
	}
	for _, bad := range d.fairlead.p.bad {
		if strings.HasSuffix(bad, "checksum") || bad == "length" {
			return true
		}
	}
	return false
}

// What is sent to a member's MAC is not judged beyond its source. The kernel has its bridged packets pass the host's
// rules, and loses those that it cannot parse.
func notJudged(d difference) bool {
	f := d.flow()
	return f.DMAC != "" && d.kernel == nil && (d.fairlead.node == f.DMAC || d.fairlead.node == f.Client) && networkOf(f.Client) == networkOf(f.DMAC) &&
		(d.st().Flip > 0 || d.st().Cut > 0) && len(d.st().Tags) == 0 && !d.flow().Src.IsValid()
}

// Between members of one network the kernel's bridge forwards what connection tracking finds invalid untranslated.
func invalidBridged(d difference) bool {
	return d.kernel != nil && d.invalid && networkOf(d.flow().Client) != "" && networkOf(d.flow().Client) == networkOf(d.kernel.node)
}

func (d *difference) flow() *flow { return &d.seq.Flows[d.flowOf] }

// is says whether both came out of a node.
func (d *difference) is(node string) bool {
	return d.fairlead != nil && d.kernel != nil && d.fairlead.node == node
}

func (d *difference) st() *step { return &d.seq.Steps[d.step] }

// The kernel's bridge translates between members of one network without routing: it leaves the hop limit and the
// source MAC as they are. Fairlead routes.
func bridged(d difference) bool {
	return d.fairlead != nil && d.kernel != nil && d.fairlead.rest == d.kernel.rest &&
		networkOf(d.flow().Client) != "" && networkOf(d.flow().Client) == networkOf(d.fairlead.node) &&
		d.fairlead.p.ttl+1 == d.kernel.p.ttl
}

// Connection tracking refuses TCP segments out of their window, or that begin nothing. Fairlead leaves the judgement to the
// receiver, whose they are; its own state does not follow them.
func invalidPasses(d difference) bool {
	return d.fairlead != nil && d.kernel == nil && d.invalid && d.flow().Proto == unix.IPPROTO_TCP &&
		(d.st().Kind == "forward" || d.st().Kind == "reverse")
}

// A published port is reached by SYN only. Other segments of no flow are for the host's stack, which resets them; the
// kernel's connection tracking takes them for a flow that is older than its memory.
// That has the client's port at the backend then.
func middleOfPublished(d difference) bool {
	f := d.flow()
	if _, ok := published[f.Dport]; !ok || f.Proto != unix.IPPROTO_TCP || d.st().Kind != "forward" || d.is("state") {
		return false
	}
	begins := func(st step) bool { return st.Kind == "forward" && st.Flags&(syn|ack|rst) == syn }
	begun := slices.ContainsFunc(d.seq.Steps[:d.step], func(st step) bool {
		return begins(st) && st.whole() && d.seq.Flows[st.Flow].name() == f.name() && !innerSource(f)
	})
	return !begins(*d.st()) && (!begun || d.slept()) || d.movedBy(func(st step) bool { return st.Kind == "forward" && !begins(st) })
}

// whole says whether a step's packet arrives as it was meant.
func (st *step) whole() bool {
	return st.Flip == 0 && st.Cut == 0 && st.TTL != 1 && len(st.Tags) == 0 && (len(st.Frags) == 0 || st.allFragments())
}

// movedBy says whether only one twin chose another port, at the backend or on the wire, where such a step was before in a flow with
// the same port.
func (d *difference) movedBy(such func(step) bool) bool {
	f := d.flow()
	if d.fairlead == nil || d.kernel == nil || d.fairlead.node != d.kernel.node || portName.FindString(d.fairlead.text) == portName.FindString(d.kernel.text) {
		return false
	}
	same := func(o flow) bool {
		if d.is(backend(f)) {
			return o.Client == f.Client && backend(&o) == backend(f)
		}
		return networkOf(o.Client) != "" && networkOf(f.Client) != "" && o.Proto == f.Proto && o.Dst == f.Dst && o.Dport == f.Dport
	}
	return slices.ContainsFunc(d.seq.Steps[:d.step], func(st step) bool {
		other := d.seq.Flows[st.Flow]
		return such(st) && other.Sport == f.Sport && same(other)
	})
}

// The kernel keeps fragments until all are there, and refuses them as a whole. Fairlead forwards each, and no other flow has
// their port then.
func incompleteFragments(d difference) bool {
	st := d.st()
	if len(st.Frags) > 0 && (!st.allFragments() || d.invalid) && d.kernel == nil && d.fairlead.p.fragment() {
		return true
	}
	if len(st.Frags) > 0 && d.kernel == nil && d.leftover() {
		return true
	}
	return d.movedBy(func(st step) bool { return st.Kind == "forward" && len(st.Frags) > 0 && !st.allFragments() })
}

// leftover says whether the kernel may still keep a fragment with the id of this step's: one of a datagram that was
// incomplete, or that came once more after all had arrived. What overlaps with it is refused (RFC 5722).
func (d *difference) leftover() bool {
	st := d.st()
	return d.had(func(e step) bool {
		return e.Kind == st.Kind && e.ID == st.ID && len(e.Frags) > 0 && (!e.allFragments() || len(e.Frags) > e.Len/fragmentSize+1)
	})
}

func (st *step) allFragments() bool {
	sent := map[int]bool{}
	for _, i := range st.Frags {
		sent[i] = true
	}
	return len(sent) == st.Len/fragmentSize+1
}

// netfilter takes an ICMP error about a flow from anybody. Fairlead wants it from where the flow goes.
func strangersErrors(d difference) bool {
	return d.fairlead == nil && d.st().Kind == "error" && d.st().Node != ""
}

// A packet from outside whose source is the host's or a sandbox's is not from outside. The kernel would look by rp_filter,
// which is off here and on most hosts is.
func innerSources(d difference) bool {
	return d.fairlead == nil && innerSource(d.flow())
}

// innerSource says whether a flow from outside has a source of the inside.
func innerSource(f *flow) bool {
	return networkOf(f.Client) == "" && f.Src.IsValid() && !internetAddr(f.Src)
}

// backend is the sandbox that a flow to a published port is redirected to; "host": none.
func backend(f *flow) string {
	if to, ok := published[f.Dport]; ok {
		return to.name
	}
	return "host"
}

func internetAddr(a netip.Addr) bool { return a == internet[familyOf(a)] }

// An answer to an ICMP request that was none leaves a sandbox like anything else. Connection tracking finds it invalid.
func unaskedReplies(d difference) bool {
	return d.invalid && d.kernel == nil && isICMP(d.flow().Proto) && slices.Contains([]uint16{0, 14, 18, 200, 129, 140}, d.flow().Dport) &&
		networkOf(d.fairlead.node) == ""
}

// Between members of one network the kernel's bridge translates, and does not look at the hop limit, or loses the packet.
func hopLimitBridged(d difference) bool {
	return d.st().TTL == 1 && networkOf(d.flow().Client) != "" && networkOf(d.flow().Client) == networkOf(backend(d.flow()))
}

// Both tell a sender that its hop limit was exceeded. Fairlead does so with the gateway's address and embeds less.
func hopLimitTold(d difference) bool {
	return d.st().TTL == 1 && d.fairlead != nil && d.kernel != nil && d.fairlead.p.icmpError() && d.kernel.p.icmpError() &&
		d.fairlead.p.icmpType == d.kernel.p.icmpType && d.fairlead.p.dst == d.kernel.p.dst &&
		gist(d.fairlead) == gist(d.kernel)
}

// A RST with the next sequence number ends a connection, as at the receiver, whatever it acknowledges. In the handshake a RST
// that acknowledges exactly the SYN ends it too (RFC 9293 section 3.10.7.3), and the server's FIN may arrive before the client's
// ACK. Of a flow that was picked up in its middle only one side's numbers may be known: a RST that follows what that side sent last is
// exact. So is one with the number that the other side acknowledged last, though more was sent. The kernel requires all of these to be in the window that it has seen, and takes later packets for a new connection. It
// ignores the numbers of a second SYN-ACK, if they are others; Fairlead takes the later ones, and the client may acknowledge them.
func exactEnd(d difference) bool {
	if !d.is("state") || d.fairlead.text != string(closing) {
		return false
	}
	answered := d.had(func(st step) bool { return st.Kind == "reverse" && st.Flags&(syn|ack|rst) == syn|ack })
	shaking := d.kernel.text == string(opening) || !answered
	other := d.had(func(st step) bool { return st.Kind == "reverse" && st.Flags&(syn|ack|rst) == syn|ack && st.Seq != 0 })
	last := map[string]int32{}
	by, unanswered := "", int32(0) // the side that sent last, and how much since the other side's last segment
	return d.had(func(st step) bool {
		seq, ok := last[st.Kind]
		follows := ok && st.Seq == seq && d.slept()
		last[st.Kind] = st.Seq
		if st.Kind != by {
			by, unanswered = st.Kind, 0
		}
		acknowledged := st.Seq == -unanswered
		if st.Seq == 0 {
			unanswered += int32(st.Len)
		}
		exact := st.Seq == 0 || follows || acknowledged || shaking && st.Kind == "reverse" && st.Flags&ack != 0 && st.Ack == 0
		early := st.Kind == "reverse" && st.Seq >= 0 && st.Seq < defaultWindow
		return st.Flags&rst != 0 && exact || st.Flags&fin != 0 && (early || other && st.Seq == 0)
	})
}

// A segment that neither forwards whole (fragments that are incomplete, tags behind a tag, a hop limit that ends) may have been
// received on another way: its receiver acknowledges it, and Fairlead believes that. So the FIN behind it is exact. To the kernel the
// acknowledgement is beyond what was sent, and so is the FIN. The same is true of data that only Fairlead forwards, since it acknowledges more
// than was sent (invalid passes).
func unseenData(d difference) bool {
	return d.is("state") && d.fairlead.text == string(closing) && d.kernel.text == string(open) && d.had(func(st step) bool {
		return st.Len > 0 && (len(st.Frags) > 0 && !st.allFragments() || len(st.Tags) > 1 || st.TTL == 1 || st.Ack > 0)
	})
}

// What follows a RST shows that its receiver did not believe it (RFC 5961): Fairlead's flow lives on. The kernel's is closed.
func revivedFlow(d difference) bool {
	return d.is("state") && d.fairlead.text == string(open) && d.kernel.text == string(closing) &&
		d.had(func(st step) bool { return st.Flags&rst != 0 })
}

// gist is what an ICMP error says without its source and how much it embeds.
func gist(s *seen) string {
	_, text, _ := strings.Cut(s.rest, " type ")
	text, _, _ = strings.Cut(text, " payload")
	return text
}

// A RST that ends a flow that was not assured has the kernel forget it at once. Fairlead remembers it for the timeout of state
// close, so that what is under way yet is still translated, and no other flow has its port.
func closedFlow(d difference) bool {
	ended := func(st step) bool { return st.Flags&rst != 0 }
	return !d.is("state") && (d.had(ended) || d.movedBy(ended))
}

// slept says whether time moved on before.
func (d *difference) slept() bool {
	return slices.ContainsFunc(d.seq.Steps[:d.step], func(st step) bool { return st.Kind == "time" })
}

// A socket of the host's is redirected to the backend when it connects, and stays there: its port gets what the backend sends there.
// netfilter forgets its flow.
func socketOutlives(d difference) bool {
	return d.slept() && slices.ContainsFunc(d.seq.Flows, func(f flow) bool {
		_, ok := published[f.Dport]
		own := f.name() == d.flow().name() || d.fairlead == nil && d.st().Kind == "reverse" && f.Sport == d.flow().Sport
		return ok && own && f.Client == "host" && f.Proto == d.flow().Proto && backend(&f) == backend(d.flow())
	})
}

// A socket of the host keeps its port for as long as it lives, which Fairlead knows from the kernel's table of sockets. netfilter forgets
// its flow, and lets another have the same tuple. So it is the socket that has another port there when it connects again, and
// what it sends of a connection that had another port, because a flow before had its own, is not translated any more.
func socketKeepsPort(d difference) bool {
	f := d.flow()
	if !d.slept() || d.fairlead == nil || d.kernel == nil || d.fairlead.node != d.kernel.node {
		return false
	}
	forgotten := portName.MatchString(d.fairlead.text) && !portName.MatchString(d.kernel.text)
	moved := forgotten
	if f.Client == "host" {
		moved = d.fairlead.p.sport == f.Sport && d.kernel.p.sport != f.Sport
	}
	return slices.ContainsFunc(d.seq.Flows, func(g flow) bool {
		if g.Proto != f.Proto || g.Sport != f.Sport {
			return false
		}
		if g.Client == "host" && f.Client == "host" {
			return forgotten && g.Dst != f.Dst
		}
		return moved && (g.Client == "host") != (f.Client == "host") && g.Dst == f.Dst && g.Dport == f.Dport
	})
}

// An answer to a flow that is forgotten goes to the port that the flow had when it came out, which each chose; so is the port that it
// comes from by now, if its own is taken. Connection tracking of Fairlead's host knows the guest's flows only, so that a sandbox's may have the
// port of one; an answer to that sandbox then goes to the guest. The kernel's host, which gave the guest another port, refuses it.
func lateAnswer(d difference) bool {
	if !d.slept() || d.st().Kind != "reverse" {
		return false
	}
	if d.fairlead == nil || d.kernel == nil {
		f := d.flow()
		shared := slices.ContainsFunc(d.seq.Flows, func(g flow) bool {
			return g.Client == "guest" && f.Client != "guest" && g.Proto == f.Proto && g.Sport == f.Sport && g.Dst == f.Dst && g.Dport == f.Dport
		})
		return shared && (d.kernel == nil && d.fairlead.node == "guest" || d.fairlead == nil && d.kernel.node == "out" && d.kernel.p.icmpError())
	}
	a, b := d.fairlead.p, d.kernel.p
	return d.fairlead.node == d.kernel.node && a.src == b.src && a.dst == b.dst && (a.sport != b.sport || a.dport != b.dport)
}

// An answer to a neighbour goes to the gateway's MAC, with which its question came. On the kernel's bridge the question had the
// neighbour's, so that an answer to a flow that is forgotten goes there untranslated.
func lateOnBridge(d difference) bool {
	network := networkOf(d.flow().Client)
	return d.slept() && d.st().Kind == "reverse" && network != "" && network == networkOf(backend(d.flow()))
}

// A SYN-ACK or a FIN to a flow that is forgotten, or an answer that is not whole, begins a flow of the sandbox's own, as any packet that leaves it
// does, and that has the port of the client when the client comes again. The kernel drops it as invalid.
func lateBegins(d difference) bool {
	answered := d.had(func(st step) bool {
		return st.Kind == "reverse" && (st.Flags&(syn|rst) == syn || st.Flags&(fin|rst) == fin || st.Flip > 0 || st.Cut > 0 || len(st.Frags) > 0)
	})
	return answered && d.slept() && d.is(backend(d.flow())) && d.portOf(d.fairlead) == d.flow().name() &&
		portName.MatchString(d.fairlead.text) && !portName.MatchString(d.kernel.text)
}

// A sandbox opened a connection from its published port, which is forgotten: a segment to the port that is no SYN is for the host's
// stack then, as in the middle of a published flow.
func lateToOwnPort(d difference) bool {
	f := d.flow()
	return d.slept() && f.Proto == unix.IPPROTO_TCP && f.Sport == ownPort && f.Client == published[ownPort].name &&
		d.st().Kind == "reverse" && d.st().Flags&(syn|ack|rst) != syn
}

// A segment to a published port whose flow is forgotten begins another one in the kernel only (middle of a published flow); what the
// backend sends then begins one in Fairlead. An answer to the forgotten flow belongs to the kernel's new one, if that has its port.
func lateMiddle(d difference) bool {
	f := d.flow()
	if _, ok := published[f.Dport]; !ok || !d.slept() {
		return false
	}
	middle := func(st step) bool { return st.Kind == "forward" && st.Flags&(syn|rst) == 0 }
	if d.is("state") {
		return d.had(middle)
	}
	return d.fairlead == nil && d.st().Kind == "reverse" && f.Proto == unix.IPPROTO_TCP && slices.ContainsFunc(d.seq.Steps[:d.step], func(st step) bool {
		g := d.seq.Flows[st.Flow]
		return middle(st) && g.Client == f.Client && g.Proto == f.Proto && g.Sport == f.Sport && backend(&g) == backend(f)
	})
}

// A segment that only the kernel's state follows (exact segments, middle of a published flow) has its flow outlive Fairlead's. So
// an ICMP error about it finds a flow on one host only.
func lateError(d difference) bool {
	return d.slept() && d.st().Kind == "error" && (d.fairlead == nil) != (d.kernel == nil) && d.flow().Proto == unix.IPPROTO_TCP
}

// A FIN that is repeated is the other side's for the kernel, too, which forgets the connection after the timeout of LAST_ACK. Fairlead
// waits for the other side's own.
func finAgain(d difference) bool {
	fins := map[string]int{}
	d.had(func(st step) bool {
		if st.Flags&fin != 0 {
			fins[st.Kind]++
		}
		return false
	})
	once := (fins["forward"] > 1) != (fins["reverse"] > 1) && (fins["forward"] == 0) != (fins["reverse"] == 0)
	forgotten := d.fairlead != nil && d.kernel == nil || d.fairlead == nil && d.kernel.p.flags&rst != 0
	return d.slept() && d.flow().Proto == unix.IPPROTO_TCP && once && forgotten
}

// A packet keeps its flow alive, though only Fairlead forwards it. The kernel's flow expires if it refuses the packet.
func signOfLife(d difference) bool { return d.outlives }

// had says whether the flow had such a step before, or, after the last step, at all.
func (d *difference) had(such func(step) bool) bool {
	steps := d.seq.Steps[:d.step]
	if d.is("state") {
		steps = d.seq.Steps
	}
	return slices.ContainsFunc(steps, func(st step) bool { return st.Flow == d.flowOf && such(st) })
}

// What is not allowed to leave is dropped whatever its hop limit. A router looks at the hop limit first.
func refusedFirst(d difference) bool {
	f := d.flow()
	to := memberNetwork(f.Dst)
	refused := networkOf(f.Client) == "inner" || to != "" && to != networkOf(f.Client)
	return refused && d.st().TTL == 1 && d.fairlead == nil && d.kernel.node == f.Client
}

// Connection tracking refuses combinations of flags that nobody sends. A receiver goes by RST, then SYN, then FIN (RFC 9293 section
// 3.10.7), and so does Fairlead.
func oddFlags(d difference) bool {
	return d.is("state") && d.had(func(st step) bool {
		switch st.Flags &^ (psh | 0xc0) {
		case syn, syn | ack, rst, rst | ack, fin | ack, ack:
			return false
		}
		return st.Kind == "forward" || st.Kind == "reverse"
	})
}

// A SYN on a connection that is open, and the SYN-ACK that belongs to it, make the kernel begin a new connection: it may have missed the
// end. Fairlead goes by the sequence number, which is the old one. After a RST, Fairlead begins a new one at once. It does not store the
// options of a SYN that may be an attacker's: if the server confirms it, the scale of the client's window is unknown and the largest usual
// one is assumed. So what the server sends may be further ahead.
func synAgain(d difference) bool {
	if !d.is("state") {
		return false
	}
	n := 0
	d.had(func(st step) bool {
		if st.Kind == "forward" && st.Flags&(syn|ack|rst) == syn {
			n++
		}
		return false
	})
	ahead := d.fairlead.text == string(closing) && d.had(func(st step) bool { return st.Kind == "reverse" && st.Flags&fin != 0 && st.Seq > 0 })
	return n > 1 && (d.kernel.text == string(opening) || d.fairlead.text == string(opening) || ahead)
}

// A segment that is not where it belongs, or in fragments, or whose hop limit ends here, moves the kernel's connection on if it
// is in the window. Fairlead waits for one that is exact (RFC 5961 section 3.2 and 4.2).
func exactSegments(d difference) bool {
	order := map[string]int{string(opening): 0, string(open): 1, string(closing): 2}
	if !d.is("state") || order[d.fairlead.text] >= order[d.kernel.text] {
		return false
	}
	// The client's RST, behind data that the server has not answered with a SYN-ACK.
	onlyKernelCloses := d.fairlead.text == string(opening) && d.kernel.text == string(closing)
	unanswered := onlyKernelCloses &&
		d.had(func(st step) bool { return st.Kind == "forward" && st.Flags&rst != 0 }) &&
		d.had(func(st step) bool { return st.Kind == "forward" && st.Flags&syn == 0 && st.Len > 0 })
	// The server's RST that does not acknowledge the SYN: a client in SYN-SENT ignores it (RFC 9293 section 3.10.7.3).
	ignored := onlyKernelCloses &&
		d.had(func(st step) bool { return st.Kind == "reverse" && st.Flags&(rst|ack) == rst }) &&
		!d.had(func(st step) bool { return st.Kind == "reverse" && st.Flags&(syn|ack|rst) == syn|ack })
	return unanswered || ignored || d.had(inexact)
}

// inexact says whether a segment is one that exactSegments is about.
func inexact(st step) bool {
	return st.Seq != 0 || st.Ack != 0 || len(st.Frags) > 0 || st.TTL == 1 || st.Flip > 0 || st.Cut > 0 || st.Flags&syn != 0 && st.Len > 0
}

// A connection that the client has confirmed, or the server closed, with nothing but segments that are not exact is open or closing for
// the kernel only. So it outlives the handshake's timeout there, and what comes after that is known to the kernel only: to Fairlead an
// answer belongs to no flow, and leaves with the address of the uplink that it takes.
func lateUnconfirmed(d difference) bool {
	moves := func(st step) bool {
		return st.Kind == "forward" && st.Flags&(syn|ack|rst) == ack || st.Kind == "reverse" && st.Flags&(fin|rst) == fin
	}
	unknown := d.fairlead == nil || d.kernel != nil && d.st().Kind == "reverse" && d.fairlead.node == d.kernel.node && d.fairlead.p.src != d.kernel.p.src
	return d.slept() && d.flow().Proto == unix.IPPROTO_TCP && unknown && d.kernel != nil &&
		d.had(func(st step) bool { return moves(st) && inexact(st) }) &&
		!d.had(func(st step) bool { return moves(st) && !inexact(st) })
}

// BPF can ask connection tracking about TCP and UDP only. So a sandbox's question of ICMP takes the id that the guest's, which
// netfilter masquerades, has towards the same address; the guest's next one leaves with another. If only Fairlead forwards the question,
// a fragment (incomplete fragments) or a damaged one (bad checksum), what comes back shows it.
func idsOfAnotherNAT(d difference) bool {
	f := d.flow()
	if !isICMP(f.Proto) {
		return false
	}
	if d.is("out") {
		return d.portOf(d.fairlead) != f.name() && d.portOf(d.kernel) == f.name()
	}
	return (d.st().Kind == "reverse" || d.st().Kind == "error") && f.Client == "guest" && slices.ContainsFunc(d.seq.Steps[:d.step], func(st step) bool {
		g := d.seq.Flows[st.Flow]
		return networkOf(g.Client) != "" && g.Proto == f.Proto && g.Dst == f.Dst && g.Sport == f.Sport &&
			(len(st.Frags) > 0 && !st.allFragments() || st.Flip > 0 || st.Cut > 0)
	})
}

// A node information query (RFC 4620) has a nonce and no id, so nothing tells the replies to two sandboxes apart. Fairlead drops the second one's
// query to an address, as docs/limits.md says; the kernel takes the first bytes of the query for an id.
func withoutID(d difference) bool {
	const query = 139
	f := d.flow()
	return d.fairlead == nil && d.kernel != nil && d.st().Kind == "forward" && f.Proto == unix.IPPROTO_ICMPV6 && f.Dport == query &&
		slices.ContainsFunc(d.seq.Steps[:d.step], func(st step) bool {
			g := d.seq.Flows[st.Flow]
			return st.Kind == "forward" && g.Proto == f.Proto && g.Dport == query && g.Dst == f.Dst && g.Client != f.Client
		})
}

// Which port a flow leaves with is the forwarder's to choose: it may be one that an earlier flow, which ended, had.
func kernelReuses(d difference) bool {
	return d.kernel != nil && d.portOf(d.kernel) != d.flow().name() && d.fairlead != nil && d.portOf(d.fairlead) == d.flow().name() &&
		d.fairlead.node == d.kernel.node
}

var portName = regexp.MustCompile(`<(?:privileged |published )?port of ([^>]+)>`)

// portOf names the flow that first had the port that a packet bears; the step's own if it bears none that was chosen.
func (d *difference) portOf(s *seen) string {
	if match := portName.FindStringSubmatch(s.text); match != nil {
		return match[1]
	}
	return d.flow().name()
}

// A socket of the host's sends some segments when its timers say so: acknowledgements of data, and what it repeats.
func hostTimers(d difference) bool {
	timed := func(s *seen) bool {
		return s == nil || s.p.proto == unix.IPPROTO_TCP && s.own && (s.p.flags == ack || s.again)
	}
	return timed(d.fairlead) && timed(d.kernel)
}

// A program of the host is redirected to the backend when it connects. So one local port does not connect to two published addresses
// of one backend: the second connect gets EADDRNOTAVAIL, or, with UDP and SO_REUSEADDR, the two are one flow. netfilter translates its packets, and gives them another port.
func hostPortTwice(d difference) bool {
	if d.st().Kind != "connect" || d.flow().Proto == unix.IPPROTO_TCP && d.fairlead != nil && d.fairlead.node != "host" {
		return false
	}
	for k, other := range d.seq.Flows {
		if k != d.flowOf && other.Client == "host" && other.Proto == d.flow().Proto && other.Sport == d.flow().Sport && other.Dst != d.flow().Dst {
			return true
		}
	}
	return false
}

// After a socket of the host has closed, another one with its port that connects to another published address of the backend has the
// same packets. So it hears of an error about those of the first, and the host's connection tracking takes a late RST for its own.
// netfilter gave each flow a port of its own.
func portOfClosed(d difference) bool {
	f := d.flow()
	if f.Client != "host" || d.fairlead != nil && !strings.HasPrefix(d.fairlead.text, "host: socket: ") {
		return false
	}
	return slices.ContainsFunc(d.seq.Steps[:d.step], func(st step) bool {
		g := d.seq.Flows[st.Flow]
		late := st.Kind == "error"
		if d.fairlead == nil {
			late = st.Kind == "reverse" && st.Flags&rst != 0
		}
		return late && g.Client == "host" && g.Proto == f.Proto && g.Sport == f.Sport && g.Dst != f.Dst
	})
}

// An ICMP error keeps the address of the router that sent it (RFC 5508 section 4.2). netfilter writes that of the flow's other end
// in its place if it translates the source of the flow, were it only the port.
func routersAddress(d difference) bool {
	routed := d.st().Node != "" || d.flow().Src.IsValid() // its sender is not an end of the flow
	return d.st().Kind == "error" && routed && d.fairlead != nil && d.kernel != nil &&
		d.fairlead.node == d.kernel.node && d.fairlead.p.icmpError() && d.fairlead.p.dst == d.kernel.p.dst &&
		d.fairlead.p.src != d.kernel.p.src && gist(d.fairlead) == gist(d.kernel) && strings.Contains(d.kernel.rest, "port of ")
}

// A packet that says that it is larger than it is and than the path takes is too big to Fairlead. The kernel sees first that it
// is cut off.
func lengthBelieved(d difference) bool {
	if d.kernel != nil || d.st().Flip == 0 || d.fairlead.node != d.flow().Client && d.st().Kind == "forward" {
		return false
	}
	p := d.fairlead.p
	return p.proto == unix.IPPROTO_ICMPV6 && p.icmpType == 2 || p.proto == unix.IPPROTO_ICMP && p.icmpType == 3 && p.icmpCode == 4
}

// Fairlead drops frames with a tag behind a tag, wherever they come from: nobody sends these to an untagged interface on
// purpose. The kernel removes the tags of VLAN 0, however many there are.
func tags(d difference) bool { return len(d.st().Tags) > 1 && d.fairlead == nil }

// The gateway stands for neighbours of the backend with ports of its own, all above 1023.
func privilegedAtGateway(d difference) bool {
	return d.is(backend(d.flow())) && networkOf(d.flow().Client) != "" &&
		d.fairlead.rest == strings.Replace(d.kernel.rest, "<privileged port", "<port", 1)
}

// A socket of the host's is connected to the backend itself, and its stack takes an ICMP error from anybody. Under netfilter
// the same error is about a translated packet, and lost if the address that was asked is a loopback.
func errorToHost(d difference) bool {
	if d.st().Kind != "error" { // the socket's next answer tells of one before
		struck := d.had(func(st step) bool { return st.Kind == "error" })
		return struck && d.flow().Client == "host" && d.fairlead != nil && d.fairlead.text == "host: socket: protocol error"
	}
	return d.st().Kind == "error" && d.st().Node != "" && d.flow().Client == "host" && (d.fairlead == nil || d.fairlead.node == "host")
}

// A SYN from the server, on a flow that is about to end: the kernel takes it for a new connection to its own address. Fairlead
// lets the sandbox answer, whose flow it is.
func serverOpens(d difference) bool {
	return d.flow().Proto == unix.IPPROTO_TCP && d.st().Kind == "reverse" && d.st().Flags&(syn|ack|rst) == syn
}

// The host's stack replies for a closed socket where its own connection tracking permits that. On Fairlead's host it knows only
// what the host itself sent and received.
func closedSocketAnswers(d difference) bool {
	refusal := func(s *seen) bool { return s == nil || s.p.flags&rst != 0 || s.p.icmpError() }
	return d.flow().Client == "host" && d.st().Kind == "reverse" && refusal(d.fairlead) && refusal(d.kernel)
}

// The kernel does not answer ICMP of types that it does not know: they may be errors. Fairlead knows which are.
func hopLimitOddICMP(d difference) bool {
	f := d.flow()
	// self: the client sends to its own address by the gateway's MAC
	self := f.Client != "host" && nodeOf(f.Client).addr(familyOf(f.Dst)) == f.Dst
	return d.st().TTL == 1 && f.Proto == unix.IPPROTO_ICMP && f.Dport == 200 && d.kernel == nil &&
		(d.fairlead.node == f.Client) == (d.st().Kind == "forward" || self)
}

// compare pairs the packets that came out of the two hosts and returns the differences that no rule
// explains. ends names the rule, if any, after which the flows of the two hosts differ.
func (f *fuzzer) compare(all difference, fairlead, kernel []*seen) (found []difference, ends string) {
	fairlead, kernel = leaveOut(fairlead, kernel), leaveOut(kernel, fairlead)
	for _, d := range pair(all, fairlead, kernel) {
		if r := explaining(known, d); r != nil {
			f.used["known: "+r.name]++
			ends = r.name
		} else if r := explaining(parting, d); r != nil {
			f.used[r.name]++
			ends = r.name
		} else if r := explaining(rules, d); r != nil {
			f.one = f.one || d.fairlead == nil || d.kernel == nil || d.st().TTL == 1
			f.used[r.name]++
		} else {
			found = append(found, d)
		}
	}
	return found, ends
}

// explaining is the first rule that explains a difference; nil: none does.
func explaining(rules []rule, d difference) *rule {
	for i, r := range rules {
		if r.explains(d) {
			return &rules[i]
		}
	}
	return nil
}

// leaveOut are those of a that have no equal in b.
func leaveOut(a, b []*seen) (rest []*seen) {
	count := map[string]int{}
	for _, x := range b {
		count[x.text]++
	}
	for _, x := range a {
		if count[x.text] == 0 {
			rest = append(rest, x)
			continue
		}
		count[x.text]--
	}
	return rest
}

// pair puts together what came out of the same node.
func pair(d difference, fairlead, kernel []*seen) (all []difference) {
	used := map[*seen]bool{}
	for _, a := range fairlead {
		d.fairlead, d.kernel = a, nil
		for _, b := range kernel {
			if !used[b] && b.node == a.node {
				d.kernel = b
				used[b] = true
				break
			}
		}
		all = append(all, d)
	}
	for _, b := range kernel {
		if !used[b] {
			d.fairlead, d.kernel = nil, b
			all = append(all, d)
		}
	}
	return all
}
