// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
)

func (s *Server) networkList(r *http.Request) (any, error) {
	f, err := parseFilters(r, "dangling", "driver", "id", "label", "name", "scope", "type")
	if err != nil {
		return nil, err
	}
	v := s.view()
	out := []Network{}
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
	return s.view().network(n, true), nil
}

func (s *Server) networkCreate(r *http.Request) (any, error) {
	var body NetworkCreate
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	spec, err := body.spec()
	if err != nil {
		return nil, err
	}
	n, err := s.cfg.Backend.CreateNetwork(r.Context(), spec)
	if err != nil {
		return nil, err
	}
	return NetworkCreated{ID: n.ID}, nil
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
	return NetworksPruned{NetworksDeleted: names}, nil
}

func (s *Server) networkConnect(r *http.Request) (any, error) {
	var body NetworkConnect
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	network := r.PathValue("ref")
	spec, err := body.EndpointConfig.spec(network)
	if err != nil {
		return nil, err
	}
	_, err = s.cfg.Backend.Connect(r.Context(), network, body.Container, spec)
	return nil, err
}

func (s *Server) networkDisconnect(r *http.Request) (any, error) {
	var body NetworkDisconnect
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return nil, s.cfg.Backend.Disconnect(r.Context(), r.PathValue("ref"), body.Container, body.Force)
}

func (s *Server) sandboxList(r *http.Request) (any, error) {
	f, err := parseFilters(r, "id", "label", "name", "network", "status")
	if err != nil {
		return nil, err
	}
	v := s.view()
	out := []SandboxSummary{}
	byAge := func(a, b *model.Sandbox) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.Name, b.Name))
	}
	for _, sb := range slices.SortedFunc(v.snap.Sandboxes(), byAge) {
		if !f.identity(sb.ID, sb.Name, sb.Labels) {
			continue
		}
		if row := v.summary(sb); f.sandbox(v, sb, row.State.Status) {
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
	var body SandboxCreate
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	spec, err := body.spec(r.URL.Query().Get("name"))
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
	created := SandboxCreated{Sandbox: v.sandbox(sb), Warnings: s.cfg.Backend.Warnings(spec)}
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
		return false, refuse(model.ErrInvalid, "query parameter force must be true or false, not %q", text)
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
	if err := s.cfg.Backend.RemoveSandbox(r.Context(), sb.ID, force); err != nil {
		return nil, err
	}
	if err := os.Remove(s.view().logPath(sb.ID)); err != nil && !os.IsNotExist(err) {
		s.cfg.Log.Warn("could not remove the log of a removed sandbox", "sandbox", sb.ID, "err", err)
	}
	return nil, nil
}

func (s *Server) sandboxCheck(r *http.Request) (any, error) {
	query := r.URL.Query()
	want := Expected{EndpointID: query.Get("endpoint")}
	for _, v := range query["gateway"] {
		gateway, err := netip.ParseAddr(v)
		if err != nil {
			return nil, refuse(model.ErrInvalid, "gateway %q is not an IP address", v)
		}
		want.Gateways = append(want.Gateways, gateway)
	}
	sb, err := s.cfg.Backend.Sandbox(r.PathValue("ref"))
	if err != nil {
		return nil, err
	}
	return nil, s.cfg.Backend.CheckSandbox(r.Context(), sb.ID, want)
}

func (s *Server) sandboxStarted(r *http.Request) (any, error) {
	var body SandboxStarted
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	if body.Pid <= 0 {
		return nil, refuse(model.ErrInvalid, "Pid must be a process ID, not %d", body.Pid)
	}
	return nil, s.cfg.Backend.SandboxStarted(r.Context(), r.PathValue("ref"), body.Pid, body.PidStart)
}

func (s *Server) sandboxExited(r *http.Request) (any, error) {
	var body SandboxExited
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	return nil, s.cfg.Backend.SandboxExited(r.Context(), r.PathValue("ref"), body.ExitCode)
}

func (s *Server) flowList(r *http.Request) (any, error) {
	f, err := parseFlowFilter(r)
	if err != nil {
		return nil, err
	}
	flows, err := s.cfg.Backend.Flows(r.Context(), f)
	if err != nil {
		return nil, err
	}
	if flows == nil {
		flows = []Flow{}
	}
	return flows, nil
}

func (s *Server) flowFlush(r *http.Request) (any, error) {
	f, err := parseFlowFilter(r)
	if err != nil {
		return nil, err
	}
	flusher, ok := s.cfg.Backend.(FlowFlusher)
	if !ok {
		return nil, refuse(model.ErrNotSupported, "removing flows is not available in this daemon")
	}
	n, err := flusher.FlushFlows(r.Context(), f)
	if err != nil {
		return nil, err
	}
	return FlowsFlushed{Removed: n}, nil
}

// parseAddrOrPrefix converts an address or prefix to its canonical form. "" matches all.
func parseAddrOrPrefix(text string) (string, error) {
	if !strings.Contains(text, "/") {
		addr, err := parseAddr("address", text)
		return model.AddrText(addr), err
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return "", refuse(model.ErrInvalid, "address %q is malformed (want the form 192.0.2.1 or 2001:db8::/64)", text)
	}
	return prefix.Masked().String(), nil
}

func parseFlowFilter(r *http.Request) (FlowFilter, error) {
	q := r.URL.Query()
	f := FlowFilter{
		Protocol: strings.ToLower(q.Get("protocol")), State: strings.ToLower(q.Get("state")), Network: q.Get("network"),
	}
	var err error
	if f.Address, err = parseAddrOrPrefix(q.Get("address")); err != nil {
		return f, err
	}
	if p := q.Get("port"); p != "" {
		if f.Port, err = parsePort(p); err != nil {
			return f, refuse(model.ErrInvalid, "%v", err)
		}
	}
	if l := q.Get("limit"); l != "" {
		if f.Limit, err = strconv.Atoi(l); err != nil || f.Limit < 0 {
			return f, refuse(model.ErrInvalid, "limit must be a number of 0 or more, not %q", l)
		}
	}
	for key := range q {
		switch key {
		case "protocol", "state", "network", "address", "port", "limit":
		default:
			return f, refuse(model.ErrInvalid, "unknown query parameter %q", key)
		}
	}
	return f, nil
}
