// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/world"
)

// visitorVar makes a test binary a visitor, and names the namespace that it enters.
const visitorVar = "FAIRLEAD_LAB_VISITOR"

// Visitor starts a program on the host whose main thread is in a network namespace, as that of
// an exporter of metrics or of a container engine is now and then. Its other threads are not.
func (l *Lab) Visitor(netns string) *world.Process {
	l.Helper()
	self, err := os.Executable()
	l.must(err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), visitorVar+"="+netns)
	p, err := l.Host.SpawnCommand(cmd)
	l.must(err)
	l.Cleanup(func() { p.Kill() })
	l.Eventually(Patient, func() error {
		var in, meant unix.Stat_t
		if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", p.Pid()), &in); err != nil {
			return err
		}
		if err := unix.Stat(netns, &meant); err != nil {
			return err
		}
		if in.Ino != meant.Ino {
			return fmt.Errorf("the visitor is not in %s", netns)
		}
		return nil
	})
	return p
}

// init turns the process into a visitor, whichever test it is. It runs on the main thread.
func init() {
	path := os.Getenv(visitorVar)
	if path == "" {
		return
	}
	f, err := os.Open(path)
	if err == nil {
		err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "enter namespace:", err)
		os.Exit(1)
	}
	unix.Pause()
}
