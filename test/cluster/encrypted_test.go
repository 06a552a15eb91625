// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/lab"
)

const (
	vxlanPort     = 4789
	wireguardPort = 61820
	secretVNI     = 4242
)

// startEncrypted starts WireGuard in user space and the daemons on both hosts.
func (p *pair) startEncrypted(more ...string) *pair {
	p.Helper()
	for _, l := range []*lab.Lab{p.a, p.b} {
		l.UserSpaceWireGuard()
	}
	return p.start(more...)
}

// wire counts the datagrams that pass a device: those of VXLAN by their VNI, and those of WireGuard. Segments may
// be in one piece.
type wire struct {
	clear     map[uint32]int
	encrypted int
}

// note counts a packet if it is a datagram.
func (w *wire) note(packet []byte) {
	var udp []byte
	switch {
	case len(packet) > 28 && packet[0] == 0x45 && packet[9] == unix.IPPROTO_UDP:
		udp = packet[20:]
	case len(packet) > 48 && packet[0]>>4 == 6 && packet[6] == unix.IPPROTO_UDP:
		udp = packet[40:]
	default:
		return
	}
	switch port := binary.BigEndian.Uint16(udp[2:]); {
	case port == wireguardPort:
		w.encrypted++
	case port == vxlanPort && len(udp) >= 16:
		w.clear[binary.BigEndian.Uint32(udp[12:])>>8]++
	}
}

