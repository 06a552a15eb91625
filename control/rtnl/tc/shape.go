// SPDX-License-Identifier: Apache-2.0

package tc

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// ShaperHandle is the handle of Fairlead's qdiscs.
const ShaperHandle = 0x666c << 16

const (
	// shaperTick is the kernel's unit of time for traffic control (PSCHED_SHIFT).
	shaperTick = 64 * time.Nanosecond
	// maxTicks is the maximum size of a bucket: the kernel counts its nanoseconds in 32 bits.
	maxTicks = math.MaxUint32 / uint64(shaperTick)
	// Packets are dropped when more is queued than passes in queueTime. The queue has room for at
	// least two packets of the maximum size that a program can pass to the kernel (minQueue, in
	// bytes).
	queueTime = 25 * time.Millisecond
	minQueue  = 128 << 10
)

// Shapers are the root qdiscs of kind tbf, by device.
type Shapers map[uint32]shaper

// shaper is the configuration of a tbf qdisc: a bucket that fills at the rate.
type shaper struct {
	handle uint32
	rate   uint64 // bytes per second
	ticks  uint32 // time to fill the bucket
	queue  uint32 // maximum queue length in bytes
}

// ListShapers returns the limits of all devices of the handle's namespace.
func ListShapers(nl *netlink.Handle) (Shapers, error) {
	all, err := nl.QdiscList(nil)
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	found := make(Shapers)
	for _, q := range all {
		if t, ok := q.(*netlink.Tbf); ok && t.Parent == netlink.HANDLE_ROOT {
			found[uint32(t.LinkIndex)] = shaper{t.Handle, t.Rate, t.Buffer, t.Limit}
		}
	}
	return found, nil
}

// Kind is the kind of the qdiscs that limit devices.
const Kind = "tbf"

// Shape limits the egress traffic of a device, unless have already contains the limit. Without a limit it removes
// Fairlead's own. It reports whether it changed anything.
func Shape(nl *netlink.Handle, index uint32, limit model.Limit, have Shapers) (bool, error) {
	if limit.IsZero() {
		if have[index].handle != ShaperHandle {
			return false, nil
		}
		if err := nl.QdiscDel(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: int(index), Handle: ShaperHandle, Parent: netlink.HANDLE_ROOT}}); err != nil {
			return false, fmt.Errorf("remove the limit of device %d: %w", index, deviceError(err))
		}
		return true, nil
	}
	want := shaperOf(limit)
	if have[index] == want {
		return false, nil
	}
	err := nl.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: int(index), Handle: want.handle, Parent: netlink.HANDLE_ROOT},
		Rate:       want.rate, Buffer: want.ticks, Limit: want.queue,
	})
	if errors.Is(err, unix.ENOENT) {
		return false, &model.Refusal{Kind: model.ErrNotSupported,
			Text: "this kernel cannot limit bandwidth: it lacks the tbf qdisc (install the module sch_tbf, or omit the limits)"}
	}
	if err != nil {
		return false, fmt.Errorf("limit device %d: %w", index, deviceError(err))
	}
	return true, nil
}

// shaperOf returns the qdisc configuration for a limit, with the burst bounded by what the kernel
// can count.
func shaperOf(l model.Limit) shaper {
	rate, burst := l.Rate/8, l.Burst/8
	ticks := (burst*uint64(time.Second)/rate + uint64(shaperTick) - 1) / uint64(shaperTick)
	queue := max(rate/uint64(time.Second/queueTime), minQueue)
	return shaper{
		handle: ShaperHandle, rate: rate,
		ticks: uint32(min(ticks, maxTicks)), queue: uint32(min(queue, math.MaxUint32)),
	}
}

// ProbeShaping returns nil if this kernel can limit bandwidth. It tries that on the loopback of a
// temporary network namespace.
func ProbeShaping() error {
	return rtnl.InNewNetNS(func() error {
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open rtnetlink socket: %w", err)
		}
		defer nl.Close()
		_, err = Shape(nl, 1, model.Limit{Rate: 1e6, Burst: 1e6}, nil)
		return err
	})
}
