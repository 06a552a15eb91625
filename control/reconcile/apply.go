// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/entries"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// collect computes the table entries of the pass's objects, and records the previous ones.
func (p *pass) collect() {
	for _, n := range p.nets {
		var now entries.Set
		if n.usable() {
			now = entries.OfNetwork(n.want, n.ends())
		}
		p.replace(&n.entries, now)
	}
	for _, e := range p.eps {
		var now entries.Set
		if n := p.r.networks[e.want.NetworkID]; e.hostIf != 0 && n != nil && n.usable() {
			e.published = len(p.r.serving[e.id]) > 0
			now = entries.OfEndpoint(e.want, n.want, n.ends(), e.hostIf, e.published)
		}
		p.replace(&e.entries, now)
		for id, b := range p.r.serving[e.id] {
			p.pubs[id] = b
		}
	}
	for id, b := range p.pubs {
		var now []entries.Run
		if e := p.r.endpoints[b.want.EndpointID]; e != nil && e.want != nil && e.hostIf != 0 {
			if n := p.r.networks[e.want.NetworkID]; n != nil && n.usable() {
				now = entries.OfPublish(b.want, e.want, n.want, e.hostIf)
			}
		}
		if len(b.runs) > 0 && !slices.Equal(b.runs, now) {
			p.flows.publish(id)
		}
		p.old.Publishes = entries.AppendRuns(p.old.Publishes, b.runs)
		p.put.Publishes = entries.AppendRuns(p.put.Publishes, now)
		b.runs = now
	}
	for _, e := range p.removedEps {
		p.replace(&e.entries, entries.Set{})
	}
	for _, n := range p.removedNets {
		p.replace(&n.entries, entries.Set{})
	}
}

func (p *pass) replace(have *entries.Set, now entries.Set) {
	p.old.Add(*have)
	p.put.Add(now)
	*have = now
}

// writeEntries writes the entries of the pass's objects.
func (p *pass) writeEntries() error { return p.r.tables.write(&p.put) }

// deleteEntries deletes entries that have no successor.
func (p *pass) deleteEntries() error {
	stale := p.old.Without(&p.put)
	return p.r.tables.delete(&stale)
}

// finishNetworks configures the pass's host ports and brings them up.
func (p *pass) finishNetworks() {
	for id, ends := range p.hostPorts {
		n := p.r.networks[id]
		if n.dirty || n.want == nil {
			continue
		}
		err := p.finishNetwork(n, ends[0], ends[1])
		n.dirty = err != nil
		p.setErr(&n.lastErr, "network", id, err)
	}
}

func (p *pass) finishNetwork(n *network, gw, dp rtnl.Link) error {
	addrs := p.addrs
	if !p.loaded && !p.made[n.id] {
		var err error
		if addrs, err = p.r.nl.Addrs(); err != nil {
			return err
		}
	}
	p.warnForwarding(n, gw)
	ch, err := p.r.nl.ConfigureHostPort(gw, dp, addrs, n.hostPortSpec())
	if p.made[n.id] {
		// Reading a device makes the kernel update its carrier state, so that the first packet is
		// not lost.
		_, err1 := p.r.nl.Link(gw.Index)
		_, err2 := p.r.nl.Link(dp.Index)
		return errors.Join(err, err1, err2)
	}
	p.countChanges(ch)
	return err
}

// warnForwarding warns once on older kernels, which lack force_forwarding: without this
// per-device sysctl the host's stack forwards IPv6 only if forwarding is enabled on all devices,
// and that decision is the operator's.
func (p *pass) warnForwarding(n *network, gw rtnl.Link) {
	if !n.want.EnableIPv6 || gw.Conf.ForceForwarding6 != -1 || p.r.warned {
		return
	}
	p.r.warned = true
	if v, err := p.r.nl.ReadSysctl("ipv6/conf/all/forwarding"); err == nil && v == "0" {
		p.r.log.Warn("this kernel does not forward IPv6 packets that the datapath passes to the host's stack (no route, unusual devices)",
			"remedy", "set net.ipv6.conf.all.forwarding=1, and accept_ra=2 on uplinks that use router advertisements")
	}
}

// finishSandboxes brings host ends up, configures the network namespaces of the sandboxes, and
// sets the alias of finished endpoints.
func (p *pass) finishSandboxes() {
	for id, l := range p.hostEnds {
		e := p.r.endpoints[id]
		n := p.r.networks[e.want.NetworkID]
		if e.dirty || n == nil || n.want == nil {
			continue
		}
		ch, err := p.configureHostEnd(e, l, n.want.DeviceMTU())
		if e.finished {
			p.countChanges(ch)
		}
		if err == nil && !e.finished && isEngineManaged(p.s, e.want) {
			err = p.finishEndpoint(e)
		}
		if err != nil {
			e.dirty = true
			p.setErr(&e.lastErr, "endpoint", id, err)
		}
	}
	for _, b := range p.boxes {
		p.finishSandbox(b)
	}
}

