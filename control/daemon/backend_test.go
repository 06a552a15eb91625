// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
)

// A path that leads to no network namespace is refused before anything is made.
func TestNoNamespaceThere(t *testing.T) {
	for _, path := range []string{"/no/such", "/etc/passwd", "/etc/passwd/below", "/proc/self/ns/mnt"} {
		_, err := (&backend{}).CreateSandbox(t.Context(), model.SandboxSpec{Name: "box", NetNS: path})
		if !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "ip netns add") {
			t.Errorf("%s: %v, want a refusal that names the path and the remedy", path, err)
		}
	}
}
