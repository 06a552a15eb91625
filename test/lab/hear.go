// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"net"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/world"
)

// Hear counts the frames with a text that leave through a device, also inside of tunnels, until the test
// ends. The result is read with Load.
func Hear(tb testing.TB, h *world.Host, device, text string) *atomic.Int64 {
	tb.Helper()
	const all = 0x0300 // ETH_P_ALL, NBO
	fd := -1
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	must(h.Do(func() error {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index})
	}))
	must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}))
	var count atomic.Int64
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 2048); !stop.Load(); {
			n, from, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				continue
			}
			if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING && bytes.Contains(buf[:n], []byte(text)) {
				count.Add(1)
			}
		}
	}()
	tb.Cleanup(func() {
		stop.Store(true)
		<-done
		unix.Close(fd)
	})
	return &count
}

// Join returns a socket on a sandbox's eth0 that listens to a group.
func Join(tb testing.TB, h *world.Host, group net.UDPAddr) *net.UDPConn {
	tb.Helper()
	var c *net.UDPConn
	err := h.Do(func() error {
		dev, err := net.InterfaceByName("eth0")
		if err == nil {
			c, err = net.ListenMulticastUDP("udp", dev, &group)
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}
