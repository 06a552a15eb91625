// SPDX-License-Identifier: Apache-2.0

// Package scale builds a crowded host and measures what an operator waits for.
// What it prints goes into docs/limits.md.
package scale

import (
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

func TestMain(m *testing.M) { lab.MainUnraced(m) }
