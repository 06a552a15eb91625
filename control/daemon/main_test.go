// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(runVariable); dir != "" {
		os.Exit(runVerb(dir, os.Args[1]))
	}
	os.Exit(m.Run())
}
