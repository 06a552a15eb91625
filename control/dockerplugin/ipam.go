// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/model"
)

type ipamCapabilities struct{ RequiresMACAddress, RequiresRequestReplay bool }

// addressSpaces are names that the engine sends back. Each host has one address space.
type addressSpaces struct{ LocalDefaultAddressSpace, GlobalDefaultAddressSpace string }

type poolRequest struct {
	Pool    string // "" for one of the default pools
	SubPool string // --ip-range
	Options map[string]string
	V6      bool
}

type poolAnswer struct {
	PoolID, Pool string
	Data         map[string]string
}

func (s *Server) requestPool(ctx context.Context, r *poolRequest) (any, error) {
	shared, isShared := r.Options[model.OptNetwork]
	if unknown := slices.DeleteFunc(slices.Sorted(maps.Keys(r.Options)), func(k string) bool { return k == model.OptNetwork }); len(unknown) > 0 {
		return nil, refuse("unknown --ipam-opt %s (known is %s)", strings.Join(unknown, ", "), model.OptNetwork)
	}
	prefix, err := parsePrefix(r.Pool)
	if err != nil {
		return nil, err
	}
	within, err := model.ParseAddrRange(r.SubPool)
	if err != nil {
		return nil, refuse("invalid --ip-range: %v", err)
	}
	family := model.V4
	if r.V6 {
		family = model.V6
	}
	if isShared {
		pool, gateway, err := s.cfg.Controller.RequestSharedPool(ctx, s.requester(ctx), shared, family, prefix, within)
		if err != nil {
			return nil, err
		}
		return poolAnswer{pool.ID, pool.Prefix.String(), map[string]string{typeGateway: gateway.String()}}, nil
	}
	pool, err := s.cfg.Controller.RequestPool(ctx, s.requester(ctx), family, prefix, within)
	if err != nil {
		return nil, err
	}
	return poolAnswer{pool.ID, pool.Prefix.String(), map[string]string{}}, nil
}

// parsePrefix parses a prefix. For "" it returns the zero Prefix.
func parsePrefix(text string) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, refuse("invalid subnet %q: %v", text, err)
	}
	return p, nil
}

type poolID struct{ PoolID string }

func (s *Server) releasePool(ctx context.Context, r *poolID) (any, error) {
	return done{}, s.cfg.Controller.ReleasePool(ctx, r.PoolID)
}

// addressRequest has an address without a prefix length, or "" for any address.
type addressRequest struct {
	PoolID  string
	Address string
	Options struct {
		Type string `json:"RequestAddressType"`
	}
}

// typeGateway is the type of request for a network's gateway address, and the key of that address in the
// data of a pool that already has one.
const typeGateway = "com.docker.network.gateway"

type addressAnswer struct {
	Address string
	Data    map[string]string
}

func (s *Server) requestAddress(ctx context.Context, r *addressRequest) (any, error) {
	var want netip.Addr
	if r.Address != "" {
		var err error
		if want, err = parseAddr(r.Address); err != nil {
			return nil, err
		}
	}
	got, err := s.cfg.Controller.RequestAddress(ctx, r.PoolID, want, r.Options.Type == typeGateway)
	if err != nil {
		return nil, err
	}
	return addressAnswer{got.String(), map[string]string{}}, nil
}

func (s *Server) releaseAddress(ctx context.Context, r *addressRequest) (any, error) {
	a, err := parseAddr(r.Address)
	if err != nil {
		return nil, err
	}
	return done{}, s.cfg.Controller.ReleaseAddress(ctx, r.PoolID, a)
}
