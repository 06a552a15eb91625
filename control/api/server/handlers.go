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

func (s *Server) networkList(r *http.Request) (any, error) {
	f, err := parseFilters(r, "dangling", "driver", "id", "label", "name", "scope", "type")
	if err != nil {
		return nil, err
	}
	v := s.view()
	out := []api.Network{}
	for _, n := range slices.SortedFunc(v.snap.Networks(), func(a, b *model.Network) int { return cmp.Compare(a.Name, b.Name) }) {
		if f.network(n, v.snap.HasMembers(n.ID)) {
			out = append(out, v.network(n, false))
		}
	}
	return out, nil
}

func (s *Server) networkInspect(r *http.Request) (any, error) {
	n, err := s.cfg.Backend.Network(r.PathValue("ref"))
	if err != nil {
		return nil, err
	}
	v := s.view()
	out := v.network(n, true)
	var remote []model.RemoteMember
	if c, ok := s.cfg.Backend.(Cluster); ok && n.Has().Shared {
		remote = c.RemoteMembers(r.Context(), n)
		for _, m := range remote {
			if m.SandboxID != "" {
				out.Containers[m.SandboxID] = remoteMember(n, m)
			}
		}
	}
	if n.Has().Pools {
		out.Status = v.status(n, remote)
	}
	return out, nil
}

func (s *Server) networkCreate(r *http.Request) (any, error) {
	var body api.NetworkCreate
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	spec, err := body.Spec()
	if err != nil {
		return nil, err
	}
	n, err := s.cfg.Backend.CreateNetwork(r.Context(), spec)
	if err != nil {
		return nil, err
	}
	return api.NetworkCreated{ID: n.ID}, nil
}

func (s *Server) networkRemove(r *http.Request) (any, error) {
	force, err := parseForce(r)
	if err != nil {
		return nil, err
	}
	remove := s.cfg.Backend.RemoveNetwork
	if force {
		remove = s.cfg.Backend.ForceRemoveNetwork
	}
	return nil, remove(r.Context(), r.PathValue("ref"))
}

func (s *Server) networkPrune(r *http.Request) (any, error) {
	f, err := parseFilters(r, "until", "label", "label!")
	if err != nil {
		return nil, err
	}
	before, err := f.until(time.Now())
	if err != nil {
		return nil, err
	}
	names, err := s.cfg.Backend.PruneNetworks(r.Context(), func(n *model.Network) bool {
		return !f.pruned(n.Labels) || (!before.IsZero() && !n.Created.Before(before))
	})
	if err != nil {
		return nil, err
	}
	if names == nil {
		names = []string{}
	}
	return api.NetworksPruned{NetworksDeleted: names}, nil
}

func (s *Server) networkConnect(r *http.Request) (any, error) {
	var body api.NetworkConnect
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	network := r.PathValue("ref")
	spec, err := body.EndpointConfig.Spec(network)
	if err != nil {
		return nil, err
	}
	if _, err := s.cfg.Backend.Connect(r.Context(), network, body.Container, spec); err != nil {
		return nil, err
	}
	return api.NetworkConnected{Warnings: s.cfg.Backend.ConnectWarnings(network, spec)}, nil
}

func (s *Server) networkDisconnect(r *http.Request) (any, error) {
	var body api.NetworkDisconnect
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return nil, s.cfg.Backend.Disconnect(r.Context(), r.PathValue("ref"), body.Container, body.Force)
}

func (s *Server) sandboxList(r *http.Request) (any, error) {
	f, err := parseFilters(r, "expose", "id", "label", "name", "network", "publish", "status")
	if err != nil {
		return nil, err
	}
	v := s.view()
	out := []api.SandboxSummary{}
	byAge := func(a, b *model.Sandbox) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.Name, b.Name))
	}
	for _, sb := range slices.SortedFunc(v.snap.Sandboxes(), byAge) {
		if !f.identity(sb.ID, sb.Name, sb.Labels) {
			continue
		}
		if row := v.summary(sb); f.sandbox(v, sb, row) {
			out = append(out, row)
		}
	}
	return out, nil
}

