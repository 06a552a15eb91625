// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/test/lab"
)

// fragmentSize is how many bytes after the IP header a fragment has: a multiple of eight.
const fragmentSize = 800

// fragmentFrames returns the frames of a fragmented datagram, in order.
func fragmentFrames(l *lab.Lab, srcMAC, dstMAC string, src, dst netip.AddrPort, id uint16, payload string) [][]byte {
	l.Helper()
	udp := binary.BigEndian.AppendUint16(nil, src.Port())
	udp = binary.BigEndian.AppendUint16(udp, dst.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	addrs := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	pseudo := binary.BigEndian.AppendUint16(append(slices.Clone(addrs), 0, unix.IPPROTO_UDP), uint16(len(udp)))
	binary.BigEndian.PutUint16(udp[6:], checksum(append(pseudo, udp...)))
	ethernet := udpFrame(l, srcMAC, dstMAC, src, dst)[:14]
	var frames [][]byte
	for offset := 0; offset < len(udp); offset += fragmentSize {
		part := udp[offset:min(offset+fragmentSize, len(udp))]
		more := offset+len(part) < len(udp)
		frames = append(frames, slices.Concat(ethernet, fragmentHeaders(addrs, id, offset, len(part), more), part))
	}
	return frames
}

// fragmentHeaders returns the headers of a fragment of UDP from and to addrs, concatenated.
func fragmentHeaders(addrs []byte, id uint16, offset, length int, more bool) []byte {
	if len(addrs) == 8 {
		h := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
		binary.BigEndian.PutUint16(h[2:], uint16(20+length))
		binary.BigEndian.PutUint16(h[4:], id)
		binary.BigEndian.PutUint16(h[6:], uint16(offset/8))
		if more {
			h[6] |= 0x20
		}
		h = append(h, addrs...)
		binary.BigEndian.PutUint16(h[10:], checksum(h))
		return h
	}
	h := []byte{0x60, 0, 0, 0, 0, 0, unix.IPPROTO_FRAGMENT, 64}
	binary.BigEndian.PutUint16(h[4:], uint16(8+length))
	h = append(h, addrs...)
	f := []byte{unix.IPPROTO_UDP, 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(f[2:], uint16(offset))
	if more {
		f[3] |= 1
	}
	binary.BigEndian.PutUint16(f[6:], id)
	return append(h, f...)
}

// Fragments reach their receiver in whatever order they arrive, through translation in both
// directions, like with the kernel's own (nf_defrag): in order, in reverse order, and with
// the first in the middle.
func TestFragmentsInAnyOrder(t *testing.T) {
	t.Parallel()
	orders := [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {2, 0, 3, 1}}
	payload := strings.Repeat("fragment", 3*fragmentSize/8) + "end"
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web, other := network(l, "web"), network(l, "other")
		a := l.Sandbox("anna", "--network", web, "-p", "7000:5000/udp")
		c := l.Sandbox("carl", "--network", other)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			host, outside := lab.Address(f.Of(lab.Host4, lab.Host6)), lab.Address(f.Of(lab.Outside4, lab.Outside6))
			hostMAC, outMAC := macOf(l, l.Host), macOf(l, l.Outside)
			gwA, gwC := neighbour(l, a, l.Gateway(web, f)), neighbour(l, c, l.Gateway(other, f))
			l.Ping(c.Host, outside.String()) // the host knows its neighbour
			ways := []struct {
				name      string
				from, to  *lab.Sandbox // nil: outside, and the host or outside
				src, dst  netip.AddrPort
				smac      string
				dmac      string
				listening netip.AddrPort
			}{
				{"outside to a published port", nil, a, netip.AddrPortFrom(outside, 5001), netip.AddrPortFrom(host, 7000), outMAC, hostMAC,
					netip.AddrPortFrom(lab.Address(a.IP(f)), 5000)},
				{"outside to the host", nil, nil, netip.AddrPortFrom(outside, 5001), netip.AddrPortFrom(host, 5009), outMAC, hostMAC,
					netip.AddrPortFrom(host, 5009)},
				{"a sandbox to outside", c, nil, netip.AddrPortFrom(lab.Address(c.IP(f)), 5002), netip.AddrPortFrom(outside, 5003), c.MAC, gwC,
					netip.AddrPortFrom(outside, 5003)},
				{"a sandbox to a published port", c, a, netip.AddrPortFrom(lab.Address(c.IP(f)), 5002), netip.AddrPortFrom(host, 7000), c.MAC, gwC,
					netip.AddrPortFrom(lab.Address(a.IP(f)), 5000)},
				{"a sandbox to the host", a, nil, netip.AddrPortFrom(lab.Address(a.IP(f)), 5002), netip.AddrPortFrom(host, 5009), a.MAC, gwA,
					netip.AddrPortFrom(host, 5009)},
			}
			id := uint16(100)
			for _, w := range ways {
				receiver := l.Host
				switch {
				case w.to != nil:
					receiver = w.to.Host
				case w.listening.Addr() == outside:
					receiver = l.Outside
				}
				heard := listenUDP(l, receiver, "udp"+f.String(), w.listening.String())
				for _, order := range orders {
					id++
					frames := fragmentFrames(l, w.smac, w.dmac, w.src, w.dst, id, payload)
					for _, i := range order {
						if w.from != nil {
							sendFrame(l, w.from.Host, frames[i])
						} else {
							sendFrame(l, l.Outside, frames[i])
						}
					}
					wantPayload(l, heard, payload, w.name, order)
				}
				heard.Close()
			}
		})
	})
}

func wantPayload(l *lab.Lab, c net.PacketConn, payload, way string, order []int) {
	l.Helper()
	b := make([]byte, 1<<16)
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	n, _, err := c.ReadFrom(b)
	if err != nil || string(b[:n]) != payload {
		l.Errorf("%s, fragments in order %v: %d bytes, %v", way, order, n, err)
	}
}
