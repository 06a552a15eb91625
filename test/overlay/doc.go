// SPDX-License-Identifier: Apache-2.0

// Package overlay tests the tunnels of overlay networks with real traffic: hosts, a router
// between them and a container on each, all in network namespaces. The first host runs Fairlead's
// programs, the second these or the kernel's bridge and VXLAN device. The tests fill the tables
// themselves; no daemon runs.
//
// It contains only tests, which need root.
package overlay
