// SPDX-License-Identifier: Apache-2.0

// Package wireguard maintains the host's WireGuard device, by which nodes send each other the packets of
// encrypted networks. The kernel provides the device, or a WireGuard in user space has created it under
// the same name.
package wireguard

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

const (
	kindKernel = "wireguard"
	kindTUN    = "tun"

	arphrdNone = 0xfffe // of a device whose packets have no header below IP
)

// Config configures a Device. All fields are required.
type Config struct {
	Handle  *rtnl.Handle
	KeyFile string // of the private key
	Port    uint16 // UDP
	// MTU returns the MTU of the device, in bytes.
	MTU func() (int, error)
	// Attach attaches the datapath's program to the device, which is recognised by its alias.
	Attach func() error
}

// Device is the WireGuard device of this host. Its methods may be called concurrently.
type Device struct {
	cfg Config

	mu  sync.Mutex
	key wgtypes.Key // the private key, zero until it is loaded
	// endpoints are where peers were last set to receive. A peer that moves is followed by WireGuard itself.
	endpoints map[model.PublicKey]netip.AddrPort
}

// New returns a Device. It loads the key if there is one, and changes nothing in the kernel.
func New(cfg Config) (*Device, error) {
	d := &Device{cfg: cfg, endpoints: map[model.PublicKey]netip.AddrPort{}}
	var err error
	d.key, err = readKey(cfg.KeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return d, err
}

// Key returns the public key, and the port that the device receives at. Both are zero until the host has
// had a device.
func (d *Device) Key() (model.PublicKey, uint16) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.key == (wgtypes.Key{}) {
		return model.PublicKey{}, 0
	}
	return model.PublicKey(d.key.PublicKey()), d.cfg.Port
}

// Ensure makes sure that the device exists, with its key, port, address and MTU, and is up. It changes only
// what differs, so traffic is not interrupted. If it fails, it leaves no device that did not exist before.
func (d *Device) Ensure() (model.EncryptingDevice, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	mtu, err := d.cfg.MTU()
	if err != nil {
		return model.EncryptingDevice{}, fmt.Errorf("find the MTU of the underlay: %w", err)
	}
	link, created, err := d.open(mtu)
	if err != nil {
		return model.EncryptingDevice{}, err
	}
	err = d.withClient(func(c *wgctrl.Client) error { return d.configure(c, &link, mtu) })
	if err != nil {
		if created {
			err = errors.Join(err, d.cfg.Handle.DeleteLink(link.Index))
		}
		return model.EncryptingDevice{}, err
	}
	return model.EncryptingDevice{IfIndex: link.Index, Key: model.PublicKey(d.key.PublicKey()), MTU: mtu}, nil
}

// open finds the device, or creates the kernel's.
func (d *Device) open(mtu int) (link rtnl.Link, created bool, err error) {
	link, err = d.cfg.Handle.LinkByName(rtnl.WireGuardDevice)
	switch {
	case err == nil && (link.Kind == kindKernel || link.Kind == kindTUN && link.Type == arphrdNone):
		return link, false, nil
	case err == nil:
		return link, false, model.Refuse(model.ErrConflict, "device %s exists and is not a WireGuard device (remove or rename it)", link.Name)
	case !errors.Is(err, rtnl.ErrNoDevice):
		return link, false, err
	}
	clear(d.endpoints)
	link, err = d.cfg.Handle.CreateDevice(kindKernel, rtnl.WireGuardDevice, mtu, nil)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = ErrNoKernel
	}
	return link, err == nil, err
}

// ErrNoKernel means that the kernel has no WireGuard.
var ErrNoKernel = model.Refuse(model.ErrNotSupported, "this host cannot encrypt: its kernel has no WireGuard (use a kernel with CONFIG_WIREGUARD and its module, "+
	"or start a WireGuard in user space for the device first: wireguard-go %s)", rtnl.WireGuardDevice)

