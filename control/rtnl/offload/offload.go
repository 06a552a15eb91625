// SPDX-License-Identifier: Apache-2.0

// Package offload changes what devices segment by themselves.
package offload

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Tunnels are the features by which a device takes packets of tunnels as aggregates, as ethtool calls them.
func Tunnels() []string {
	return []string{"tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation", "tx-gre-segmentation", "tx-gre-csum-segmentation",
		"tx-ipxip4-segmentation", "tx-ipxip6-segmentation"}
}

// Of include/uapi/linux/ethtool.h.
const (
	stringsOfFeatures = 4 // ETH_SS_FEATURES
	stringLen         = 32
)

// Off switches features of a device in the thread's network namespace off. Features that the kernel does not
// know are off.
func Off(device string, features ...string) error {
	names, err := list(device)
	if err != nil {
		return err
	}
	// struct ethtool_sfeatures: blocks of 32 features, each with those that are valid and those requested.
	blocks := (len(names) + 31) / 32
	req := make([]byte, 8+8*blocks)
	binary.NativeEndian.PutUint32(req, unix.ETHTOOL_SFEATURES)
	binary.NativeEndian.PutUint32(req[4:], uint32(blocks))
	for _, f := range features {
		i := slices.Index(names, f)
		if i < 0 {
			continue
		}
		valid := req[8+8*(i/32):]
		binary.NativeEndian.PutUint32(valid, binary.NativeEndian.Uint32(valid)|1<<(i%32))
	}
	if err := call(device, req); err != nil {
		return fmt.Errorf("switch off %s of device %q: %w", strings.Join(features, ", "), device, err)
	}
	return nil
}

// list returns the names of all features, by number.
func list(device string) ([]string, error) {
	// struct ethtool_sset_info with one set: its size.
	info := make([]byte, 20)
	binary.NativeEndian.PutUint32(info, unix.ETHTOOL_GSSET_INFO)
	binary.NativeEndian.PutUint64(info[8:], 1<<stringsOfFeatures)
	if err := call(device, info); err != nil {
		return nil, fmt.Errorf("count the features of device %q: %w", device, err)
	}
	n := int(binary.NativeEndian.Uint32(info[16:]))
	// struct ethtool_gstrings.
	req := make([]byte, 12+n*stringLen)
	binary.NativeEndian.PutUint32(req, unix.ETHTOOL_GSTRINGS)
	binary.NativeEndian.PutUint32(req[4:], stringsOfFeatures)
	binary.NativeEndian.PutUint32(req[8:], uint32(n))
	if err := call(device, req); err != nil {
		return nil, fmt.Errorf("list the features of device %q: %w", device, err)
	}
	names := make([]string, n)
	for i := range names {
		name, _, _ := bytes.Cut(req[12+i*stringLen:12+(i+1)*stringLen], []byte{0})
		names[i] = string(name)
	}
	return names, nil
}

// call makes a request to a device's driver (SIOCETHTOOL), which also holds the answer.
func call(device string, req []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var ifr struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifr.name[:unix.IFNAMSIZ-1], device)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&req[0])
	ifr.data = unsafe.Pointer(&req[0])
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
		return errno
	}
	return nil
}
