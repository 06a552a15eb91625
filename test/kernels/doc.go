// SPDX-License-Identifier: Apache-2.0

// Package kernels runs Fairlead on kernels other than this machine's: Debian's
// cloud kernels in qemu, with nothing but busybox, Fairlead, and the program in
// test/kernels/guest, which is the guests' init and does the testing there.
//
// It contains nothing but tests. They need apt-get for the kernels, once: the
// packages stay in ${XDG_CACHE_HOME:-/var/cache}/fairlead/kernels. Guests are
// emulated; FAIRLEAD_QEMU_ACCEL=kvm makes them faster where KVM works.
package kernels