// withClient opens a client for WireGuard's configuration. The kernel's family exists once its module is
// loaded, so no client is kept.
func (d *Device) withClient(fn func(*wgctrl.Client) error) error {
	var c *wgctrl.Client
	err := d.cfg.Handle.Do(func() (err error) {
		c, err = wgctrl.New()
		return err
	})
	if err != nil {
		return fmt.Errorf("open WireGuard's configuration: %w", err)
	}
	defer c.Close()
	return fn(c)
}

// configure makes the device as it should be.
func (d *Device) configure(c *wgctrl.Client, link *rtnl.Link, mtu int) error {
	have, err := c.Device(link.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return model.Refuse(model.ErrConflict, "device %s cannot be configured: no WireGuard serves it (if it is one in user space, restart that; else remove the device)", link.Name)
	}
	if err != nil {
		return fmt.Errorf("read device %s: %w", link.Name, err)
	}
	if err := d.ensureKey(); err != nil {
		return err
	}
	var want wgtypes.Config
	if have.PrivateKey != d.key {
		want.PrivateKey = &d.key
	}
	port := int(d.cfg.Port)
	if have.ListenPort != port {
		want.ListenPort = &port
	}
	if want.PrivateKey != nil || want.ListenPort != nil {
		if err := c.ConfigureDevice(link.Name, want); err != nil {
			return d.explainPort(fmt.Errorf("configure device %s: %w", link.Name, err), err)
		}
	}
	return d.bringUp(link, mtu)
}

func (d *Device) explainPort(wrapped, err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return model.Refuse(model.ErrConflict, "this host cannot encrypt: UDP port %d is in use (stop what uses it, or choose another with --wireguard-port)", d.cfg.Port)
	}
	return wrapped
}

// bringUp sets MTU, alias and address, and brings the device up, with its program: packets that arrive before are
// lost.
func (d *Device) bringUp(link *rtnl.Link, mtu int) error {
	nl := d.cfg.Handle
	var ch rtnl.LinkChange
	if alias := rtnl.WireGuardAlias; link.Alias != alias {
		ch.Alias = &alias
	}
	if link.MTU != mtu {
		ch.MTU = &mtu
	}
	if err := nl.SetLink(link.Index, ch); err != nil {
		return err
	}
	if !link.Up || ch.Alias != nil {
		if err := d.cfg.Attach(); err != nil {
			return fmt.Errorf("attach a program to device %s: %w", link.Name, err)
		}
	}
	if !link.Up {
		if err := nl.SetUp(link.Index); err != nil {
			return d.explainPort(err, err)
		}
	}
	if link.Conf.DisableIPv6 == 1 {
		if err := nl.SetSysctls(rtnl.Sysctl{Family: "ipv6", Device: link.Name, Key: "disable_ipv6", Value: "0"}); err != nil {
			return err
		}
	}
	addrs, err := nl.Addrs()
	if err != nil {
		return err
	}
	own := netip.PrefixFrom(model.PublicKey(d.key.PublicKey()).TunnelAddr(), model.TunnelPrefix.Bits())
	has := false
	for _, a := range addrs {
		switch {
		case a.IfIndex != link.Index || !model.TunnelPrefix.Contains(a.Prefix.Addr()):
		case a.Prefix == own:
			has = true
		default: // of a former key
			if err := nl.DeleteAddr(link.Index, a.Prefix); err != nil {
				return err
			}
		}
	}
	if has {
		return nil
	}
	return nl.AddAddr(link.Index, own)
}

// Sync makes these the device's peers. keep: others stay.
func (d *Device) Sync(peers []model.EncryptedPeer, keep bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.withClient(func(c *wgctrl.Client) error {
		have, err := c.Device(rtnl.WireGuardDevice)
		if err != nil {
			return fmt.Errorf("read device %s: %w", rtnl.WireGuardDevice, err)
		}
		changes, endpoints := d.changes(have.Peers, peers, keep)
		if len(changes) > 0 {
			if err := c.ConfigureDevice(rtnl.WireGuardDevice, wgtypes.Config{Peers: changes}); err != nil {
				return fmt.Errorf("set the peers of device %s: %w", rtnl.WireGuardDevice, err)
			}
		}
		d.endpoints = endpoints
		return nil
	})
}

