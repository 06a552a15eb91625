// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl"
)

// broadcast opens a packet socket at a device, which needs no address. What it sends comes from an address, or from 0.0.0.0.
func broadcast(ns *rtnl.NetNS, link rtnl.Link, from netip.Addr) (conn net.PacketConn, err error) {
	filter, err := bpf.Assemble(toClients)
	if err != nil {
		return nil, fmt.Errorf("assemble a filter: %w", err)
	}
	err = ns.Do(func() error {
		at := &net.Interface{Index: int(link.Index), Name: link.Name, MTU: link.MTU, HardwareAddr: link.MAC[:]}
		raw, err := packet.Listen(at, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: filter})
		if err != nil {
			return fmt.Errorf("open a packet socket at device %s: %w", link.Name, err)
		}
		bound := &net.UDPAddr{Port: nclient4.ClientPort}
		if from.IsValid() {
			bound.IP = from.AsSlice()
		}
		conn = nclient4.NewBroadcastUDPConn(raw, bound)
		return nil
	})
	return conn, err
}

// toClients passes UDP packets to the port of DHCP clients, from the IPv4 header on: the sandbox may receive a lot else.
var toClients = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 9, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 4},
	bpf.LoadMemShift{Off: 0},
	bpf.LoadIndirect{Off: 2, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nclient4.ClientPort, SkipTrue: 1},
	bpf.RetConstant{Val: 1 << 16},
	bpf.RetConstant{Val: 0},
}

// unicast opens a UDP socket at a device's own address.
func unicast(ctx context.Context, ns *rtnl.NetNS, link rtnl.Link, from netip.Addr) (conn net.PacketConn, err error) {
	listen := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) {
			set = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, link.Name))
		})
		return errors.Join(err, set)
	}}
	err = ns.Do(func() error {
		conn, err = listen.ListenPacket(ctx, "udp4", net.JoinHostPort(from.String(), strconv.Itoa(nclient4.ClientPort)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a DHCP client's socket in the sandbox: %w", err)
	}
	return conn, nil
}
