// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const sysctls = "/proc/sys"

// unlockSysctls makes sysctls writable that a container runtime mounted read-only, in the mount
// namespace that it created for the daemon (as for Docker's managed plugins). The devices of
// networks and sandboxes need theirs set.
func (d *daemon) unlockSysctls() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(sysctls, &fs); err != nil {
		return fmt.Errorf("check whether sysctls are writable: %w", err)
	}
	if fs.Flags&unix.ST_RDONLY == 0 {
		return nil
	}
	flags := uintptr(fs.Flags) & (unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC) // the same bits as MS_…
	if err := unix.Mount("", sysctls, "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
		return fmt.Errorf("remount %s writable (start the daemon where sysctls can be set): %w", sysctls, err)
	}
	d.log.Info("made sysctls writable in the daemon's mount namespace")
	return nil
}
