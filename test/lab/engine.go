// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"

	"github.com/fairlead-net/fairlead/bench/engine"
)

// Engine is a version of Docker Engine, with what is needed to run it here.
type Engine struct {
	Name  string
	Find  func(context.Context) (string, error) // returns dockerd's path, or what is missing
	Flags []string
	File  map[string]any // as in [engine.Config]
}

// Engine20 is Debian's version.
func Engine20() Engine { return Engine{"20.10", engine.Debian, nil, engine.DebianFile()} }

// Engine29 is the version that bench/docker29.sh builds, whose runc has no seccomp support,
// with one of its firewall backends.
func Engine29(name, backend string) Engine {
	return Engine{name, engine.Built, []string{"--firewall-backend", backend, "--seccomp-profile", "unconfined"}, nil}
}
