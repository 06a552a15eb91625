// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"

	"github.com/fairlead-net/fairlead/bpf"
)

// FDBEntry maps a member of a network to its device.
type FDBEntry struct {
	Net     uint32 // network index
	MAC     MAC
	IfIndex uint32        // of the host end
	Flags   EndpointFlags // of that endpoint
	Node    uint16        // where the member is; 0: on this host
}

// String is for logs.
func (e FDBEntry) String() string {
	return fmt.Sprintf("fdb net %d %s if%d", e.Net, macString(e.MAC), e.IfIndex)
}

func (e FDBEntry) raw() (bpf.TCFdbKey, bpf.TCFdbEntry) {
	return bpf.TCFdbKey{Net: e.Net, Mac: e.MAC},
		bpf.TCFdbEntry{Ifindex: e.IfIndex, Flags: uint16(e.Flags), Node: e.Node}
}

func fdbFrom(k bpf.TCFdbKey, v bpf.TCFdbEntry) FDBEntry {
	return FDBEntry{Net: k.Net, MAC: k.Mac, IfIndex: v.Ifindex, Flags: EndpointFlags(v.Flags), Node: v.Node}
}

// FDB is fl_fdb: devices by network and MAC.
type FDB struct {
	view[bpf.TCFdbKey, bpf.TCFdbEntry, FDBEntry]
}

// Delete removes a member; absent is success.
func (t *FDB) Delete(net uint32, mac MAC) (deleted bool, err error) {
	return t.view.Delete(FDBEntry{Net: net, MAC: mac})
}
