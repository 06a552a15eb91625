// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
)

// shaperHandle is by which a limit is known as Fairlead's.
const shaperHandle = 0x666c << 16

const (
	// shaperTick is the kernel's unit for times of traffic control (PSCHED_SHIFT).
	shaperTick = 64 * time.Nanosecond
	// maxTicks is what a bucket holds at most: the kernel counts its nanoseconds in 32 bits.
	maxTicks = math.MaxUint32 / uint64(shaperTick)
	// What waits is dropped when it is more than what passes in queueTime, but two packets
	// as large as a program can hand to the kernel at once find room.
	queueTime = 25 * time.Millisecond
	minQueue  = 128 << 10
)

// Shapers are the root qdiscs of kind tbf, by device.
type Shapers map[uint32]shaper

// shaper is what matters of a qdisc that limits: a bucket that fills at the rate.
type shaper struct {
	handle uint32
	rate   uint64 // bytes per second
	ticks  uint32 // it takes to fill
	queue  uint32 // bytes that may wait
}

// Shapers looks which devices of the host are limited, and how.
func (h *Handle) Shapers() (Shapers, error) { return listShapers(h.tc) }

// Shape limits what leaves by a device of the host, unless have says that it is limited
// so. It reports whether it had to.
func (h *Handle) Shape(index uint32, limit model.Limit, have Shapers) (bool, error) {
	return shape(h.tc, index, limit, have)
}

func listShapers(tc *netlink.Handle) (Shapers, error) {
	all, err := tc.QdiscList(nil)
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

func shape(tc *netlink.Handle, index uint32, limit model.Limit, have Shapers) (bool, error) {
	want := shaperOf(limit)
	if have[index] == want {
		return false, nil
	}
	err := tc.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: int(index), Handle: want.handle, Parent: netlink.HANDLE_ROOT},
		Rate:       want.rate, Buffer: want.ticks, Limit: want.queue,
	})
	if errors.Is(err, unix.ENOENT) {
		return false, &model.Refusal{Kind: model.ErrNotSupported,
			Text: "this kernel cannot limit bandwidth: it has no qdisc tbf (install the module sch_tbf, or leave the limits out)"}
	}
	if err != nil {
		return false, fmt.Errorf("limit device %d: %w", index, tcError(err))
	}
	return true, nil
}

// shaperOf is what makes a limit true, as far as the kernel can count the burst.
func shaperOf(l model.Limit) shaper {
	rate, burst := l.Rate/8, l.Burst/8
	ticks := (burst*uint64(time.Second)/rate + uint64(shaperTick) - 1) / uint64(shaperTick)
	queue := max(rate/uint64(time.Second/queueTime), minQueue)
	return shaper{
		handle: shaperHandle, rate: rate,
		ticks: uint32(min(ticks, maxTicks)), queue: uint32(min(queue, math.MaxUint32)),
	}
}

// ProbeShaping tells whether this kernel can limit bandwidth: nil if it can. It tries with
// the loopback of a network namespace made for it.
func ProbeShaping() error {
	return onThread(unshareNetNS, func() error {
		tc, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open rtnetlink socket: %w", err)
		}
		defer tc.Close()
		_, err = shape(tc, 1, model.Limit{Rate: 1e6, Burst: 1e6}, nil)
		return err
	})
}
