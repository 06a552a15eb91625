// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl"
)

// place says where to start a program.
type place struct {
	netns     string // path, as the daemon sees it; "": the daemon's own namespace
	daemonPid int
	hostname  string // if set: start the program in a new UTS namespace with this name
}

// startInNetNS starts cmd in a sandbox. The child inherits the namespaces of
// the thread that forks it, so only that thread enters them.
func startInNetNS(cmd *exec.Cmd, at place) error {
	start := cmd.Start
	if at.hostname != "" {
		start = func() error { return startNamed(cmd, at.hostname) }
	}
	ns, err := openNetNS(at)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(start)
}

// openNetNS opens the namespace by its path or, if the client is in a different mount
// namespace than the daemon, through the daemon's root directory.
func openNetNS(at place) (*rtnl.NetNS, error) {
	if at.netns == "" {
		return rtnl.OpenNetNS(fmt.Sprintf("/proc/%d/ns/net", at.daemonPid))
	}
	ns, err := rtnl.OpenNetNS(at.netns)
	if errors.Is(err, rtnl.ErrNoNetNS) {
		other, otherErr := rtnl.OpenNetNS(fmt.Sprintf("/proc/%d/root%s", at.daemonPid, at.netns))
		if otherErr == nil {
			return other, nil
		}
	}
	return ns, err
}

// startNamed starts cmd in a new UTS namespace. The calling thread returns to its
// previous one.
func startNamed(cmd *exec.Cmd, hostname string) (retErr error) {
	home, err := os.Open("/proc/thread-self/ns/uts")
	if err != nil {
		return fmt.Errorf("open UTS namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("make UTS namespace: %w", err)
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWUTS); err != nil {
			retErr = errors.Join(retErr, fmt.Errorf("return to UTS namespace: %w", err))
		}
	}()
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set host name %q: %w", hostname, err)
	}
	return cmd.Start()
}
