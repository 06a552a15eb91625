// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// EventSource is implemented by a Backend that keeps events.
type EventSource interface {
	// Events returns the events after a number of a run, and waits for one until ctx ends.
	Events(ctx context.Context, run string, after uint64) api.Events
}

// eventWait is how long a request waits for an event.
const eventWait = 20 * time.Second

func (s *Server) events(r *http.Request) (any, error) {
	f, err := api.ParseEventFilters(r.URL.Query())
	if err != nil {
		return nil, err
	}
	source, ok := s.cfg.Backend.(EventSource)
	if !ok {
		return nil, model.Refuse(model.ErrNotSupported, "events are not available in this daemon")
	}
	after, err := strconv.ParseUint(cmp.Or(r.URL.Query().Get("after"), "0"), 10, 64)
	if err != nil {
		return nil, model.Refuse(model.ErrInvalid, "query parameter after must be a number, not %q", r.URL.Query().Get("after"))
	}
	ctx, cancel := context.WithTimeout(r.Context(), eventWait)
	defer cancel()
	out := source.Events(ctx, r.URL.Query().Get("run"), after)
	out.Events = slices.DeleteFunc(out.Events, func(e api.Event) bool { return !f.Match(e) })
	return out, nil
}
