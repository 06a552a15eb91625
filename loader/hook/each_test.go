// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Links are listed while others create and remove some all the time.
func TestLinksThatAreBeingMade(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	var ended atomic.Bool
	done := make(chan int, 2)
	for range cap(done) {
		go func() {
			n := 0
			defer func() { done <- n }()
			runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				t.Error(err)
				return
			}
			ns, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				t.Error(err)
				return
			}
			defer ns.Close()
			for ; !ended.Load(); n++ {
				l, err := link.AttachNetNs(int(ns.Fd()), prog)
				if err != nil {
					t.Error(err)
					return
				}
				l.Close()
			}
		}()
	}
	listed := 0
	for began := time.Now(); time.Since(began) < time.Second && !t.Failed(); listed++ {
		if err := eachLink(func(link.ID, *link.Info) {}); err != nil {
			t.Errorf("list %d: %v", listed, err)
		}
	}
	ended.Store(true)
	made := <-done + <-done
	if t.Logf("%d links were made during %d lists", made, listed); made == 0 || listed == 0 {
		t.Error("nothing was tried")
	}
}
