// SPDX-License-Identifier: Apache-2.0

// Package maps gives typed access to the datapath's tables in domain terms:
// endpoints, neighbours, published ports, flows, counters. One file per map.
//
// Tables the control plane owns share one engine, [Table]: it remembers what
// the kernel holds, so that writing what is already there costs no system
// call, and synchronises by difference. Tables the datapath owns are only
// read, aged and flushed by key.
//
// The generated key and value types never leave this package.
package maps
