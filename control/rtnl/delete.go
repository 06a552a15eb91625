// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// deletionGroup is the group of devices that are deleted together.
const deletionGroup = 0x666d

// deletedTogether bounds how many devices are deleted together: the kernel holds the RTNL lock
// meanwhile, about 10 ms for each device that has a tcx program.
const deletedTogether = 8

// deletionPoll is the interval at which DeleteLink checks whether the device still exists.
const deletionPoll = 2 * time.Millisecond

// DeleteLink removes a device. A missing device is not an error. It returns when the device can
// no longer be found: the kernel replies only after it has freed the memory, for which it waits
// for all CPUs and for other deletions.
func (h *Handle) DeleteLink(index uint32) error {
	done := make(chan error, 1)
	h.deletions.Go(func() { done <- h.deleteLink(index) })
	look := time.NewTicker(deletionPoll)
	defer look.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-look.C:
			if _, err := h.Link(index); errors.Is(err, ErrNoDevice) {
				return nil
			}
		}
	}
}

// deleteLink uses a socket of its own, since the reply takes long.
func (h *Handle) deleteLink(index uint32) error {
	var c *Conn
	err := h.Do(func() (err error) {
		c, err = Dial()
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	err = c.do(unix.RTM_DELLINK, 0, msg)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete device %d: %w", index, err)
	}
	return nil
}

// DeleteLinks removes devices. Missing devices are not an error. Deleting many at once takes
// little longer than deleting one, since the kernel waits for all CPUs after each deletion.
func (h *Handle) DeleteLinks(indices []uint32) error {
	var there []uint32
	for _, index := range indices {
		_, err := h.Link(index)
		if err == nil {
			there = append(there, index)
		} else if !errors.Is(err, ErrNoDevice) {
			return err
		}
	}
	together := len(there) > 1 && h.groupIsFree(deletionGroup)
	var errs []error
	for some := range slices.Chunk(there, deletedTogether) {
		if together {
			errs = append(errs, h.deleteTogether(some))
			continue
		}
		for _, index := range some {
			errs = append(errs, h.DeleteLink(index))
		}
	}
	return errors.Join(errs...)
}

// groupIsFree reports whether a group has no devices other than Fairlead's.
func (h *Handle) groupIsFree(group uint32) bool {
	links, err := h.conn.Links()
	return err == nil && !slices.ContainsFunc(links, func(l Link) bool { return l.Group == group && !l.Ours() })
}

// deleteTogether moves the devices into the deletion group and deletes the group.
func (h *Handle) deleteTogether(indices []uint32) error {
	for _, index := range indices {
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(index)
		err := h.conn.do(unix.RTM_SETLINK, 0, msg, u32(unix.IFLA_GROUP, deletionGroup))
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("put device %d into a group: %w", index, err)
		}
	}
	err := h.conn.do(unix.RTM_DELLINK, 0, nl.NewIfInfomsg(unix.AF_UNSPEC), u32(unix.IFLA_GROUP, deletionGroup))
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete %d devices: %w", len(indices), err)
	}
	return nil
}
