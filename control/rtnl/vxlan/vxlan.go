// SPDX-License-Identifier: Apache-2.0

// Package vxlan maintains VXLAN devices that carry nothing. The kernel aggregates the packets of tunnels on arrival
// (GRO) only while a socket of its VXLAN driver has their port; the datapath then receives one large
// packet in place of many.
package vxlan

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// reservedVNI is the largest VNI, which no network has.
const reservedVNI = 1<<24 - 1

const kind = "vxlan"

// Name returns the name of the device for tunnels over a family.
func Name(f model.Family) string { return rtnl.AggregatingPrefix + digit(f) }

func digit(f model.Family) string {
	if f == model.V4 {
		return "4"
	}
	return "6"
}

// Devices are the devices of this host, one for each family. Its methods must not be called concurrently.
type Devices struct {
	handle *rtnl.Handle
	port   uint16
}

// New returns the devices for a UDP port. It changes nothing in the kernel.
func New(handle *rtnl.Handle, port uint16) *Devices { return &Devices{handle, port} }

// Ensure makes sure that these families have a device, which is up, and no others. Where that fails, packets
// arrive one by one.
func (d *Devices) Ensure(wanted []model.Family) error {
	has := map[model.Family]bool{}
	for _, f := range wanted {
		has[f] = true
	}
	var errs []error
	for _, f := range model.Families {
		if has[f] {
			errs = append(errs, d.ensure(f))
		} else {
			errs = append(errs, d.remove(f))
		}
	}
	return errors.Join(errs...)
}

func (d *Devices) ensure(f model.Family) error {
	name := Name(f)
	link, err := d.handle.LinkByName(name)
	switch {
	case errors.Is(err, rtnl.ErrNoDevice):
		if link, err = d.create(f, name); err != nil {
			return err
		}
	case err != nil:
		return err
	case link.Kind != kind || !link.Ours():
		return model.Refuse(model.ErrConflict, "device %s exists and is not Fairlead's (remove or rename it)", name)
	}
	if link.Up {
		return nil
	}
	if want := alias(f); link.Alias != want {
		if err := d.handle.SetAlias(link.Index, want); err != nil {
			return err
		}
	}
	// Without an address of its own it sends nothing.
	if err := d.handle.SetSysctls(rtnl.Sysctl{Family: "ipv6", Device: name, Key: "disable_ipv6", Value: "1"}); err != nil {
		return err
	}
	err = d.handle.SetUp(link.Index) // opens the socket
	if errors.Is(err, unix.EADDRINUSE) {
		err = model.Refuse(model.ErrConflict, "UDP port %d is in use by a VXLAN device of another kind (\"external\") or by a program", d.port)
	}
	if err != nil {
		return errors.Join(err, d.handle.DeleteLink(link.Index))
	}
	return nil
}

func (d *Devices) create(f model.Family, name string) (rtnl.Link, error) {
	data := nl.NewRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_VXLAN_ID, nl.Uint32Attr(reservedVNI))
	data.AddRtAttr(nl.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, d.port))
	data.AddRtAttr(nl.IFLA_VXLAN_LEARNING, []byte{0})
	if f == model.V6 {
		data.AddRtAttr(nl.IFLA_VXLAN_LOCAL6, make([]byte, 16)) // any address
	}
	link, err := d.handle.CreateDevice(kind, name, model.DefaultMTU, data)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = model.Refuse(model.ErrNotSupported, "this kernel has no VXLAN driver (CONFIG_VXLAN, module vxlan)")
	}
	if err != nil {
		return link, fmt.Errorf("make device %s: %w", name, err)
	}
	return link, nil
}

func alias(f model.Family) string { return rtnl.AliasPrefix + "aggregating:" + digit(f) }

func (d *Devices) remove(f model.Family) error {
	link, err := d.handle.LinkByName(Name(f))
	if errors.Is(err, rtnl.ErrNoDevice) || err == nil && (link.Kind != kind || !link.Ours()) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.handle.DeleteLink(link.Index)
}
