// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/loader"
)

// makeNamespaces creates the owned namespaces that are missing.
func (p *pass) makeNamespaces() {
	for id, b := range p.boxes {
		made, err := p.makeNamespace(b)
		if made {
			p.count(RepairNamespace, 1)
		}
		b.dirty = err != nil
		if errors.Is(err, rtnl.ErrNoNetNS) {
			p.markGone(b, err)
		} else {
			p.setErr(&b.lastErr, "sandbox", id, err)
		}
		if p.first && !made && err == nil {
			// The namespace is as the last daemon left it; a periodic check inspects it.
			delete(p.boxes, id)
		}
	}
}

// makeNamespace creates an owned sandbox's namespace if it is missing. While a host end exists,
// so does the namespace of its peer, even if the path was removed: programs may run in it, so it
// is not replaced.
func (p *pass) makeNamespace(b *sandbox) (made bool, err error) {
	if !b.want.OwnsNetNS() {
		return false, nil
	}
	ns, err := rtnl.OpenNetNS(b.want.NetNS)
	if err == nil {
		return false, ns.Close()
	}
	if !errors.Is(err, rtnl.ErrNoNetNS) {
		return false, err
	}
	for id, e := range p.r.endpoints {
		if e.want == nil || e.want.SandboxID != b.id {
			continue
		}
		l, ok, _ := p.find(rtnl.EndpointAlias(id), rtnl.EndpointDevice(id), e.hostIf)
		if ok && l.Alias == rtnl.EndpointAlias(id) {
			return false, err
		}
	}
	return true, rtnl.CreateNetNS(b.want.NetNS)
}

// makeHostPort creates or adopts a network's host port.
func (p *pass) makeHostPort(n *network) error {
	gw, okGW, err := p.find(rtnl.GatewayAlias(n.id), rtnl.GatewayDevice(n.id), n.gateway)
	if err != nil {
		return err
	}
	dp, okDP, err := p.find(rtnl.HostPortAlias(n.id), rtnl.HostPortDevice(n.id), n.hostPort)
	if err != nil {
		return err
	}
	if !okGW || !okDP || gw.PeerIndex != dp.Index || dp.PeerIndex != gw.Index {
		if err := p.deleteLinks(gw, dp); err != nil {
			return err
		}
		if gw, dp, err = p.createHostPort(n); err != nil {
			return err
		}
	}
	p.hostPorts[n.id] = [2]rtnl.Link{gw, dp}
	if n.gateway == gw.Index && n.hostPort == dp.Index {
		return nil
	}
	p.flows.device(n.hostPort)
	p.detachLater(n.hostPort)
	n.gateway, n.hostPort = gw.Index, dp.Index
	p.touchNetwork(n) // its endpoints' entries contain the host port
	return nil
}

func (p *pass) createHostPort(n *network) (gw, dp rtnl.Link, err error) {
	if p.r.numbers[n.want.Index] != n.id {
		// The number may have belonged to another network.
		if err := p.r.tables.Traffic.ResetTraffic(n.want.Index); err != nil {
			return gw, dp, err
		}
		p.r.numbers[n.want.Index] = n.id
	}
	gw, err = p.r.nl.CreateVeth(rtnl.Veth{
		Name: rtnl.GatewayDevice(n.id), MAC: n.want.GatewayMAC,
		PeerName: rtnl.HostPortDevice(n.id), MTU: n.want.DeviceMTU(),
	})
	if err != nil {
		return gw, dp, err
	}
	p.made[n.id] = true
	p.count(RepairDevice, 1)
	dp, err = p.r.nl.Link(gw.PeerIndex)
	return gw, dp, err
}

// deleteLinks deletes devices that were found; index 0 means not found.
func (p *pass) deleteLinks(links ...rtnl.Link) error {
	for _, l := range links {
		if l.Index == 0 {
			continue
		}
		if err := p.r.nl.DeleteLink(l.Index); err != nil {
			return err
		}
	}
	return nil
}

// makeEndpoint creates or adopts an endpoint's pair of devices.
func (p *pass) makeEndpoint(e *endpoint) {
	l, err := p.endpointLink(e)
	e.dirty = err != nil
	if err == nil {
		p.hostEnds[e.id] = l
		p.moveEndpoint(e, l.Index, l.PeerIndex)
		e.finished = l.Alias == rtnl.EndpointAlias(e.id)
		e.lastErr = ""
		if b := p.r.sandboxes[e.want.SandboxID]; b != nil && (!p.first || !e.finished || !l.Running) {
			p.boxes[b.id] = b
		}
		return
	}
	p.moveEndpoint(e, 0, 0)
	if errors.Is(err, errPairGone) {
		e.dirty, e.lastErr = false, ""
		return
	}
	if errors.Is(err, rtnl.ErrNoNetNS) && p.mayBeGone(e.id) {
		p.markGone(p.r.sandboxes[e.want.SandboxID], err)
		return
	}
	p.setErr(&e.lastErr, "endpoint", e.id, err)
}

