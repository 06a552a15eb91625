// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/http"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// Publisher is implemented by a Backend that can change the published ports of a sandbox.
type Publisher interface {
	PublishPorts(ctx context.Context, ref string, specs []model.PortSpec) error
	UnpublishPorts(ctx context.Context, ref string, specs []model.PortSpec) error
}

func (s *Server) sandboxPublish(r *http.Request) (any, error) {
	return s.changePorts(r, Publisher.PublishPorts)
}

func (s *Server) sandboxUnpublish(r *http.Request) (any, error) {
	return s.changePorts(r, Publisher.UnpublishPorts)
}

func (s *Server) changePorts(r *http.Request, change func(p Publisher, ctx context.Context, ref string, specs []model.PortSpec) error) (any, error) {
	var body api.PublishedPorts
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	specs, err := body.Specs()
	if err != nil {
		return nil, err
	}
	p, ok := s.cfg.Backend.(Publisher)
	if !ok {
		return nil, model.Refuse(model.ErrNotSupported, "changing published ports is not available in this daemon")
	}
	return nil, change(p, r.Context(), r.PathValue("ref"), specs)
}
