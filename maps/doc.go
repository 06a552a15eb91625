// SPDX-License-Identifier: Apache-2.0

// Package maps gives typed access to the datapath's tables in domain terms: endpoints, neighbours,
// published ports, flows, counters. One file per map, or per maps that change together.
//
// Tables that the control plane owns share one engine, package table. It caches what the kernel holds,
// so that writing an entry that exists costs no system call, and synchronises by difference.
// Tables that the datapath owns are only read, expired and flushed by key.
//
// The generated key and value types never leave this package.
package maps

import "github.com/fairlead-net/fairlead/maps/table"

// view is embedded in tables without making its field visible.
type view[K, V comparable, D any] = table.View[K, V, D]

// FullError is returned when a table of the kernel has no room for another entry.
type FullError = table.FullError
