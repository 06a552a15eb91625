// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"time"

	"github.com/fairlead-net/fairlead/control/api"
)

// Follow calls show with each event from now on that filters select, until ctx ends or show fails. It goes on when the daemon restarts.
func (c *Client) Follow(ctx context.Context, f api.Filters, show func(api.Event) error) error {
	run, last, connected := "", uint64(0), false
	for {
		got, err := c.Events(ctx, run, last, f)
		switch {
		case ctx.Err() != nil:
			return nil
		case connected && errors.Is(err, ErrUnreachable):
			time.Sleep(100 * time.Millisecond)
			continue
		case err != nil:
			return err
		}
		run, last, connected = got.Run, got.Last, true
		for _, event := range got.Events {
			if err := show(event); err != nil {
				return err
			}
		}
	}
}
