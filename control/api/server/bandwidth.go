// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/http"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// Limiter is implemented by a Backend that can change the bandwidth limits of a sandbox.
type Limiter interface {
	SetBandwidth(ctx context.Context, ref, network string, ingress, egress *model.Limit) error
}

func (s *Server) sandboxBandwidth(r *http.Request) (any, error) {
	var body api.BandwidthChange
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	l, ok := s.cfg.Backend.(Limiter)
	if !ok {
		return nil, model.Refuse(model.ErrNotSupported, "changing bandwidth limits is not available in this daemon")
	}
	return nil, l.SetBandwidth(r.Context(), r.PathValue("ref"), body.Network, (*model.Limit)(body.Ingress), (*model.Limit)(body.Egress))
}
