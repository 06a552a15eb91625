// SPDX-License-Identifier: Apache-2.0

// Package hook attaches programs of the datapath. A table lists the hooks, and for each the kinds of
// attachment that can serve it. Each kind is one file: it attaches, adopts what an earlier
// run left, replaces a program in place, detaches, lists and reports what keeps it from working.
//
// To add a kind, implement it in a file of its own (if it is a BPF link, only [linkType]), construct
// it in [New], and add it to the row of each hook that it can serve.
package hook

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
)

// Hook is where a program of the datapath runs, named after the program. The hooks of sockets are not
// listed here: each socket program of the BPF objects has one.
type Hook string

// The hooks of devices.
const (
	// FromEndpoint handles packets that an endpoint sent. It is attached to the host end of
	// the endpoint, or to the datapath's end of a host port.
	FromEndpoint Hook = bpf.TCProgFromEndpoint
	// FromUplink handles packets that arrive at an uplink.
	FromUplink Hook = bpf.TCProgFromUplink
	// FromTunnel handles packets that arrive by the device that encrypts.
	FromTunnel Hook = bpf.TCProgFromTunnel
	// ToUplink handles packets that leave through an uplink.
	ToUplink Hook = bpf.TCProgToUplink
)

// Kind is a way of attaching programs.
type Kind string

// The kinds of attachment.
const (
	TCX    Kind = "tcx"
	Clsact Kind = "clsact" // for kernels without tcx (before 6.6), and as a provisional attachment
	Cgroup Kind = "cgroup"
)

// devices is the table of the hooks of devices. A hook is served by the first of its kinds that
// works here; the others are detached.
var devices = map[Hook]struct {
	egress bool
	kinds  []Kind
}{
	FromEndpoint: {egress: false, kinds: []Kind{TCX, Clsact}},
	FromUplink:   {egress: false, kinds: []Kind{TCX, Clsact}},
	FromTunnel:   {egress: false, kinds: []Kind{TCX, Clsact}},
	ToUplink:     {egress: true, kinds: []Kind{TCX, Clsact}},
}

func (h Hook) egress() bool { return devices[h].egress }

// point is what a program is attached to.
type point struct {
	ifindex int // of the device; 0: the cgroup
	hook    Hook
}

// Attachment is an attached program, according to the pins.
type Attachment struct {
	IfIndex   int // 0: the cgroup
	Hook      Hook
	Kind      Kind
	ProgramID uint32 // of a link
	Live      bool   // false: the device was removed, or the link was detached
}

// kind attaches programs in one way. Every attachment has a pin, even if the kernel does not allow
// to pin the attachment itself.
type kind interface {
	// problem describes why this kind does not work here. It is empty if it does.
	problem() string
	// pin returns the path of the pin of the attachment to a point.
	pin(at point) string
	// attach ensures that prog is attached to the point. It adopts an attachment that has this
	// program, and replaces another program in place, so that no packet bypasses the datapath.
	attach(at point, prog *ebpf.Program) (changed bool, err error)
	// detach ensures that nothing is attached to the point. It succeeds if the point does not exist.
	detach(at point) (changed bool, err error)
	// list lists the attachments, including those to points that do not exist any more.
	list() ([]Attachment, error)
}

// pinName returns the name of the pin of an attachment to a device.
func (at point) pinName() string { return fmt.Sprintf("%s-%d", at.hook, at.ifindex) }

// parsePinName is the inverse of pinName.
func parsePinName(name string) (at point, ok bool) {
	hook, number, _ := strings.Cut(name, "-")
	ifindex, err := strconv.Atoi(number)
	at = point{ifindex, Hook(hook)}
	if _, known := devices[at.hook]; err != nil || ifindex <= 0 || !known || at.pinName() != name {
		return point{}, false
	}
	return at, true
}
