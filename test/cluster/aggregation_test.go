// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// tunnels is where a daemon has the network namespace of the devices that make the kernel aggregate.
func tunnels(l *lab.Lab) string { return filepath.Join(filepath.Dir(l.Socket()), "tunnels") }

// aggregating waits until a host has this device, and no other, that makes the kernel aggregate tunnels. It returns its index.
func aggregating(l *lab.Lab, device string) (index string) {
	l.Helper()
	l.Eventually(15*time.Second, func() error {
		r, err := l.Host.Run(l.Context(), "sh", "-c", "! [ -e $0 ] || nsenter --net=$0 ip -o link show type vxlan up | cut -d@ -f1", tunnels(l))
		var name string
		index, name, _ = strings.Cut(strings.TrimSpace(r.Output()), ": ")
		if err != nil || name != device {
			return fmt.Errorf("the devices that aggregate are %q, want %q: %v", r.Output(), device, err)
		}
		return nil
	})
	return index
}

// portFree waits until the port of tunnels has no socket.
func portFree(l *lab.Lab) {
	l.Helper()
	l.Eventually(5*time.Second, func() error {
		c, err := l.Host.ListenPacket("udp", ":4789")
		if err == nil {
			c.Close()
		}
		return err
	})
}

// TestAggregationEndures attacks the devices that make the kernel aggregate tunnels, while members of two hosts use
// the network.
func TestAggregationEndures(t *testing.T) {
	p := newPairOver(t, lab.IPv4).start()
	a, b := p.a, p.b
	a.Fairlead("network", "create", "-d", "overlay", "web")
	has(b, "web")
	one, two := a.Sandbox("one", "--network", "web"), b.Sandbox("two", "--network", "web")
	a.PingSoon(one.Host, two.IP(lab.IPv4))
	load := a.StartLoad("between hosts", two.Host, a.Echo(one.Host, 7000), net.JoinHostPort(one.IP4.String(), "7000"))
	before := aggregating(a, "flvx4")

	a.KillDaemon()
	if got := aggregating(a, "flvx4"); got != before {
		t.Errorf("without a daemon the device is %s, and was %s", got, before)
	}
	p.floods()
	a.StartDaemon()
	p.floods()
	if got := aggregating(a, "flvx4"); got != before {
		t.Errorf("a daemon that starts made device %s in place of %s", got, before)
	}

	a.Must(a.Host, "umount", tunnels(a)) // which removes it
	aggregating(a, "flvx4")

	// Something that needs the port for itself has it when the daemon starts.
	a.KillDaemon()
	a.Must(a.Host, "umount", tunnels(a))
	portFree(a)
	a.IP(a.Host, "link add ext type vxlan external dstport 4789", "link set ext up")
	a.StartDaemon()
	a.Eventually(15*time.Second, func() error {
		if !strings.Contains(a.Daemon.Output(), "arrive one by one") {
			return fmt.Errorf("the daemon does not say that packets are not aggregated:\n%s", a.Daemon.Output())
		}
		return nil
	})
	a.IP(a.Host, "link del ext")
	aggregating(a, "flvx4")
	if n := strings.Count(a.Daemon.Output(), "arrive one by one"); n != 1 {
		t.Errorf("the daemon said %d times that packets are not aggregated:\n%s", n, a.Daemon.Output())
	}
	if report := load.Stop(); len(report.Errors) > 0 {
		t.Errorf("connections broke: %q", report.Errors)
	} else {
		t.Log(report)
	}

	a.StopDaemon()
	aggregating(a, "flvx4")
	a.Config.DaemonArgs = nil // not a node any more
	a.StartDaemon()
	aggregating(a, "")
	portFree(a)
	b.StopDaemon()
	b.RunCleanup()
	aggregating(b, "")
	portFree(b)
}

// floods sends the first host datagrams to the port of tunnels from a machine that is not a node, for a second: of no network, of
// the device that aggregates, of the network, cut off at any length, and with all kinds of frames inside.
func (p *pair) floods() {
	p.Helper()
	c, err := p.router.Dial(net.Dialer{}, "udp", addressA+":4789")
	if err != nil {
		p.Fatal(err)
	}
	defer c.Close()
	const headers = 8 + 14
	var frame [headers + 64]byte
	for n, end := 0, time.Now().Add(time.Second); time.Now().Before(end); n++ {
		copy(frame[:], []byte{8, 0, 0, 0, 0, 2, 43, 0}) // VNI 555
		if n%3 == 1 {
			copy(frame[4:], []byte{255, 255, 255})
		}
		for i := 8; i < headers-2; i++ {
			frame[i] = 255
		}
		frame[headers-2], frame[headers-1] = byte(n>>8), byte(n)
		if n%5 == 0 {
			frame[headers-2], frame[headers-1] = 8, 0 // IPv4, of nothing
		}
		frame[0] = byte(8 | n>>4)
		_, _ = c.Write(frame[:n%len(frame)]) // the host may answer that nobody listens
	}
}
