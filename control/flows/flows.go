// SPDX-License-Identifier: Apache-2.0

// Package flows lists and removes tracked flows for the API: it matches them with a filter and names
// their networks.
package flows

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/loader"
	"github.com/fairlead-net/fairlead/maps"
)

// Config configures New. All fields are required.
type Config struct {
	Tracked  *maps.Conntrack
	Networks func(ref string) (*model.Network, error)
	Snapshot func() *desired.Snapshot
}

// Flows are the flows that the datapath tracks.
type Flows struct{ cfg Config }

// New returns the flows.
func New(cfg Config) *Flows { return &Flows{cfg} }

// List returns the flows that match the filter, in order.
func (l *Flows) List(ctx context.Context, filter api.FlowFilter) ([]api.Flow, error) {
	match, err := l.matcher(filter)
	if err != nil {
		return nil, err
	}
	var found []maps.Flow
	err = l.cfg.Tracked.Each(func(f maps.Flow) bool {
		if match(f) {
			found = append(found, f)
		}
		return ctx.Err() == nil && (filter.Limit == 0 || len(found) < filter.Limit)
	})
	if err = cmp.Or(err, ctx.Err()); err != nil {
		return nil, fmt.Errorf("list flows: %w", err)
	}
	slices.SortFunc(found, maps.CompareFlows)
	names := networkNames(l.cfg.Snapshot())
	flows := make([]api.Flow, len(found))
	for i, f := range found {
		flows[i] = apiFlow(f, names)
	}
	return flows, nil
}

// Flush removes the flows that match the filter, and returns their number.
func (l *Flows) Flush(filter api.FlowFilter) (int, error) {
	match, err := l.matcher(filter)
	if err != nil {
		return 0, err
	}
	left := filter.Limit
	return l.cfg.Tracked.DeleteWhere(func(f maps.Flow) bool {
		if !match(f) || (filter.Limit > 0 && left == 0) {
			return false
		}
		left--
		return true
	})
}

// matcher returns a function that reports whether a flow matches a filter. It refuses a
// network that does not exist, since an empty list would hide the typing error.
func (l *Flows) matcher(filter api.FlowFilter) (func(maps.Flow) bool, error) {
	var net uint32
	if filter.Network != "" {
		n, err := l.cfg.Networks(filter.Network)
		if err != nil {
			return nil, err
		}
		net = n.Index
	}
	if filter.State != "" {
		if err := new(loader.Timeouts).Set(filter.State, time.Second); err != nil {
			return nil, &model.Refusal{Kind: model.ErrInvalid, Text: err.Error()}
		}
	}
	if !isProtocol(filter.Protocol) {
		return nil, &model.Refusal{Kind: model.ErrInvalid, Text: fmt.Sprintf(
			"unknown protocol %q (want tcp, udp, sctp, icmp, icmpv6, or a number from 0 to 255)", filter.Protocol)}
	}
	within, err := parseWithin(filter.Address)
	if err != nil {
		return nil, err
	}
	return func(f maps.Flow) bool {
		ends := [4]netip.AddrPort{f.Orig.Src, f.Orig.Dst, f.Reply.Src, f.Reply.Dst}
		return (filter.Network == "" || f.Net == net) &&
			(filter.State == "" || f.State == filter.State) &&
			(filter.Protocol == "" || protoName(f.Proto()) == filter.Protocol) &&
			(!within.IsValid() || slices.ContainsFunc(ends[:], func(e netip.AddrPort) bool { return within.Contains(e.Addr()) })) &&
			(filter.Port == 0 || slices.ContainsFunc(ends[:], func(e netip.AddrPort) bool { return e.Port() == filter.Port }))
	}, nil
}

// parseWithin parses an address or a prefix. For "" it returns the zero Prefix.
func parseWithin(text string) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, nil
	}
	prefix, err := netip.ParsePrefix(text)
	if addr, addrErr := netip.ParseAddr(text); addrErr == nil {
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil {
		return prefix, &model.Refusal{Kind: model.ErrInvalid, Text: fmt.Sprintf("address %q is malformed (want the form 192.0.2.1 or 2001:db8::/64)", text)}
	}
	return prefix.Masked(), nil
}

// isProtocol reports whether protoName can return this name, or name is "".
func isProtocol(name string) bool {
	if name == "" {
		return true
	}
	for number := range 256 {
		if protoName(uint8(number)) == name {
			return true
		}
	}
	return false
}

// networkNames maps the datapath's network numbers to names.
func networkNames(snapshot *desired.Snapshot) map[uint32]string {
	names := make(map[uint32]string, snapshot.Counts().Networks)
	for n := range snapshot.Networks() {
		if n.Has().Entries {
			names[n.Index] = n.Name
		}
	}
	return names
}

func apiFlow(f maps.Flow, networks map[uint32]string) api.Flow {
	return api.Flow{
		Protocol:         protoName(f.Proto()),
		State:            f.State,
		Source:           f.Orig.Src.String(),
		Destination:      f.Orig.Dst.String(),
		ReplySource:      f.Reply.Src.String(),
		ReplyDestination: f.Reply.Dst.String(),
		Network:          networks[f.Net],
		Publish:          f.Publish,
		AgeSeconds:       f.Age.Seconds(),
		ExpiresSeconds:   max(0, f.Expires.Seconds()), // expired flows are 0 until they are collected
	}
}

// protoName returns a protocol's common name, or its number.
func protoName(proto uint8) string {
	switch proto {
	case 1:
		return "icmp"
	case 58:
		return "icmpv6"
	case uint8(model.TCP), uint8(model.UDP), uint8(model.SCTP):
		return model.Proto(proto).String()
	}
	return strconv.Itoa(int(proto))
}