// capture captures what passes a device of the router, until the function that it returns is called.
func (p *pair) capture(device string) (stop func() wire) {
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
	w, done := wire{clear: map[uint32]int{}}, make(chan struct{})
	var end sync.WaitGroup
	end.Go(func() {
		defer unix.Close(fd)
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
		b := make([]byte, 65536)
		for {
			if n, _, err := unix.Recvfrom(fd, b, 0); err == nil {
				w.note(b[:n])
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	return func() wire {
		close(done)
		end.Wait()
		return w
	}
}

// peers returns the public keys of the peers of a host's device.
func (p *pair) peers(l *lab.Lab) (keys []string) {
	p.Helper()
	err := l.Host.Do(func() error {
		c, err := wgctrl.New()
		if err != nil {
			return err
		}
		defer c.Close()
		dev, err := c.Device("flwg0")
		if err != nil {
			return err
		}
		for _, peer := range dev.Peers {
			keys = append(keys, peer.PublicKey.String())
		}
		return nil
	})
	if err != nil {
		p.Fatal(err)
	}
	return keys
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

// TestEncryptedNetwork sends between two hosts by an encrypted and by a plain network, over both families:
// nothing of the first is on the wire in clear text, and what arrives for it in clear text is dropped.
func TestEncryptedNetwork(t *testing.T) {
	for _, under := range []struct {
		family lab.Family
		to     string // of the second host
		mtu    int
	}{
		{lab.IPv4, addressB, 1500 - 60 - 70},
		{lab.IPv6, lab.RoutedB6, 1500 - 80 - 70},
	} {
		t.Run("over IPv"+under.family.String(), func(t *testing.T) {
			p := newPairOver(t, under.family).startEncrypted()
			a, b := p.a, p.b
			a.Fairlead("network", "create", "-d", "overlay", "--ipv6", "-o", "encrypted",
				"-o", fmt.Sprint("com.docker.network.driver.overlay.vxlanid_list=", secretVNI), "secret")
			a.Fairlead("network", "create", "-d", "overlay", "--ipv6", "open")
			has(b, "secret")
			has(b, "open")
			if n := b.Network("secret"); !n.Encrypted || n.MTU != under.mtu || b.Network("open").Encrypted {
				t.Errorf("inspect shows %+v", n)
			}
			one, two := a.Sandbox("one", "--network", "secret"), b.Sandbox("two", "--network", "secret")
			three, four := a.Sandbox("three", "--network", "open"), b.Sandbox("four", "--network", "open")
			if w := p.reach(one, two, under.mtu); w.clear[secretVNI] != 0 || w.encrypted < 2000 {
				t.Errorf("datagrams on the wire: %+v", w)
			}
			open := b.Network("open")
			if w := p.reach(three, four, open.MTU); w.clear[open.VNI] < 100 || w.clear[secretVNI] != 0 || w.encrypted > 200 { // probes of the path
				t.Errorf("datagrams of the other network on the wire: %+v", w)
			}
			for _, f := range lab.Families() {
				a.PingSoon(a.Host, two.IP(f)) // the hosts themselves are members
				a.NoPing(one.Host, four.IP(f))
			}
			b.Dropped("clear_text", 3, func() {
				c, err := a.Host.Dial(net.Dialer{}, "udp", net.JoinHostPort(under.to, fmt.Sprint(vxlanPort)))
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
			a.Eventually(20*time.Second, func() error {
				if got := a.Fairlead("node", "inspect", "--format", "{{range .Paths}}{{.Encrypted}} {{.State}} {{end}}", "b"); strings.TrimSpace(got) != "false works true works" {
					return fmt.Errorf("the paths to the other host are %q", got)
				}
				return nil
			})
			// Whatever else comes by the device, such as packets to the host itself.
			key := new(model.PublicKey)
			if err := key.UnmarshalText([]byte(a.Fairlead("node", "inspect", "--format", "{{.PublicKey}}", "b"))); err != nil {
				t.Fatal(err)
			}
			b.Dropped("not_tunnel", 2, func() { a.NoPing(a.Host, key.TunnelAddr().String()) })
		})
	}
}

// reach sends everything between a sandbox on each host: packets of all sizes up to the MTU, streams both ways, a
// broadcast. It returns the datagrams on the wire.
func (p *pair) reach(one, two *lab.Sandbox, mtu int) wire {
	p.Helper()
	a, b := p.a, p.b
	stop := p.capture("eth1")
	for _, f := range lab.Families() {
		a.PingSoon(one.Host, two.IP(f))
		b.PingSoon(two.Host, one.IP(f))
		a.Ping(one.Host, two.IP(f), "-M", "do", "-s", fmt.Sprint(mtu-map[lab.Family]int{lab.IPv4: 28, lab.IPv6: 48}[f]))
		a.Ping(one.Host, two.IP(f), "-s", "8000")
		b.Echo(two.Host, 7000+int(f))
		for _, proto := range []string{"tcp", "udp"} {
			if err := a.Reach(5*time.Second, one.Host, proto, two.IP(f), 7000+int(f)); err != nil {
				p.Error(err)
			}
		}
		p.transfer(one, two, two.IP(f))
		p.transfer(two, one, one.IP(f))
	}
	return stop()
}

// transfer sends two megabytes, which have to arrive as they are.
func (p *pair) transfer(from, to *lab.Sandbox, address string) {
	p.Helper()
	content := make([]byte, 2<<20)
	_, _ = rand.Read(content)
	l, err := to.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		p.Fatal(err)
	}
	defer l.Close()
	received := make(chan []byte, 1)
	go func() {
		var all []byte
		if c, err := l.Accept(); err == nil {
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			all, _ = io.ReadAll(c)
			c.Close()
		}
		received <- all
	}()
	c, err := from.Dial(net.Dialer{Timeout: 5 * time.Second}, "tcp", l.Addr().String())
	if err != nil {
		p.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_, err = c.Write(content)
	if err := errors.Join(err, c.Close()); err != nil {
		p.Fatal(err)
	}
	if got := <-received; !bytes.Equal(got, content) {
		p.Errorf("from %s to %s: %d bytes arrived, or others", from.Name, address, len(got))
	}
}

// TestNoWireGuard creates an encrypted network on a host whose kernel has WireGuard in no form: it is refused in one
// line, and so is a sandbox in one of another host. Nothing is left, and other networks work.
func TestNoWireGuard(t *testing.T) {
	p := newPair(t)
	p.a.UserSpaceWireGuard()
	p.start()
	a, b := p.a, p.b
	if r := b.Run(b.Host, "ip", "link", "add", "probe", "type", "wireguard"); r.Code == 0 {
		t.Skip("this kernel has WireGuard")
	}
	b.Refused(1, []string{"CONFIG_WIREGUARD", "wireguard-go flwg0"}, "network", "create", "-d", "overlay", "-o", "encrypted", "secret")
	if got := b.Fairlead("network", "ls", "-q", "--filter", "driver=overlay"); got != "" {
		t.Errorf("the refusal left network %s", got)
	}
	b.Refused(1, []string{"driver overlay"}, "network", "create", "-o", "encrypted", "local")
	b.Refused(1, []string{"true or false"}, "network", "create", "-d", "overlay", "-o", "encrypted=perhaps", "secret")
	a.Fairlead("network", "create", "-d", "overlay", "-o", "encrypted=true", "secret")
	a.Fairlead("network", "create", "-d", "overlay", "open")
	has(b, "secret")
	has(b, "open")
	a.Sandbox("one", "--network", "secret")
	b.Eventually(5*time.Second, func() error {
		if status := b.Fairlead("status"); !strings.Contains(status, "CONFIG_WIREGUARD") {
			return fmt.Errorf("status does not say that the host cannot encrypt:\n%s", status)
		}
		return nil
	})
	b.Refused(1, []string{"CONFIG_WIREGUARD"}, "sandbox", "create", "--network", "secret", "two")
	if got := b.Fairlead("ps", "-aq"); got != "" {
		t.Errorf("the refusal left sandbox %s", got)
	}
	if holders := a.Fairlead("ipam", "ls", "--format", "{{.Node}}", "secret"); holders != "a\na" {
		t.Errorf("addresses are held by %q", holders)
	}
	three, four := a.Sandbox("three", "--network", "open"), b.Sandbox("four", "--network", "open")
	a.PingSoon(three.Host, four.IP4.String())
	if report := b.Run(b.Host, b.Binary, "doctor"); !strings.Contains(report.Stdout, "CONFIG_WIREGUARD") {
		t.Errorf("doctor does not say that WireGuard is missing:\n%s", report.Stdout)
	}
}

// TestEncryptionGoesOn disturbs an encrypted network: the daemon is killed, a key is lost, a host is removed.
func TestEncryptionGoesOn(t *testing.T) {
	p := newPair(t)
	p.b.Sysctl(p.b.Host, "ipv6/conf/all/disable_ipv6", "1") // but not on the device that encrypts
	p.startEncrypted()
	a, b := p.a, p.b
	a.Fairlead("network", "create", "-d", "overlay", "-o", "encrypted", "secret")
	has(b, "secret")
	one, two := a.Sandbox("one", "--network", "secret"), b.Sandbox("two", "--network", "secret")
	a.Echo(one.Host, 7000)
	a.Greet(one.Host, "one", 7001)
	a.PingSoon(one.Host, two.IP4.String())
	// WireGuard in user space loses packets of a load when it has to wait for a processor; so these are few.
	load := b.Spawn(two.Host, "ping", "-n", "-i", "0.05", "-O", one.IP4.String())
	long, err := lab.Greeting(two.Host, one.IP4.String(), 7001)
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	device := func() string { return strings.Fields(b.Must(b.Host, "ip", "-o", "link", "show", "dev", "flwg0"))[0] }
	before := device()
	b.KillDaemon()
	a.Ping(one.Host, two.IP4.String())
	b.StartDaemon()
	time.Sleep(3 * time.Second) // the daemon checks everything
	if after := device(); after != before {
		t.Errorf("the device was %s, and is %s", before, after)
	}
	if err := long.Works(); err != nil {
		t.Errorf("a connection: %v", err)
	}
	load.Kill()
	if lost := strings.Count(load.Output(), "no answer yet"); lost > 5 || !strings.Contains(load.Output(), "icmp_seq=60 ") {
		t.Errorf("%d pings had no answer in time:\n%s", lost, load.Output())
	}
	key := func(l *lab.Lab, node string) string {
		return l.Fairlead("node", "inspect", "--format", "{{.PublicKey}}", node)
	}
	if shaken := a.Fairlead("node", "inspect", "--format", "{{.LastHandshake}}", "b"); !strings.HasPrefix(shaken, "20") {
		t.Errorf("node inspect shows handshake %q", shaken)
	}
	// What other programs change is repaired.
	b.IP(b.Host, "addr flush dev flwg0", "link set flwg0 down")
	b.Eventually(5*time.Second, func() error { return a.Reach(time.Second, two.Host, "tcp", one.IP4.String(), 7000) })
	former := key(a, "b")
	secret := filepath.Join(b.Dir("state"), "wireguard.key")
	private, err := os.ReadFile(secret)
	if err != nil {
		t.Fatal(err)
	}
	// The key is lost: another one, which the other host accepts.
	b.KillDaemon()
	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	b.StartDaemon()
	a.Eventually(10*time.Second, func() error {
		if now := key(a, "b"); now == former || now == "" {
			return fmt.Errorf("the key of b is %q", now)
		}
		return a.Reach(time.Second, two.Host, "tcp", one.IP4.String(), 7000)
	})
	a.Ping(one.Host, two.IP4.String())
	for _, l := range []*lab.Lab{a, b} {
		if strings.Contains(l.Daemon.Output(), strings.TrimSpace(string(private))) {
			t.Error("the log has a private key")
		}
	}
	// A host that is removed is not a peer any more.
	gone := key(a, "b")
	b.KillDaemon()
	a.Fairlead("node", "rm", "--force", "b")
	a.Eventually(5*time.Second, func() error {
		if peers := p.peers(a); slices.Contains(peers, gone) {
			return fmt.Errorf("the peers of a are %v", peers)
		}
		return nil
	})
	a.NoPing(one.Host, two.IP4.String())
}