func (s *Server) sandboxInspect(r *http.Request) (any, error) {
	sb, err := s.cfg.Backend.Sandbox(r.PathValue("ref"))
	if err != nil {
		return nil, err
	}
	return s.view().sandbox(sb), nil
}

func (s *Server) sandboxCreate(r *http.Request) (any, error) {
	var body api.SandboxCreate
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	spec, err := body.Spec(r.URL.Query().Get("name"))
	if err != nil {
		return nil, err
	}
	sb, err := s.cfg.Backend.CreateSandbox(r.Context(), spec)
	if err != nil {
		return nil, err
	}
	if r.Context().Err() != nil {
		// The client has disconnected: it cannot learn the sandbox's name and remove it.
		return nil, cmp.Or(s.cfg.Backend.RemoveSandbox(context.WithoutCancel(r.Context()), sb.ID, true), r.Context().Err())
	}
	v := s.view()
	created := api.SandboxCreated{Sandbox: v.sandbox(sb), Warnings: s.cfg.Backend.Warnings(spec)}
	if n, err := s.cfg.Backend.Network(sb.NetworkMode); err == nil {
		joined := v.network(n, false)
		created.Network = &joined
	}
	return created, nil
}

func parseForce(r *http.Request) (bool, error) {
	text := r.URL.Query().Get("force")
	force, err := strconv.ParseBool(cmp.Or(text, "false"))
	if err != nil {
		return false, model.Refuse(model.ErrInvalid, "query parameter force must be true or false, not %q", text)
	}
	return force, nil
}

func (s *Server) sandboxRemove(r *http.Request) (any, error) {
	force, err := parseForce(r)
	if err != nil {
		return nil, err
	}
	sb, err := s.cfg.Backend.Sandbox(r.PathValue("ref"))
	if err != nil {
		return nil, err
	}
	return nil, s.cfg.Backend.RemoveSandbox(r.Context(), sb.ID, force)
}

func (s *Server) sandboxWithdraw(r *http.Request) (any, error) {
	return nil, s.cfg.Backend.Withdraw(r.Context(), r.PathValue("ref"))
}

func (s *Server) sandboxCheck(r *http.Request) (any, error) {
	want, err := api.ParseExpected(r.URL.Query())
	if err != nil {
		return nil, err
	}
	sb, err := s.cfg.Backend.Sandbox(r.PathValue("ref"))
	if err != nil {
		return nil, err
	}
	return nil, s.cfg.Backend.CheckSandbox(r.Context(), sb.ID, want)
}

func (s *Server) sandboxStarted(r *http.Request) (any, error) {
	var body api.SandboxStarted
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	if body.Pid <= 0 {
		return nil, model.Refuse(model.ErrInvalid, "Pid must be a process ID, not %d", body.Pid)
	}
	return nil, s.cfg.Backend.SandboxStarted(r.Context(), r.PathValue("ref"), body.Pid, body.PidStart)
}

func (s *Server) sandboxExited(r *http.Request) (any, error) {
	var body api.SandboxExited
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return nil, s.cfg.Backend.SandboxExited(r.Context(), r.PathValue("ref"), body.ExitCode)
}

func (s *Server) flowList(r *http.Request) (any, error) {
	f, err := api.ParseFlowFilter(r.URL.Query())
	if err != nil {
		return nil, err
	}
	flows, err := s.cfg.Backend.Flows(r.Context(), f)
	if err != nil {
		return nil, err
	}
	if flows == nil {
		flows = []api.Flow{}
	}
	return flows, nil
}

func (s *Server) flowFlush(r *http.Request) (any, error) {
	f, err := api.ParseFlowFilter(r.URL.Query())
	if err != nil {
		return nil, err
	}
	flusher, ok := s.cfg.Backend.(FlowFlusher)
	if !ok {
		return nil, model.Refuse(model.ErrNotSupported, "removing flows is not available in this daemon")
	}
	n, err := flusher.FlushFlows(r.Context(), f)
	if err != nil {
		return nil, err
	}
	return api.FlowsFlushed{Removed: n}, nil
}
