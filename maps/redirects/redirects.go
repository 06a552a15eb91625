// SPDX-License-Identifier: Apache-2.0

// Package redirects reads fl_sock_rev: the sockets of host programs that were redirected to a backend.
package redirects

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
)

// Redirect is a socket that was redirected when it connected. It may be closed by now.
type Redirect struct {
	Cookie  uint64         // of the socket, as in sock_diag
	Backend netip.AddrPort // to which it is connected
	Number  uint32         // of the publish or the service that it asked for
}

// connected is in place of the end of the wait for replies.
const connected = math.MaxUint64

// batch is how many entries are read at once.
const batch = 4096

// Connected returns the redirected sockets that are connected, of any protocol.
func Connected(m *ebpf.Map) ([]Redirect, error) {
	var all []Redirect
	var cursor ebpf.MapBatchCursor
	keys, values := make([]bpf.SockSockRevKey, batch), make([]bpf.SockSockRev, batch)
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("read table %s: %w", bpf.SockMapFlSockRev, err)
		}
		for i, v := range values[:n] {
			if v.Until == connected {
				port := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, keys[i].Port))
				all = append(all, Redirect{keys[i].Cookie, netip.AddrPortFrom(netip.AddrFrom16(keys[i].Addr.B).Unmap(), port), v.Publish})
			}
		}
		if err != nil {
			return all, nil
		}
	}
}
