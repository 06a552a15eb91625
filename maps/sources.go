// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"

	"github.com/fairlead-net/fairlead/bpf"
)

// Source is a prefix of clients that reach a published port that is [Publish.Limited].
type Source struct {
	Publish uint32 // its ID
	Prefix  netip.Prefix
}

// String is for logs.
func (s Source) String() string { return fmt.Sprintf("source %s of publish %d", s.Prefix, s.Publish) }

// sourceBits is the length of what precedes the address in a key, all of which has to match.
const sourceBits = 64

func (s Source) raw() (bpf.TCSourceKey, uint32) {
	at := subnetKey(s.Prefix)
	k := bpf.TCSourceKey{Prefixlen: sourceBits + at.Prefixlen, Service: s.Publish, Addr: at.Addr}
	if s.Prefix.Addr().Is4() {
		k.Ip4 = 1
	}
	return k, 1
}

func sourceFrom(k bpf.TCSourceKey, _ uint32) Source {
	addr, bits := netip.AddrFrom16(k.Addr.B), int(k.Prefixlen)-sourceBits
	if k.Ip4 != 0 {
		addr, bits = addr.Unmap(), bits-96
	}
	return Source{Publish: k.Service, Prefix: netip.PrefixFrom(addr, bits)}
}

// Sources is fl_source: prefixes of clients by published port.
type Sources struct {
	view[bpf.TCSourceKey, uint32, Source]
}
