// SPDX-License-Identifier: Apache-2.0

// Package datapath tests the programs of the shipped object one packet at a time: each case
// runs a program in the kernel on a packet built here and compares the verdict, the whole
// resulting packet, the device it is redirected to, and exactly which counters have changed.
//
// It contains only tests. They need root: a world is a network namespace with devices and
// routes of its own.
package datapath
