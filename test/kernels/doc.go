// SPDX-License-Identifier: Apache-2.0

// Package kernels runs Fairlead on other kernels than this machine's: Debian's cloud kernels
// in qemu (bench/vm), with nothing but busybox, Fairlead, and the program in
// test/kernels/guest, which is the guests' init and runs the tests there.
//
// It contains only tests.
package kernels
