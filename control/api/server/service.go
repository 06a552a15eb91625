// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"net/http"
	"slices"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// Services is the part of the Controller for services.
type Services interface {
	Service(ref string) (*model.Service, error)
	CreateService(ctx context.Context, spec model.ServiceSpec) (*model.Service, error)
	RemoveService(ctx context.Context, ref string) error
	// DrainBackend makes a backend keep its flows and get no new ones, or, with drained unset,
	// new ones again.
	DrainBackend(ctx context.Context, ref, sandbox string, drained bool) error
}

// serviceRoutes are the handlers of services, by pattern.
func (s *Server) serviceRoutes() map[string]handler {
	return map[string]handler{
		"GET /services":               s.serviceList,
		"POST /services/create":       s.serviceCreate,
		"GET /services/{ref}":         s.serviceInspect,
		"DELETE /services/{ref}":      s.serviceRemove,
		"POST /services/{ref}/drain":  s.serviceDrain,
		"POST /services/{ref}/resume": s.serviceResume,
	}
}

func (s *Server) serviceList(r *http.Request) (any, error) {
	f, err := parseFilters(r, "id", "label", "name", "network")
	if err != nil {
		return nil, err
	}
	v := s.view()
	out := []api.Service{}
	for svc := range v.snap.Services() {
		if !f.identity(svc.ID, svc.Name, svc.Labels) {
			continue
		}
		row := s.service(r.Context(), v, svc)
		if f.any("network", func(want string) bool { return want == row.Network || want == row.NetworkID }) {
			out = append(out, row)
		}
	}
	slices.SortFunc(out, func(a, b api.Service) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Network, b.Network))
	})
	return out, nil
}

func (s *Server) serviceInspect(r *http.Request) (any, error) {
	svc, err := s.cfg.Backend.Service(r.PathValue("ref"))
	if err != nil {
		return nil, err
	}
	return s.service(r.Context(), s.view(), svc), nil
}

func (s *Server) serviceCreate(r *http.Request) (any, error) {
	var body api.ServiceCreate
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	spec, err := body.Spec()
	if err != nil {
		return nil, err
	}
	svc, err := s.cfg.Backend.CreateService(r.Context(), spec)
	if err != nil {
		return nil, err
	}
	return api.ServiceCreated{ID: svc.ID, IPv4Address: model.AddrText(svc.IPv4), IPv6Address: model.AddrText(svc.IPv6)}, nil
}

func (s *Server) serviceRemove(r *http.Request) (any, error) {
	return nil, s.cfg.Backend.RemoveService(r.Context(), r.PathValue("ref"))
}

func (s *Server) serviceDrain(r *http.Request) (any, error)  { return s.setDrained(r, true) }
func (s *Server) serviceResume(r *http.Request) (any, error) { return s.setDrained(r, false) }

func (s *Server) setDrained(r *http.Request, drained bool) (any, error) {
	var body api.ServiceDrain
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return nil, s.cfg.Backend.DrainBackend(r.Context(), r.PathValue("ref"), body.Sandbox, drained)
}

// Announcer is the part of the backend that announces addresses of services.
type Announcer interface {
	// Announced returns which hosts have the addresses that a service announces.
	Announced(svc *model.Service) []api.AnnouncedAddress
}

// service shows a service with its backends on all nodes.
func (s *Server) service(ctx context.Context, v *view, svc *model.Service) api.Service {
	out := v.service(svc)
	if an, ok := s.cfg.Backend.(Announcer); ok && svc.Announce {
		out.Announced = an.Announced(svc)
	}
	if c, ok := s.cfg.Backend.(Cluster); ok && svc.Cluster != "" {
		if n := v.snap.Network(svc.NetworkID); n != nil {
			for _, m := range c.RemoteMembers(ctx, n) {
				if m.HasAlias(svc.Name) {
					out.Backends = append(out.Backends, remoteBackend(svc, m))
				}
			}
		}
	}
	slices.SortFunc(out.Backends, func(a, b api.ServiceBackend) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Node, b.Node))
	})
	return out
}

// remoteBackend shows a backend on another node.
func remoteBackend(svc *model.Service, m model.RemoteMember) api.ServiceBackend {
	b := api.ServiceBackend{
		EndpointID: m.ID, SandboxID: m.SandboxID, Name: m.Name, Node: m.Node,
		IPv4Address: model.AddrText(m.IPv4), IPv6Address: model.AddrText(m.IPv6), State: api.BackendActive,
	}
	switch {
	case svc.IsDrained(m.ID):
		b.State = api.BackendDrained
	case m.Stopped:
		b.State = api.BackendStopped
	case m.NodeDown:
		b.State = api.BackendDown
	}
	return b
}

func (v *view) service(svc *model.Service) api.Service {
	out := api.Service{
		ID: svc.ID, Name: svc.Name, Created: svc.Created, NetworkID: svc.NetworkID,
		IPv4Address: model.AddrText(svc.IPv4), IPv6Address: model.AddrText(svc.IPv6), MacAddress: svc.MAC.String(),
		Ports: []api.PortSummary{}, Affinity: svc.Affinity, Labels: notNil(svc.Labels), Backends: []api.ServiceBackend{},
		Publish: svc.Number,
	}
	if n := v.snap.Network(svc.NetworkID); n != nil {
		out.Network = n.Name
	}
	for _, b := range svc.Ports {
		ip := "0.0.0.0" // as Docker shows all addresses
		if b.HostIP.IsValid() {
			ip = b.HostIP.String()
		}
		out.Ports = append(out.Ports, api.PortSummary{IP: ip, PublicPort: b.HostPort, PrivatePort: b.Port, Count: b.Count, Type: b.Proto.String()})
	}
	for ep := range v.snap.Backends(svc) {
		b := api.ServiceBackend{
			EndpointID: ep.ID, SandboxID: ep.SandboxID, Name: v.snap.SandboxName(ep.SandboxID),
			IPv4Address: model.AddrText(ep.IPv4.Addr()), IPv6Address: model.AddrText(ep.IPv6.Addr()), State: api.BackendActive,
		}
		switch {
		case svc.IsDrained(ep.ID):
			b.State = api.BackendDrained
		case !ep.Serves(v.snap.Sandbox(ep.SandboxID)):
			b.State = api.BackendStopped
		}
		out.Backends = append(out.Backends, b)
	}
	return out
}
