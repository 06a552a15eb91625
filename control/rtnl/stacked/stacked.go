// SPDX-License-Identifier: Apache-2.0

// Package stacked creates devices on top of another one: macvlan and ipvlan devices, which send and receive by their
// parent without a program of Fairlead, and VLAN devices, which are such parents.
package stacked

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// Device specifies a macvlan or ipvlan device.
type Device struct {
	Kind   string    // as the kernel names it, and the driver of the network
	Name   string    // of the device
	Parent uint32    // on the host
	MAC    model.MAC // zero: the kernel chooses
	MTU    int       // 0: that of the parent
	Mode   string
	Flag   string // of ipvlan
}

var macvlanModes = map[string]netlink.MacvlanMode{
	model.ModeBridge: netlink.MACVLAN_MODE_BRIDGE, model.ModePrivate: netlink.MACVLAN_MODE_PRIVATE,
	model.ModeVEPA: netlink.MACVLAN_MODE_VEPA, model.ModePassthru: netlink.MACVLAN_MODE_PASSTHRU,
}

var ipvlanModes = map[string]netlink.IPVlanMode{
	model.ModeL2: netlink.IPVLAN_MODE_L2, model.ModeL3: netlink.IPVLAN_MODE_L3, model.ModeL3S: netlink.IPVLAN_MODE_L3S,
}

var ipvlanFlags = map[string]netlink.IPVlanFlag{
	model.ModeBridge: netlink.IPVLAN_FLAG_BRIDGE, model.ModePrivate: netlink.IPVLAN_FLAG_PRIVATE, model.ModeVEPA: netlink.IPVLAN_FLAG_VEPA,
}

// deviceKind says what a kind of device needs.
type deviceKind struct {
	option string // of the kernel's configuration, and the module
	// link returns what the netlink library calls a device, and differs reports whether two of them have different modes,
	// or false if the first is of another kind by now. Both are nil if endpoints have no such devices.
	link    func(netlink.LinkAttrs, *Device) netlink.Link
	differs func(have, want netlink.Link) bool
}

// kinds holds a row per kind, under the kernel's name.
var kinds = map[string]deviceKind{
	model.DriverMacvlan: {
		option: "CONFIG_MACVLAN, module macvlan",
		link: func(attrs netlink.LinkAttrs, d *Device) netlink.Link {
			return &netlink.Macvlan{LinkAttrs: attrs, Mode: macvlanModes[d.Mode]}
		},
		differs: func(have, want netlink.Link) bool {
			h, ok := have.(*netlink.Macvlan)
			return ok && h.Mode != want.(*netlink.Macvlan).Mode
		},
	},
	model.DriverIPvlan: {
		option: "CONFIG_IPVLAN, module ipvlan",
		link: func(attrs netlink.LinkAttrs, d *Device) netlink.Link {
			return &netlink.IPVlan{LinkAttrs: attrs, Mode: ipvlanModes[d.Mode], Flag: ipvlanFlags[d.Flag]}
		},
		differs: func(have, want netlink.Link) bool {
			w := want.(*netlink.IPVlan)
			h, ok := have.(*netlink.IPVlan)
			return ok && (h.Mode != w.Mode || h.Flag != w.Flag)
		},
	},
	"vlan": {option: "CONFIG_VLAN_8021Q, module 8021q"},
}

// link returns what the netlink library calls the device.
func (d *Device) link() netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.MTU, attrs.Group = d.Name, int(d.Parent), d.MTU, rtnl.DeviceGroup
	if !d.MAC.IsZero() {
		attrs.HardwareAddr = d.MAC[:]
	}
	return kinds[d.Kind].link(attrs, d)
}

// Create creates the device, down and marked as Fairlead's by its group, in a namespace, or on the host if that is nil. It
// returns ErrExists if the name is taken.
func Create(h *rtnl.Handle, ns *rtnl.NetNS, d Device) error {
	link := d.link()
	if ns != nil {
		link.Attrs().Namespace = netlink.NsFd(ns.FD())
	}
	err := h.TC().LinkAdd(link)
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EINVAL):
		return model.Refuse(model.ErrConflict, "the parent device cannot have this %s device: it has others of another kind or mode, or is the port of a bridge or bond (choose another parent)", d.Kind)
	case err == nil:
		return nil
	}
	return createError(d.Kind, d.Name, err)
}

func createError(kind, name string, err error) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return Missing(kind)
	case errors.Is(err, unix.EEXIST):
		err = rtnl.ErrExists
	}
	return fmt.Errorf("create %s device %q: %w", kind, name, err)
}

// Missing refuses a kind of device that this kernel does not have.
func Missing(kind string) error {
	return model.Refuse(model.ErrNotSupported, "this kernel has no %s devices (%s)", kind, kinds[kind].option)
}

// Probe reports whether this kernel has a kind of device, and creates none: a parent that does not exist is refused,
// but an unknown kind for another reason.
func Probe(h *rtnl.Handle, kind string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "flprobe", math.MaxInt32
	if err := h.TC().LinkAdd(&netlink.GenericLink{LinkAttrs: attrs, LinkType: kind}); errors.Is(err, unix.EOPNOTSUPP) {
		return Missing(kind)
	}
	return nil
}

// VLANAlias returns the alias of a VLAN device that Fairlead created.
func VLANAlias(name string) string { return rtnl.AliasPrefix + "vlan:" + name }