// configureHostEnd installs the ingress limit before it brings the host end up.
func (p *pass) configureHostEnd(e *endpoint, l rtnl.Link, mtu int) (rtnl.Changes, error) {
	limit := e.want.Bandwidth.Ingress
	shaped := false
	if !limit.IsZero() {
		var err error
		if e.finished && p.shapers == nil {
			p.shapers, err = p.r.nl.Shapers()
		}
		if err == nil {
			shaped, err = p.r.nl.Shape(l.Index, limit, p.shapers)
		}
		if err != nil {
			return rtnl.Changes{}, err
		}
	}
	ch, err := p.r.nl.ConfigureHostEnd(l, mtu)
	if shaped {
		ch.Devices++
	}
	return ch, err
}

// finishSandbox configures a sandbox's network namespace and marks its endpoints as finished.
func (p *pass) finishSandbox(b *sandbox) {
	if b.want != nil && b.want.ManagedBy == model.ByEngine {
		p.setErr(&b.lastErr, "sandbox", b.id, p.untrack(b, p.r.members(b)))
		return
	}
	if !b.managesNetNS() {
		return
	}
	members := p.r.members(b)
	err := p.configureSandbox(b, members)
	if err == nil {
		err = p.untrack(b, members)
	}
	if missing := (*rtnl.MissingError)(nil); errors.As(err, &missing) {
		err = errors.Join(err, p.recreate(members, missing.HostIndex))
	}
	if errors.Is(err, rtnl.ErrNoNetNS) && p.mayBeGone(b.id) {
		p.markGone(b, err)
		return
	}
	p.setErr(&b.lastErr, "sandbox", b.id, err)
	if b.dirty = err != nil; b.dirty {
		return
	}
	if b.gone {
		b.gone = false
		p.r.log.Info("sandbox is back", "sandbox", b.want.Name, "id", model.ShortID(b.id))
	}
	for _, e := range members {
		if e.finished || e.dirty {
			continue
		}
		if err := p.finishEndpoint(e); err != nil {
			e.dirty = true
			p.setErr(&e.lastErr, "endpoint", e.id, err)
		}
	}
}

// members returns the endpoints that have a device in the sandbox's namespace. The namespace of
// an engine-managed sandbox has no path that another could share.
func (r *Reconciler) members(b *sandbox) []*endpoint {
	es := r.appendMade(nil, b.id)
	if b.want.NetNS == "" {
		return es
	}
	for o := range r.snap.SandboxesAt(b.want.NetNS) {
		if o.ID != b.id {
			es = r.appendMade(es, o.ID)
		}
	}
	return es
}

// appendMade appends the endpoints of a sandbox that have a device.
func (r *Reconciler) appendMade(es []*endpoint, sandboxID string) []*endpoint {
	for ep := range r.snap.EndpointsOf(sandboxID) {
		if e := r.endpoints[ep.ID]; e != nil && e.want != nil && e.hostIf != 0 {
			es = append(es, e)
		}
	}
	return es
}

// configureSandbox configures a sandbox's network namespace.
func (p *pass) configureSandbox(b *sandbox, members []*endpoint) error {
	ns, err := p.r.nl.OpenSandboxNetNS(b.want.NetNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	p.r.watchSandbox(b, ns) // before the read, so that no change is missed
	var devs []rtnl.SandboxDevice
	for _, e := range members {
		n := p.r.networks[e.want.NetworkID]
		if n == nil || n.want == nil {
			continue
		}
		d := rtnl.SandboxDevice{
			HostIndex: e.hostIf, PeerIndex: e.peerIf, Alias: rtnl.SandboxAlias(e.id), Fresh: !e.finished,
			MAC: e.want.MAC, MTU: n.want.DeviceMTU(), Limit: e.want.Bandwidth.Egress,
		}
		for _, a := range []netip.Prefix{e.want.IPv4, e.want.IPv6} {
			if !a.IsValid() {
				continue
			}
			d.Addrs = append(d.Addrs, a)
			f := model.FamilyOf(a.Addr())
			if s, _ := n.want.Subnet(f); e.want.DefaultRoute(f) && s.DefaultGateway().IsValid() {
				d.Gateways = append(d.Gateways, s.DefaultGateway())
			}
		}
		devs = append(devs, d)
	}
	ch, err := rtnl.ConfigureSandbox(ns, devs)
	if !slices.ContainsFunc(members, func(e *endpoint) bool { return !e.finished }) {
		p.countChanges(ch)
	}
	return err
}

// recreate deletes the pair whose other end left the sandbox. The next pass creates it again.
func (p *pass) recreate(members []*endpoint, hostIf uint32) error {
	for _, e := range members {
		if e.hostIf == hostIf {
			p.moveEndpoint(e, 0, 0)
			e.dirty, p.r.rerun = true, true
			return p.r.nl.DeleteLink(hostIf)
		}
	}
	return nil
}

// finishEndpoint sets the alias that marks an endpoint as fully configured.
func (p *pass) finishEndpoint(e *endpoint) error {
	if err := p.r.nl.SetAlias(e.hostIf, rtnl.EndpointAlias(e.id)); err != nil {
		return err
	}
	e.finished = true
	// Reading a device makes the kernel update its carrier state, so that the first packet is not
	// lost.
	_, err := p.r.nl.Link(e.hostIf)
	return err
}
