// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/test/lab"
)

const (
	vxlanPort     = 4789
	wireguardPort = 61820
	secretVNI     = 4242
)

// startEncrypted starts WireGuard in user space and the daemons on both hosts.
func (p *pair) startEncrypted() *pair {
	p.Helper()
	for _, l := range []*lab.Lab{p.a, p.b} {
		l.UserSpaceWireGuard()
	}
	return p.start()
}

// capture counts the datagrams to a UDP port that pass a device, by port, until the function that it returns
// is called.
func (p *pair) capture(device string) (stop func() map[uint16]int) {
	p.Helper()
	fd := -1
	err := p.router.Do(func() error {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index})
	})
	if err != nil {
		p.Fatal(err)
	}
	counts, done := map[uint16]int{}, make(chan struct{})
	var end sync.WaitGroup
	end.Go(func() {
		defer unix.Close(fd)
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
		b := make([]byte, 65536)
		for {
			n, _, err := unix.Recvfrom(fd, b, 0)
			switch {
			case err == nil && n > 28 && b[0] == 0x45 && b[9] == unix.IPPROTO_UDP:
				counts[binary.BigEndian.Uint16(b[22:])]++
			case err == nil && n > 48 && b[0]>>4 == 6 && b[6] == unix.IPPROTO_UDP:
				counts[binary.BigEndian.Uint16(b[42:])]++
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	return func() map[uint16]int {
		close(done)
		end.Wait()
		return counts
	}
}

// clearText returns a datagram's contents as a node would send them without encryption: a frame between two
// sandboxes.
func clearText(from, to *lab.Sandbox, vni uint32) []byte {
	mac := func(s *lab.Sandbox) net.HardwareAddr {
		m, err := net.ParseMAC(s.MAC)
		if err != nil {
			panic(err)
		}
		return m
	}
	b := []byte{8, 0, 0, 0}
	b = binary.BigEndian.AppendUint32(b, vni<<8)
	ip := slices.Concat([]byte{0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0}, from.IP4.AsSlice(), to.IP4.AsSlice())
	return slices.Concat(b, mac(to), mac(from), []byte{8, 0}, ip, []byte{0x1b, 0x58, 0x1b, 0x58, 0, 8, 0, 0})
}

// TestEncryptedNetwork sends between two hosts by an encrypted network and by one that is not: nothing of the
// first is on the wire in clear text, and what arrives for it in clear text is dropped.
func TestEncryptedNetwork(t *testing.T) {
	p := newPair(t).startEncrypted()
	a, b := p.a, p.b
	a.Fairlead("network", "create", "-d", "overlay", "--ipv6", "-o", "encrypted",
		"-o", fmt.Sprint("com.docker.network.driver.overlay.vxlanid_list=", secretVNI), "secret")
	has(b, "secret")
	one, two := a.Sandbox("one", "--network", "secret"), b.Sandbox("two", "--network", "secret")
	stop := p.capture("eth1")
	for _, f := range lab.Families() {
		a.Ping(one.Host, two.IP(f))
		b.Ping(two.Host, one.IP(f))
		b.Echo(two.Host, 7000+int(f))
		for _, proto := range []string{"tcp", "udp"} {
			if err := a.Reach(5*time.Second, one.Host, proto, two.IP(f), 7000+int(f)); err != nil {
				t.Error(err)
			}
		}
		a.Ping(a.Host, two.IP(f)) // the hosts themselves are members
	}
	wire := stop()
	t.Logf("datagrams on the wire by port: %v", wire)
	if wire[vxlanPort] != 0 || wire[wireguardPort] < 20 {
		t.Errorf("%d datagrams in clear text and %d encrypted ones on the wire", wire[vxlanPort], wire[wireguardPort])
	}
	b.Dropped("clear_text", 3, func() {
		c, err := a.Host.Dial(net.Dialer{}, "udp", net.JoinHostPort(addressB, fmt.Sprint(vxlanPort)))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 3 {
			if _, err := c.Write(clearText(one, two, secretVNI)); err != nil {
				t.Fatal(err)
			}
		}
	})
}
