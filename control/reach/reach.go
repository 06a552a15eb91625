// SPDX-License-Identifier: Apache-2.0

// Package reach measures whether packets reach other nodes, and how long they take. It sends ICMP echo requests
// (RFC 792, RFC 4443) from this node's address in a shared network to the other node's address there, so that
// they take the way of the network's packets: through the programs, the tunnel and the underlay. The other
// node's kernel answers, whether or not its daemon runs. Each node also notes whose requests arrive, so that
// the direction that does not work is known.
package reach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
)

const (
	// often is the time between two probes of a path in a small cluster, and perTarget what each path adds
	// to it, so that many paths do not cause more than 100 packets a second.
	often     = 2 * time.Second
	perTarget = 20 * time.Millisecond
	// timeout is how long an answer may take.
	timeout = 2 * time.Second
	// kept is how many probes a result is about.
	kept = 20
	step = 100 * time.Millisecond // between looks at what is due
	// refresh is the time between two looks at what paths there are.
	refresh = 5 * time.Second
)

// Target is a path to another node.
type Target struct {
	Node      string     // its ID
	Encrypted bool       // by the device that encrypts
	From, To  netip.Addr // addresses of this node and of the other in one network
	Size      int        // of the network's largest packets, in bytes, with the IP header
}

// Result is what was measured of a path, over the last probes.
type Result struct {
	Encrypted bool
	Size      int // of the large probes, in bytes, with the IP header
	Small     Outcome
	Large     Outcome
}

const (
	// failing is how many probes in a row are lost on a path that does not work.
	failing = 3
	// current is how long ago the other node's last probe may be if its packets arrive. It probes each path
	// that often even if it has a thousand.
	current = 30 * time.Second
)

// State returns the state of the path.
func (r *Result) State(now time.Time) model.PathState {
	switch {
	case r.Small.Sent < failing:
		return model.PathUnknown
	case r.Small.InRow < failing && r.Large.InRow < failing:
		return model.PathWorks
	case r.Small.InRow < failing && r.Large.arrives(now):
		return model.PathLargeOutbound
	case r.Small.InRow < failing:
		return model.PathLarge
	case r.Small.arrives(now):
		return model.PathOutbound
	}
	return model.PathSilent
}

// arrives reports whether the other node's own probes have arrived since answers no longer do.
func (o *Outcome) arrives(now time.Time) bool {
	return now.Sub(o.Heard) < current && o.Heard.Sub(o.Answered) > timeout+often
}

// Outcome is the outcome of the last probes of one size.
type Outcome struct {
	Sent, Lost int
	InRow      int           // how many of the last ones were lost
	RoundTrip  time.Duration // median of those that were answered; 0: none was
	// Answered is when the last answer arrived, and Heard when the last probe of the other node did. They are
	// zero if there was none.
	Answered, Heard time.Time
}

// Config configures a Prober. All fields are required.
type Config struct {
	// Targets returns the paths to probe, at most one for a node with the same Encrypted.
	Targets func() []Target
	Log     *slog.Logger
}

// Prober probes the paths to other nodes.
type Prober struct {
	cfg   Config
	nonce uint64 // of the last probe

	mu      sync.Mutex
	paths   map[path]*state
	pending map[uint64]pending
	sockets [len(model.Families)]*socket
	logged  [len(model.Families)]string
}

type path struct {
	node      string
	encrypted bool
}

type state struct {
	Target
	due          time.Time
	small, large window
}

// pending is a probe that was not answered yet.
type pending struct {
	path  path
	to    netip.Addr
	large bool
	sent  time.Time
}

// New returns a Prober. It does nothing until Run is called.
func New(cfg Config) *Prober {
	return &Prober{cfg: cfg, nonce: rand.Uint64(), paths: map[path]*state{}, pending: map[uint64]pending{}}
}

