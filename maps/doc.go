// SPDX-License-Identifier: Apache-2.0

// Package maps gives typed access to the datapath's tables in domain terms: endpoints, neighbours,
// published ports, flows, counters. One file per map.
//
// Tables that the control plane owns share one engine, [Table]. It caches what the kernel holds,
// so that writing an entry that exists costs no system call, and synchronises by difference.
// Tables that the datapath owns are only read, expired and flushed by key.
//
// The generated key and value types never leave this package.
package maps
