// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const sysctls = "/proc/sys"

// unlockSysctls makes sysctls writable that a container runtime has mounted
// read-only, as for a managed plugin of Docker's, in the mount namespace that it made
// for the daemon. The devices of networks and sandboxes need theirs.
func (d *daemon) unlockSysctls() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(sysctls, &fs); err != nil {
		return fmt.Errorf("look whether sysctls can be set: %w", err)
	}
	if fs.Flags&unix.ST_RDONLY == 0 {
		return nil
	}
	flags := uintptr(fs.Flags) & (unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC) // the same bits as MS_…
	if err := unix.Mount("", sysctls, "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
		return fmt.Errorf("%s is read-only and stays so (start the daemon where sysctls can be set): %w", sysctls, err)
	}
	d.log.Info("sysctls made writable in the daemon's mount namespace")
	return nil
}