// Run probes until ctx ends.
func (p *Prober) Run(ctx context.Context) error {
	var receivers sync.WaitGroup
	defer receivers.Wait()
	defer p.close()
	ticker := time.NewTicker(step)
	defer ticker.Stop()
	var refreshed time.Time
	for {
		now := time.Now()
		if now.Sub(refreshed) >= refresh {
			refreshed = now
			p.follow(p.cfg.Targets(), now)
		}
		p.openSockets(&receivers)
		p.expire(now)
		p.send(now)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// follow makes these the paths that are probed.
func (p *Prober) follow(targets []Target, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted := map[path]bool{}
	for i, t := range targets {
		at := path{t.Node, t.Encrypted}
		wanted[at] = true
		if s := p.paths[at]; s != nil && s.Target == t {
			continue
		}
		p.paths[at] = &state{Target: t, due: now.Add(time.Duration(i) * perTarget)}
	}
	for at := range p.paths {
		if !wanted[at] {
			delete(p.paths, at)
		}
	}
}

// openSockets opens the socket of each family that a path has.
func (p *Prober) openSockets(receivers *sync.WaitGroup) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var needed [len(model.Families)]bool
	for _, s := range p.paths {
		needed[model.FamilyOf(s.To)] = true
	}
	for _, f := range model.Families {
		if !needed[f] || p.sockets[f] != nil {
			continue
		}
		s, err := newSocket(f)
		if err != nil {
			p.log(f, fmt.Errorf("cannot probe the paths to other nodes over %s: %w", f, err))
			continue
		}
		p.sockets[f] = s
		receivers.Go(func() { p.receive(f, s) })
	}
}

// log logs an error of a family, unless it was the last one.
func (p *Prober) log(f model.Family, err error) {
	if text := err.Error(); text != p.logged[f] {
		p.logged[f] = text
		p.cfg.Log.Warn("probes", "err", err)
	}
}

func (p *Prober) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sockets {
		if s != nil {
			_ = s.Close()
		}
	}
}

// expire counts the probes that were not answered in time.
func (p *Prober) expire(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for nonce, w := range p.pending {
		if now.Sub(w.sent) < timeout {
			continue
		}
		delete(p.pending, nonce)
		if s := p.paths[w.path]; s != nil && s.To == w.to {
			s.window(w.large).add(0, true)
		}
	}
}

func (s *state) window(large bool) *window {
	if large {
		return &s.large
	}
	return &s.small
}

// send sends the probes that are due: a small and a large one to each node. A probe that cannot be sent is
// lost.
func (p *Prober) send(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	each := max(often, time.Duration(len(p.paths))*perTarget)
	for at, s := range p.paths {
		socket := p.sockets[model.FamilyOf(s.To)]
		if now.Before(s.due) || socket == nil {
			continue
		}
		s.due = now.Add(each)
		for _, large := range []bool{false, true} {
			size := 0
			if large {
				size = s.Size
			}
			p.nonce++
			p.pending[p.nonce] = pending{at, s.To, large, time.Now()}
			if err := socket.send(s.From, s.To, size, p.nonce); err != nil {
				p.cfg.Log.Debug("cannot send a probe", "node", model.ShortID(s.Node), "to", s.To, "size", size, "err", err)
			}
		}
	}
}

// receive notes answers and the probes of other nodes until the socket is closed.
func (p *Prober) receive(f model.Family, s *socket) {
	for {
		m, err := s.receive()
		if err == nil {
			p.note(m, time.Now())
			continue
		}
		p.mu.Lock()
		p.sockets[f] = nil // Run opens another
		p.mu.Unlock()
		if !errors.Is(err, errClosed) {
			_ = s.Close()
			p.mu.Lock()
			p.log(f, fmt.Errorf("cannot receive probes over %s: %w", f, err))
			p.mu.Unlock()
		}
		return
	}
}

// note notes a message from another node.
func (p *Prober) note(m message, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.request {
		for _, s := range p.paths {
			if s.To == m.from {
				s.window(m.size > smallest).heard = now
			}
		}
		return
	}
	w, ok := p.pending[m.nonce]
	if !ok || w.to != m.from {
		return
	}
	delete(p.pending, m.nonce)
	if s := p.paths[w.path]; s != nil && s.To == w.to {
		s.window(w.large).add(now.Sub(w.sent), false)
		s.window(w.large).answered = now
	}
}

// Results returns what was measured of the paths to a node. The path that is not encrypted is first.
func (p *Prober) Results(node string) (list []Result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, encrypted := range []bool{false, true} {
		if s := p.paths[path{node, encrypted}]; s != nil {
			list = append(list, Result{Encrypted: encrypted, Size: s.Size, Small: s.small.outcome(), Large: s.large.outcome()})
		}
	}
	return list
}

// window is the last probes of a path.
type window struct {
	took            []time.Duration // the oldest first; lostProbe: not answered
	answered, heard time.Time
}

const lostProbe = -1

func (w *window) add(took time.Duration, lost bool) {
	if lost {
		took = lostProbe
	}
	if w.took = append(w.took, took); len(w.took) > kept {
		w.took = slices.Delete(w.took, 0, 1)
	}
}

func (w *window) outcome() Outcome {
	o := Outcome{Sent: len(w.took), Answered: w.answered, Heard: w.heard}
	var answered []time.Duration
	for _, took := range w.took {
		if took == lostProbe {
			o.Lost++
			o.InRow++
		} else {
			o.InRow = 0
			answered = append(answered, took)
		}
	}
	slices.Sort(answered)
	if len(answered) > 0 {
		o.RoundTrip = answered[len(answered)/2]
	}
	return o
}
