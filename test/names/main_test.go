// SPDX-License-Identifier: Apache-2.0

// Package names tests what sandboxes know of each other and of the host by name, with real resolvers.
package names

import (
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }
