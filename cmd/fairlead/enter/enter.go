// SPDX-License-Identifier: Apache-2.0

// Package enter starts programs in sandboxes: in their network namespaces, with their host names and files.
package enter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// Place says where to start a program.
type Place struct {
	NetNS     string // path, as the daemon sees it; "": the daemon's own namespace
	DaemonPid int
	Hostname  string // if set: start the program in a new UTS namespace with this name
	Domain    string // of the host name
	Files     Files  // if any: start the program in a new mount namespace with these
}

// placeOf returns where to start a program in a sandbox.
func placeOf(sb api.Sandbox, daemonPid int) Place {
	return Place{
		NetNS: sb.NetworkSettings.SandboxKey, DaemonPid: daemonPid, Hostname: sb.Config.Hostname, Domain: sb.Config.Domainname,
		Files: Files{sb.HostsPath, sb.HostnamePath, sb.ResolvConfPath},
	}
}

// At returns where to start a program in a sandbox, which may have joined another one.
func At(ctx context.Context, c *client.Client, sb api.Sandbox, daemonPid int) (Place, error) {
	if owner, joined := strings.CutPrefix(sb.HostConfig.NetworkMode, model.ModeContainer); joined {
		var err error
		if sb, err = c.Sandbox(ctx, owner); err != nil {
			return Place{}, err
		}
	}
	return placeOf(sb, daemonPid), nil
}

// Start starts cmd in a sandbox. The child inherits the namespaces of
// the thread that forks it, so only that thread enters them.
func Start(cmd *exec.Cmd, at Place) error {
	start := func() error { return at.Files.mounted(at.DaemonPid, cmd.Start) }
	if at.Hostname != "" {
		start = func() error {
			return named(at.Hostname, at.Domain, func() error { return at.Files.mounted(at.DaemonPid, cmd.Start) })
		}
	}
	ns, err := OpenNetNS(at)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(start)
}

// OpenNetNS opens the namespace by its path or, if the client is in a different mount
// namespace than the daemon, through the daemon's root directory.
func OpenNetNS(at Place) (*rtnl.NetNS, error) {
	if at.NetNS == "" {
		return rtnl.OpenNetNS(fmt.Sprintf("/proc/%d/ns/net", at.DaemonPid))
	}
	ns, err := rtnl.OpenNetNS(at.NetNS)
	if errors.Is(err, rtnl.ErrNoNetNS) {
		other, otherErr := rtnl.OpenNetNS(fmt.Sprintf("/proc/%d/root%s", at.DaemonPid, at.NetNS))
		if otherErr == nil {
			return other, nil
		}
	}
	return ns, err
}

// named calls start in a new UTS namespace. The calling thread returns to its previous one.
func named(hostname, domain string, start func() error) (retErr error) {
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
	if err := unix.Setdomainname([]byte(domain)); err != nil {
		return fmt.Errorf("set domain name %q: %w", domain, err)
	}
	return start()
}
