// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"slices"
	"strings"
)

// Manager is what manages a network, or a sandbox and its network namespace.
type Manager uint8

// Managers.
const (
	// ByFairlead means that Fairlead creates, configures and removes the namespace, unless the
	// sandbox shares another one's or the host's.
	ByFairlead Manager = iota
	// ByUser means that the user supplied the namespace with --netns. Fairlead configures it, and the
	// user removes it.
	ByUser
	// ByRuntime means that a container runtime supplied the namespace. Fairlead configures it, and the
	// runtime is expected to detach it before it removes it.
	ByRuntime
	// ByEngine means that a container engine manages the object. It chooses the addresses in its
	// networks, and only it attaches sandboxes. In its sandboxes Fairlead creates the veth pair of each
	// endpoint and leaves the inner end on the host: the engine moves that into the namespace, names it
	// and configures it.
	ByEngine
)

var managers = []string{ByFairlead: "fairlead", ByUser: "user", ByRuntime: "runtime", ByEngine: "engine"}

// String returns the name of the manager.
func (m Manager) String() string {
	if int(m) < len(managers) {
		return managers[m]
	}
	return fmt.Sprintf("manager%d", uint8(m))
}

// engineCLI is the command of the container engines that Fairlead serves so far.
const engineCLI = "docker"

// CLI returns the command that creates and removes what m manages.
func (m Manager) CLI() string {
	if m == ByEngine {
		return engineCLI
	}
	return "fairlead"
}

// RefuseEngineManaged refuses a change that only the container engine may make.
func RefuseEngineManaged(what, remedy string) error {
	return Refuse(ErrForbidden, "%s is managed by a container engine (use: %s)", what, remedy)
}

// MarshalText implements [encoding.TextMarshaler].
func (m Manager) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (m *Manager) UnmarshalText(b []byte) error {
	i := slices.Index(managers, string(b))
	if i < 0 {
		return fmt.Errorf("%q is not a manager (want one of %q)", b, managers)
	}
	*m = Manager(i)
	return nil
}

// HasRuntimeLabel reports whether the front end of a container runtime created the sandbox with
// these labels. Those set a label fairlead.FRONTEND.container; the API has no other field for it.
func HasRuntimeLabel(labels map[string]string) bool {
	for label := range labels {
		if strings.HasPrefix(label, "fairlead.") && strings.HasSuffix(label, ".container") {
			return true
		}
	}
	return false
}
