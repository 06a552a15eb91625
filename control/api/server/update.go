// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

func (s *Server) sandboxBandwidth(r *http.Request) (any, error) {
	var body api.BandwidthChange
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return nil, s.cfg.Backend.SetBandwidth(r.Context(), r.PathValue("ref"), body.Network, (*model.Limit)(body.Ingress), (*model.Limit)(body.Egress))
}

func (s *Server) sandboxRename(r *http.Request) (any, error) {
	return nil, s.cfg.Backend.RenameSandbox(r.Context(), r.PathValue("ref"), r.URL.Query().Get("name"))
}
