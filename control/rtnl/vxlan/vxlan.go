// SPDX-License-Identifier: Apache-2.0

// Package vxlan maintains VXLAN devices that carry nothing. The kernel aggregates the packets of tunnels on arrival
// (GRO) only while a socket of its VXLAN driver has their port; the datapath then receives one large
// packet in place of many.
package vxlan

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// reservedVNI is the largest VNI, which no network has.
const reservedVNI = 1<<24 - 1

const kind = "vxlan"

// name returns the name of the device for tunnels over a family.
func name(f model.Family) string {
	if f == model.V4 {
		return "flvx4"
	}
	return "flvx6"
}

// Devices are the devices of this host, one for each family. They are in a network namespace of their own, in which nothing
// else is: anyone may send them frames, which must not reach a program of the host past its firewall, and programs that
// configure the host's devices do not find them. Their sockets are in the host's namespace. Methods must not be called
// concurrently.
type Devices struct {
	handle *rtnl.Handle
	port   uint16
	path   string
}

// New returns the devices for a UDP port, whose namespace is mounted at a path. It changes nothing in the kernel.
func New(handle *rtnl.Handle, port uint16, path string) *Devices {
	return &Devices{handle, port, path}
}

// Ensure makes sure that these families have a device, which is up, and no others. Where that fails, packets
// arrive one by one.
func (d *Devices) Ensure(wanted []model.Family) error {
	if len(wanted) > 0 {
		if err := rtnl.CreateNetNS(d.path); err != nil {
			return err
		}
	}
	ns, err := rtnl.OpenNetNS(d.path)
	switch {
	case err == nil:
		err = errors.Join(d.ensureIn(ns, wanted), ns.Close())
	case errors.Is(err, rtnl.ErrNoNetNS) && len(wanted) == 0:
		err = nil
	}
	if len(wanted) == 0 {
		err = errors.Join(err, rtnl.RemoveNetNS(d.path))
	}
	return err
}

func (d *Devices) ensureIn(ns *rtnl.NetNS, wanted []model.Family) error {
	var inside *rtnl.Handle
	err := ns.Do(func() (err error) {
		inside, err = rtnl.New()
		return err
	})
	if err != nil {
		return err
	}
	defer inside.Close()
	var errs []error
	for _, f := range model.Families {
		if slices.Contains(wanted, f) {
			errs = append(errs, d.ensure(ns, inside, f))
		} else {
			errs = append(errs, remove(inside, f))
		}
	}
	return errors.Join(errs...)
}

func (d *Devices) ensure(ns *rtnl.NetNS, inside *rtnl.Handle, f model.Family) error {
	link, err := inside.LinkByName(name(f))
	if errors.Is(err, rtnl.ErrNoDevice) {
		if err := d.create(ns, f); err != nil {
			return err
		}
		link, err = inside.LinkByName(name(f))
	}
	if err != nil || link.Up {
		return err
	}
	// Without an address of its own it sends nothing.
	if err := inside.SetSysctls(rtnl.Sysctl{Family: "ipv6", Device: link.Name, Key: "disable_ipv6", Value: "1"}); err != nil {
		return err
	}
	err = inside.SetUp(link.Index) // opens the socket
	if errors.Is(err, unix.EADDRINUSE) {
		err = model.Refuse(model.ErrConflict, "UDP port %d is in use by a VXLAN device of another kind (\"external\") or by a program", d.port)
	}
	if err != nil {
		return errors.Join(err, inside.DeleteLink(link.Index))
	}
	return nil
}

func (d *Devices) create(ns *rtnl.NetNS, f model.Family) error {
	data := nl.NewRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_VXLAN_ID, nl.Uint32Attr(reservedVNI))
	data.AddRtAttr(nl.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, d.port))
	data.AddRtAttr(nl.IFLA_VXLAN_LEARNING, []byte{0})
	if f == model.V6 {
		data.AddRtAttr(nl.IFLA_VXLAN_LOCAL6, make([]byte, 16)) // any address
	}
	err := d.handle.CreateDeviceIn(ns, kind, name(f), model.DefaultMTU, data)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return model.Refuse(model.ErrNotSupported, "this kernel has no VXLAN driver (CONFIG_VXLAN, module vxlan)")
	case errors.Is(err, rtnl.ErrExists): // the name is free there
		return model.Refuse(model.ErrConflict, "another VXLAN device has the VNI %d at UDP port %d (remove it)", reservedVNI, d.port)
	}
	return err
}

func remove(inside *rtnl.Handle, f model.Family) error {
	link, err := inside.LinkByName(name(f))
	if errors.Is(err, rtnl.ErrNoDevice) {
		return nil
	}
	if err != nil {
		return err
	}
	return inside.DeleteLink(link.Index)
}
