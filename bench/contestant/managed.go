// SPDX-License-Identifier: Apache-2.0

package contestant

import (
	"context"
	"time"
)

// Managed is a network that a daemon manages through an API. The setup cases measure it.
type Managed interface {
	Network
	// Start makes a container, running or ready to run something, that publishes the given
	// number of ports. It returns how long the step took that publishes them.
	Start(ctx context.Context, name string, ports int) (time.Duration, error)
	// CreateNetwork makes another network.
	CreateNetwork(ctx context.Context, name string, subnets ...string) error
	Connect(ctx context.Context, network, container string) error
	Disconnect(ctx context.Context, network, container string) error
	// Usage returns the usage of the daemon and all its descendants.
	Usage() (Usage, error)
}

// Usage holds what processes use. Memory that several share is divided among them.
type Usage struct {
	Processes int
	Memory    int // resident, kB
}

// Pauser is a network whose daemon can be paused once everything is made, so that nothing
// but the datapath works.
type Pauser interface{ Pause() error }
