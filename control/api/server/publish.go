// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/http"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

func (s *Server) sandboxPublish(r *http.Request) (any, error) {
	return s.changePorts(r, s.cfg.Backend.PublishPorts)
}

func (s *Server) sandboxUnpublish(r *http.Request) (any, error) {
	return s.changePorts(r, s.cfg.Backend.UnpublishPorts)
}

func (s *Server) changePorts(r *http.Request, change func(ctx context.Context, ref string, specs []model.PortSpec) error) (any, error) {
	var body api.PublishedPorts
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	specs, err := body.Specs()
	if err != nil {
		return nil, err
	}
	return nil, change(r.Context(), r.PathValue("ref"), specs)
}
