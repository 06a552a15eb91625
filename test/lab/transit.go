// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// leg is one direction that numbered datagrams take: when each left its sender and when it
// reached its receiver's socket, both timestamped by the kernel. It thus measures what is
// between the two, no matter when the programs at the ends get a processor.
type leg struct {
	filter  *ebpf.Program // on the receiver's socket
	arrived *ebpf.Map     // time (TAI) by number

	mu     sync.Mutex
	left   map[uint64]int64 // time (UTC) by number
	packet [4096]byte       // from the error queue
	oob    [512]byte
}

const (
	numberSize   = 8 // a datagram ends with its number
	maxDatagrams = 1 << 20
	bufferSize   = 16 << 20 // enough for a program that is not scheduled for seconds
)

func newLeg() (*leg, error) {
	arrived, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "arrived", Type: ebpf.Hash, KeySize: numberSize, ValueSize: 8,
		MaxEntries: maxDatagrams, Flags: unix.BPF_F_NO_PREALLOC,
	})
	if err != nil {
		return nil, fmt.Errorf("make map of arrivals: %w", err)
	}
	filter, err := ebpf.NewProgram(arrivalFilter(arrived))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load filter that records arrivals: %w", err), arrived.Close())
	}
	return &leg{filter: filter, arrived: arrived, left: make(map[uint64]int64)}, nil
}

// arrivalFilter records when a datagram that consists only of a number reaches a socket, and
// accepts all datagrams. The kernel's own receive timestamp cannot be used: a timestamp that
// a packet got at the uplink is kept when bpf_redirect_peer moves it into a sandbox.
func arrivalFilter(arrived *ebpf.Map) *ebpf.ProgramSpec {
	const udpHeader, number, now = 8, -8, -16
	return &ebpf.ProgramSpec{
		Name: "arrivals", Type: ebpf.SocketFilter, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R2, udpHeader), // R1 is the packet
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, number),
			asm.Mov.Imm(asm.R4, numberSize),
			asm.FnSkbLoadBytes.Call(),
			asm.JNE.Imm(asm.R0, 0, "pass"),
			asm.FnKtimeGetTaiNs.Call(),
			asm.StoreMem(asm.RFP, now, asm.R0, asm.DWord),
			asm.LoadMapPtr(asm.R1, arrived.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, number),
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, now),
			asm.Mov.Imm(asm.R4, unix.BPF_NOEXIST),
			asm.FnMapUpdateElem.Call(),
			asm.Mov.Imm(asm.R0, -1).WithSymbol("pass"),
			asm.Return(),
		},
	}
}

func (g *leg) close() error { return errors.Join(g.filter.Close(), g.arrived.Close()) }

// receive prepares a socket that the leg's datagrams arrive at.
func (g *leg) receive(c *net.UDPConn) error {
	return control(c, func(fd int) error {
		return errors.Join(
			os.NewSyscallError("SO_RCVBUFFORCE", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bufferSize)),
			os.NewSyscallError("SO_ATTACH_BPF", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, g.filter.FD())))
	})
}

// send prepares a socket that sends the leg's datagrams: a copy of each comes back on its
// error queue, with the time it went to the device. While the buffer has room, Go's poller
// does not treat that as an error.
func (g *leg) send(c *net.UDPConn) error {
	return control(c, func(fd int) error {
		const flags = unix.SOF_TIMESTAMPING_TX_SCHED | unix.SOF_TIMESTAMPING_SOFTWARE
		return errors.Join(
			os.NewSyscallError("SO_SNDBUFFORCE", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, bufferSize)),
			os.NewSyscallError("SO_TIMESTAMPING", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING_NEW, flags)))
	})
}

// collect reads from the error queue what a socket has sent.
func (g *leg) collect(c *net.UDPConn) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return control(c, func(fd int) error {
		for {
			n, noob, _, _, err := unix.Recvmsg(fd, g.packet[:], g.oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EAGAIN) {
				return nil
			}
			if err != nil {
				return os.NewSyscallError("recvmsg", err)
			}
			at, err := timestamp(g.oob[:noob])
			if err != nil {
				return err
			}
			if at == 0 || n < numberSize { // an error, or not a numbered datagram
				continue
			}
			g.left[binary.NativeEndian.Uint64(g.packet[n-numberSize:n])] = at
		}
	})
}

// timestamp returns the timestamp among control messages, or 0 if there is none.
func timestamp(oob []byte) (int64, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, fmt.Errorf("parse control messages: %w", err)
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPING_NEW && len(m.Data) >= int(unsafe.Sizeof(unix.ScmTimestamping{})) {
			seconds, nanoseconds := binary.NativeEndian.Uint64(m.Data), binary.NativeEndian.Uint64(m.Data[8:])
			return int64(seconds)*1e9 + int64(nanoseconds), nil
		}
	}
	return 0, nil
}

// times returns when a datagram left and arrived, or zero if it did not.
func (g *leg) times(number uint64) (left, arrived int64, err error) {
	g.mu.Lock()
	left = g.left[number]
	g.mu.Unlock()
	if err := g.arrived.Lookup(&number, &arrived); errors.Is(err, ebpf.ErrKeyNotExist) {
		return left, 0, nil
	} else if err != nil {
		return 0, 0, fmt.Errorf("look up arrival: %w", err)
	}
	offset, err := taiOffset()
	return left, arrived - int64(offset), err
}

// taiOffset returns how far TAI is ahead of UTC on this machine, in whole seconds. It reads UTC before and after:
// a thread that waits for a processor in between would be wrong by that time.
func taiOffset() (time.Duration, error) {
	for {
		var before, tai, after unix.Timespec
		err := errors.Join(unix.ClockGettime(unix.CLOCK_REALTIME, &before), unix.ClockGettime(unix.CLOCK_TAI, &tai),
			unix.ClockGettime(unix.CLOCK_REALTIME, &after))
		if err != nil || after.Nano()-before.Nano() < int64(time.Second/4) {
			return time.Duration(tai.Nano() - before.Nano()).Round(time.Second), err
		}
	}
}

// control runs f on a connection's socket.
func control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = f(int(fd)) })
	return errors.Join(err, failed)
}
