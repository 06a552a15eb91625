// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"net/netip"
	"sync"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/logonce"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/maps"
)

// encryption is the state of the encrypting device.
type encryption struct {
	on      bool // the cluster has encrypted networks
	removed bool // and if not, the device was removed

	mu     sync.Mutex
	err    error // of the last attempt
	logged logonce.Error
}

// reachedNode is another node, and how this host reaches it without encryption.
type reachedNode struct {
	model.Node
	entry maps.Node
	path  Path
}

// hasNetworks reports whether the cluster has networks that are encrypted, or ones that are not, whether or not they
// have members here: the key of a node should be known before its first member.
func hasNetworks(s *desired.Snapshot, encrypted bool) bool {
	for n := range s.Networks() {
		if n.Has().Shared && n.Encrypted == encrypted {
			return true
		}
	}
	return false
}

// encrypt makes the nodes the peers of the encrypting device, if there is any use for it. It returns their
// entries and the addresses that they send from.
func (p *Peers) encrypt(nodes []reachedNode) (list []maps.Node, addrs []maps.NodeAddr) {
	if p.encryption.on = hasNetworks(p.snapshot.Load(), true); !p.encryption.on {
		if !p.encryption.removed {
			err := p.cfg.Encryption.Remove()
			p.noteEncryption(err)
			p.encryption.removed = err == nil
		}
		return nil, nil
	}
	p.encryption.removed = false
	dev, err := p.cfg.Encryption.Ensure()
	if err != nil {
		p.noteEncryption(err)
		return nil, nil
	}
	var peers []model.EncryptedPeer
	for _, n := range nodes {
		if n.WireGuardKey.IsZero() {
			continue
		}
		peers = append(peers, model.EncryptedPeer{Key: n.WireGuardKey, Endpoint: netip.AddrPortFrom(n.entry.Remote, n.WireGuardPort)})
		e := maps.Node{
			ID: n.Number + maps.EncryptedNode, Local: dev.Key.TunnelAddr(), Remote: n.WireGuardKey.TunnelAddr(), Encrypted: true,
		}
		if n.entry.IfIndex != 0 {
			mtu := min(dev.MTU, n.path.MTU-model.WireGuardOverhead(model.FamilyOf(n.entry.Remote)))
			e.IfIndex, e.MTU = dev.IfIndex, uint16(max(0, mtu-Overhead(model.V6)))
		}
		list = append(list, e)
		addrs = append(addrs, maps.NodeAddr{Addr: e.Remote, Node: e.ID})
	}
	p.noteEncryption(p.cfg.Encryption.Sync(peers, !p.nodes.listed))
	return list, addrs
}

// noteEncryption records an error, and logs it once.
func (p *Peers) noteEncryption(err error) {
	e := &p.encryption
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.logged.IsNew(err) {
		p.cfg.Log.Error("cannot encrypt; members of encrypted networks do not reach other nodes", "err", err)
	}
	e.err = err
}

// EncryptionError returns why this host cannot encrypt, or nil if it can or need not.
func (p *Peers) EncryptionError() error {
	p.encryption.mu.Lock()
	defer p.encryption.mu.Unlock()
	return p.encryption.err
}
