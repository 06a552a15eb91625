// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// senderVar makes a test binary send datagrams, and holds the number of the first.
const senderVar = "FAIRLEAD_LAB_SENDER"

const datagramEvery = time.Millisecond

// sending is the result of a sender.
type sending struct {
	Sent   uint64
	Left   map[uint64]int64 // as leg.left
	Errors []string
}

// sendUntil sends a leg's datagrams from c, which send prepared, until ctx ends. The load
// cannot detect what happens while no datagram is sent, so a separate process with real-time
// priority sends them.
func (g *leg) sendUntil(ctx context.Context, c *net.UDPConn, first uint64) (s sending, err error) {
	socket, err := c.File()
	if err != nil {
		return s, err
	}
	defer socket.Close()
	self, err := os.Executable()
	if err != nil {
		return s, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), fmt.Sprint(senderVar, "=", first))
	cmd.ExtraFiles = []*os.File{socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = os.Stderr
	stop, err := cmd.StdinPipe() // closing it also stops the sender
	if err != nil {
		return s, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return s, err
	}
	if err := cmd.Start(); err != nil {
		return s, fmt.Errorf("start sender: %w", err)
	}
	context.AfterFunc(ctx, func() { stop.Close() })
	err = errors.Join(gob.NewDecoder(stdout).Decode(&s), cmd.Wait())
	g.mu.Lock()
	defer g.mu.Unlock()
	for number, at := range s.Left {
		g.left[number] = at
	}
	return s, err
}

// init turns the process into a sender, whichever test it is.
func init() {
	if os.Getenv(senderVar) == "" {
		return
	}
	if err := sendNumbers(); err != nil {
		fmt.Fprintln(os.Stderr, "send datagrams:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func sendNumbers() error {
	first, err := strconv.ParseUint(os.Getenv(senderVar), 10, 64)
	if err != nil {
		return err
	}
	conn, err := net.FileConn(os.NewFile(3, "socket"))
	if err != nil {
		return err
	}
	c := conn.(*net.UDPConn)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		io.Copy(io.Discard, os.Stdin)
	}()
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fmt.Errorf("get real-time priority: %w", err)
	}
	g := &leg{left: make(map[uint64]int64, 1<<16)}
	s := sending{Left: g.left}
	b := make([]byte, numberSize)
	for next := time.Now(); !isClosed(stopped); next = next.Add(datagramEvery) {
		pause := unix.NsecToTimespec(int64(max(0, time.Until(next))))
		unix.Nanosleep(&pause, nil) // keeps the thread, which time.Sleep does not
		binary.NativeEndian.PutUint64(b, first+s.Sent)
		if _, err := c.Write(b); err != nil { // the error of an earlier one; this one is not sent
			s.Errors = append(s.Errors, err.Error())
			continue
		}
		s.Sent++
		if err := g.collect(c); err != nil {
			return err
		}
	}
	return gob.NewEncoder(os.Stdout).Encode(s)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
