// SPDX-License-Identifier: Apache-2.0

package main

import "golang.org/x/sys/unix"

// needed are the capabilities without which nothing works that needs root: with CAP_SYS_ADMIN the kernel grants what
// CAP_BPF and CAP_PERFMON do. The others of deploy/fairlead.service are for parts.
var needed = []struct {
	name string
	bit  int
}{{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN}, {"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN}}

// missingCapabilities returns the names of those that this process does not have.
func missingCapabilities() (names []string) {
	var have [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &have[0]); err != nil {
		return nil // the commands fail with an error of their own
	}
	for _, c := range needed {
		if have[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			names = append(names, c.name)
		}
	}
	return names
}