// moveEndpoint records the current devices of an endpoint.
func (p *pass) moveEndpoint(e *endpoint, hostIf, peerIf uint32) {
	if e.hostIf != hostIf {
		p.flows.device(e.hostIf)
		p.detachLater(e.hostIf)
		e.finished = false
	}
	e.hostIf, e.peerIf = hostIf, peerIf
}

// mayBeGone reports whether a missing namespace is not the caller's error: a namespace that
// existed before this pass may disappear at any time.
func (p *pass) mayBeGone(id string) bool { return p.first || !p.fresh[id] }

// markGone marks a sandbox whose namespace does not exist, and logs that once.
func (p *pass) markGone(b *sandbox, err error) {
	if b == nil || b.gone {
		return
	}
	b.gone, b.goneAt = true, time.Now()
	p.r.log.Warn("network namespace missing; sandbox disconnected",
		"sandbox", b.want.Name, "id", model.ShortID(b.id), "err", err)
}

// errPairGone means that an engine's pair of devices was deleted, by the end of the container's
// namespace or otherwise. The engine would not move a new one: it will remove the endpoint, or
// the container has to be restarted.
var errPairGone = errors.New("the pair of devices of an engine-managed sandbox was deleted")

// endpointLink finds the host end, or creates the pair. For an engine-managed endpoint only a
// verb creates it, since only then will the engine move it.
func (p *pass) endpointLink(e *endpoint) (rtnl.Link, error) {
	n := p.r.networks[e.want.NetworkID]
	b := p.r.sandboxes[e.want.SandboxID]
	if n == nil || !n.usable() || b == nil || b.want == nil {
		return rtnl.Link{}, errors.New("its network or sandbox does not exist")
	}
	l, ok, err := p.find(rtnl.EndpointAlias(e.id), rtnl.EndpointDevice(e.id), e.hostIf)
	if err != nil {
		return rtnl.Link{}, err
	}
	// A pair from before this daemon's start that is not finished is deleted and created again,
	// since what it lacks is unknown; one that this daemon created can be finished.
	if ok && (l.Alias == rtnl.EndpointAlias(e.id) || l.Index == e.hostIf) {
		return l, nil
	}
	if err := p.deleteLinks(l); err != nil {
		return rtnl.Link{}, err
	}
	if isEngineManaged(p.s, e.want) && (p.repair || p.first) {
		return rtnl.Link{}, errPairGone
	}
	return p.createEndpoint(e, n, b)
}

func (p *pass) createEndpoint(e *endpoint, n *network, b *sandbox) (rtnl.Link, error) {
	pair := rtnl.Veth{
		Name: rtnl.EndpointDevice(e.id), PeerName: e.want.IfName, PeerMAC: e.want.MAC, MTU: n.want.DeviceMTU(),
	}
	if b.want.ManagedBy == model.ByEngine {
		return p.createPair(pair, "the host's namespace")
	}
	made, err := p.makeNamespace(b)
	if made {
		p.count(RepairNamespace, 1)
	}
	if err != nil {
		return rtnl.Link{}, err
	}
	if pair.PeerNS, err = p.r.nl.OpenSandboxNetNS(b.want.NetNS); err != nil {
		return rtnl.Link{}, err
	}
	defer pair.PeerNS.Close()
	return p.createPair(pair, b.want.NetNS)
}

// createPair creates the devices. where names the namespace of the inner end, for errors.
func (p *pass) createPair(pair rtnl.Veth, where string) (rtnl.Link, error) {
	l, err := p.r.nl.CreateVeth(pair)
	if errors.Is(err, rtnl.ErrExists) && len(p.removedEps) > 0 {
		// An endpoint that this pass removes may still have the name.
		for _, gone := range p.removedEps {
			if err := p.removeDevice(rtnl.EndpointAlias(gone.id), rtnl.EndpointDevice(gone.id), gone.hostIf); err != nil {
				return rtnl.Link{}, err
			}
		}
		l, err = p.r.nl.CreateVeth(pair)
	}
	if errors.Is(err, rtnl.ErrExists) {
		return l, &model.Refusal{Kind: model.ErrConflict, Text: fmt.Sprintf("interface %q already exists in %s (remove it, or choose another name)", pair.PeerName, where)}
	}
	if err == nil {
		p.count(RepairDevice, 1)
	}
	return l, err
}

// detachLater schedules the detachment from a device that was removed or is about to be.
func (p *pass) detachLater(ifindex uint32) {
	if ifindex == 0 {
		return
	}
	p.detached = append(p.detached, ifindex)
}

// attach attaches the programs of the pass's endpoints and host ports.
func (p *pass) attach() {
	for id, n := range p.nets {
		if n.usable() && !n.dirty {
			_, err := p.r.attachments.attach(place{int(n.hostPort), loader.FromEndpoint}, false)
			n.dirty = err != nil
			p.setErr(&n.lastErr, "network", id, err)
		}
	}
	for id, e := range p.eps {
		if e.hostIf == 0 {
			continue
		}
		// Fast if a verb is waiting.
		if _, err := p.r.attachments.attach(place{int(e.hostIf), loader.FromEndpoint}, !p.repair && !p.first); err != nil {
			e.dirty = true
			p.setErr(&e.lastErr, "endpoint", id, err)
		}
	}
}
