// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// The fields of a general query: answers within a second, the robustness variable, and the seconds
// between two queries.
const (
	queryAnswers4   = 10   // tenths of a second
	queryAnswers6   = 1000 // milliseconds
	queryRobustness = 2
	queryInterval   = 125
)

// QueryGroups queries what is behind a device for the multicast groups that it listens to, by IGMPv3 (RFC
// 3376 section 4.1) or MLDv2 (RFC 3810 section 5.1), which hosts with earlier versions understand. The
// query by IGMP has no source address, so that a router takes precedence (RFC 4541 section 2.1.1).
func QueryGroups(h *rtnl.Handle, device uint32, mac model.MAC, f model.Family) error {
	frame := groupQuery4(mac)
	if f == model.V6 {
		frame = groupQuery6(mac)
	}
	if err := send(h, device, frame); err != nil {
		return fmt.Errorf("query for multicast groups: %w", err)
	}
	return nil
}

func groupQuery4(mac model.MAC) []byte {
	ip := []byte{
		0x46, 0xc0, 0, 36, 0, 0, 0, 0, 1, unix.IPPROTO_IGMP, 0, 0, // TTL 1
		0, 0, 0, 0, 224, 0, 0, 1,
		0x94, 4, 0, 0, // router alert (RFC 2113)
	}
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	igmp := []byte{0x11, queryAnswers4, 0, 0, 0, 0, 0, 0, queryRobustness, queryInterval, 0, 0}
	binary.BigEndian.PutUint16(igmp[2:], checksum(igmp))
	return append(append(ethernet(model.MAC{1, 0, 0x5e, 0, 0, 1}, mac, unix.ETH_P_IP), ip...), igmp...)
}

func groupQuery6(mac model.MAC) []byte {
	const (
		multicastQuery = "\x82\x00\x00\x00"
		routerAlert    = "\x3a\x00\x05\x02\x00\x00\x01\x00" // hop-by-hop options before ICMPv6 (RFC 2711)
		length         = 28
	)
	body := binary.BigEndian.AppendUint16([]byte(multicastQuery), queryAnswers6)
	body = append(append(body, make([]byte, 18)...), queryRobustness, queryInterval, 0, 0)
	source := mac.LinkLocal().As16()
	addrs := append(source[:], 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
	pseudo := append(append([]byte(nil), addrs...), 0, 0, 0, length, 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(body[2:], checksum(append(pseudo, body...)))
	f := append(ethernet(model.MAC{0x33, 0x33, 0, 0, 0, 1}, mac, unix.ETH_P_IPV6), 0x60, 0, 0, 0, 0, length+8, 0, 1) // hop limit 1
	return append(append(append(f, addrs...), routerAlert...), body...)
}
