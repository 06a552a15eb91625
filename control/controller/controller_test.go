// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"testing"

	"github.com/fairlead-net/fairlead/test/verbtest"
)

// world is the verbs under test with their environment.
type world struct{ *verbtest.World }

func newWorld(t testing.TB) *world {
	t.Helper()
	return &world{verbtest.NewWorld(t)}
}