// changes returns how the device's peers differ from those wanted, and the endpoints of these.
func (d *Device) changes(have []wgtypes.Peer, want []model.EncryptedPeer, keep bool) (changes []wgtypes.PeerConfig, endpoints map[model.PublicKey]netip.AddrPort) {
	byKey := make(map[model.PublicKey]*wgtypes.Peer, len(have))
	for i := range have {
		byKey[model.PublicKey(have[i].PublicKey)] = &have[i]
	}
	endpoints = make(map[model.PublicKey]netip.AddrPort, len(want))
	for _, p := range want {
		now, exists := byKey[p.Key]
		delete(byKey, p.Key)
		endpoints[p.Key] = p.Endpoint
		allowed := hostNet(p.Key.TunnelAddr())
		ch := wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.Key)}
		if !exists || len(now.AllowedIPs) != 1 || now.AllowedIPs[0].String() != allowed.String() {
			ch.ReplaceAllowedIPs, ch.AllowedIPs = true, []net.IPNet{allowed}
		}
		if set, known := d.endpoints[p.Key]; p.Endpoint.IsValid() && (!exists || known && set != p.Endpoint || !known && endpointOf(now) != p.Endpoint) {
			ch.Endpoint = net.UDPAddrFromAddrPort(p.Endpoint)
		}
		if ch.AllowedIPs != nil || ch.Endpoint != nil {
			changes = append(changes, ch)
		}
	}
	if !keep {
		for key := range byKey {
			changes = append(changes, wgtypes.PeerConfig{PublicKey: wgtypes.Key(key), Remove: true})
		}
	}
	slices.SortFunc(changes, func(a, b wgtypes.PeerConfig) int { return slices.Compare(a.PublicKey[:], b.PublicKey[:]) })
	return changes, endpoints
}

func endpointOf(p *wgtypes.Peer) netip.AddrPort {
	if p.Endpoint == nil {
		return netip.AddrPort{}
	}
	e := p.Endpoint.AddrPort()
	return netip.AddrPortFrom(e.Addr().Unmap(), e.Port())
}

// hostNet returns the prefix that contains only an address.
func hostNet(a netip.Addr) net.IPNet {
	return net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// Handshakes returns when there was a handshake with each peer, for those with which there was one.
func (d *Device) Handshakes() (model.Handshakes, error) {
	times := model.Handshakes{}
	err := d.withClient(func(c *wgctrl.Client) error {
		have, err := c.Device(rtnl.WireGuardDevice)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read device %s: %w", rtnl.WireGuardDevice, err)
		}
		for _, p := range have.Peers {
			if !p.LastHandshakeTime.IsZero() && p.LastHandshakeTime.After(time.Unix(0, 0)) {
				times[model.PublicKey(p.PublicKey)] = p.LastHandshakeTime
			}
		}
		return nil
	})
	return times, err
}

// Probe returns nil if this kernel has WireGuard. It tries that in a temporary network namespace.
func Probe() error {
	return rtnl.InNewNetNS(func() error {
		h, err := rtnl.New()
		if err != nil {
			return err
		}
		_, err = h.CreateDevice(kindKernel, rtnl.WireGuardDevice, model.DefaultMTU, nil)
		return errors.Join(err, h.Close())
	})
}

// Remove removes the kernel's device, if it exists. One of user space stays: its program could not create
// it again.
func (d *Device) Remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	link, err := d.cfg.Handle.LinkByName(rtnl.WireGuardDevice)
	if errors.Is(err, rtnl.ErrNoDevice) || err == nil && (link.Kind != kindKernel || !link.Ours()) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.cfg.Handle.DeleteLink(link.Index)
}