// CreateVLAN creates a VLAN device on the host. Until it has its alias, which marks it as Fairlead's, it has another name,
// by which it is recognised too.
func CreateVLAN(h *rtnl.Handle, unfinished, name string, parent uint32, vlan int) (rtnl.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Group = unfinished, int(parent), rtnl.DeviceGroup
	if err := h.TC().LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: vlan, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return rtnl.Link{}, model.Refuse(model.ErrConflict, "VLAN %d of the parent device exists already under another name than %s (use that, or remove it)", vlan, name)
		}
		return rtnl.Link{}, createError("vlan", name, err)
	}
	l, err := h.LinkByName(unfinished)
	if err != nil {
		return l, err
	}
	if err := h.SetAlias(l.Index, VLANAlias(name)); err != nil {
		return l, err
	}
	if err := h.TC().LinkSetName(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(l.Index)}}, name); err != nil {
		return l, fmt.Errorf("name device %q: %w", name, err)
	}
	return h.Link(l.Index)
}

// Find looks for a device of a kind in a sandbox, by its alias or, if it is not finished, by its name.
func Find(ns *rtnl.NetNS, kind, alias, name string) (found rtnl.Link, ok bool, err error) {
	err = inside(ns, func(c *rtnl.Conn) error {
		links, err := c.Links()
		for _, l := range links {
			if l.Kind == kind && (l.Alias == alias || l.Alias == "" && l.Name == name && l.Group == rtnl.DeviceGroup) {
				found, ok = l, true
			}
		}
		return err
	})
	return found, ok, err
}

func inside(ns *rtnl.NetNS, fn func(*rtnl.Conn) error) error {
	return ns.Do(func() error {
		c, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		return fn(c)
	})
}

// Delete deletes a device of a sandbox. A missing one is not an error.
func Delete(ns *rtnl.NetNS, index uint32) error {
	return ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open rtnetlink socket: %w", err)
		}
		defer h.Close()
		return Remove(h, index)
	})
}

// Remove deletes a device in the namespace of a handle. A missing one is not an error.
func Remove(h *netlink.Handle, index uint32) error {
	err := h.LinkDel(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(index)}})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete device %d: %w", index, err)
	}
	return nil
}

// DefaultRoute sets a default route without a gateway, in the namespace of a handle. unspecified is of the route's family.
func DefaultRoute(h *netlink.Handle, unspecified netip.Addr, device uint32) error {
	r := &netlink.Route{
		LinkIndex: int(device), Protocol: rtnl.RouteProtocol, Scope: netlink.SCOPE_LINK, Family: rtnl.Family(unspecified),
		Dst: &net.IPNet{IP: unspecified.AsSlice(), Mask: net.CIDRMask(0, unspecified.BitLen())},
	}
	if err := h.RouteReplace(r); err != nil {
		return fmt.Errorf("set default route by device %d: %w", device, err)
	}
	return nil
}

// SetRoutes makes the routes of Fairlead by a device exactly those to these addresses, from the source of their family. It
// returns how many it changed.
func SetRoutes(h *netlink.Handle, device uint32, to []netip.Addr, source4, source6 netip.Addr) (changed int, err error) {
	for _, source := range []netip.Addr{source4, source6} {
		if !source.IsValid() {
			continue
		}
		fam := rtnl.Family(source)
		wanted := make(map[netip.Addr]bool)
		for _, a := range to {
			wanted[a] = rtnl.Family(a) == fam
		}
		have, err := h.RouteListFiltered(fam, &netlink.Route{LinkIndex: int(device), Protocol: rtnl.RouteProtocol}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return changed, fmt.Errorf("list the routes by device %d: %w", device, err)
		}
		for _, r := range have {
			if r.Dst != nil {
				ones, bits := r.Dst.Mask.Size()
				a, _ := netip.AddrFromSlice(r.Dst.IP)
				if src, _ := netip.AddrFromSlice(r.Src); ones == bits && wanted[a.Unmap()] && src.Unmap() == source {
					delete(wanted, a.Unmap())
					continue
				}
			}
			changed++
			if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return changed, fmt.Errorf("remove the route to %v: %w", r.Dst, err)
			}
		}
		for a, want := range wanted {
			if !want {
				continue
			}
			changed++
			r := &netlink.Route{
				LinkIndex: int(device), Protocol: rtnl.RouteProtocol, Scope: netlink.SCOPE_LINK, Family: fam, Src: source.AsSlice(),
				Dst: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())},
			}
			if err := h.RouteReplace(r); err != nil {
				return changed, fmt.Errorf("set the route to %v: %w", a, err)
			}
		}
	}
	return changed, nil
}

// Leftover reports whether a device in a sandbox is one of Fairlead's on top of another.
func Leftover(l rtnl.Link) bool {
	return kinds[l.Kind].link != nil &&
		(strings.HasPrefix(l.Alias, rtnl.AliasPrefix) || l.Alias == "" && l.Group == rtnl.DeviceGroup)
}

// Restore sets the mode of a device in the namespace of a handle, if somebody changed it.
func (d *Device) Restore(h *netlink.Handle, l rtnl.Link) (changed bool, err error) {
	have, err := h.LinkByIndex(int(l.Index))
	if err != nil {
		return false, fmt.Errorf("look up device %q: %w", l.Name, err)
	}
	now := Device{Kind: d.Kind, Name: l.Name, Mode: d.Mode, Flag: d.Flag}
	want := now.link()
	if !kinds[d.Kind].differs(have, want) {
		return false, nil
	}
	want.Attrs().Index = int(l.Index)
	if err := h.LinkModify(want); err != nil {
		return true, fmt.Errorf("restore the mode of device %q: %w", l.Name, err)
	}
	return true, nil
}
