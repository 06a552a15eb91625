// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"
	"net/netip"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// cluster returns the backend's part in a cluster, or a refusal.
func (s *Server) cluster() (Cluster, error) {
	c, ok := s.cfg.Backend.(Cluster)
	if !ok {
		return nil, model.Refuse(model.ErrNotSupported, "this daemon is not part of a cluster (start it with --store)")
	}
	return c, nil
}

func (s *Server) nodeList(r *http.Request) (any, error) {
	c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	nodes, err := c.Nodes(r.Context())
	if err != nil {
		return nil, err
	}
	if nodes == nil {
		nodes = []api.Node{}
	}
	return nodes, nil
}

func (s *Server) nodeInspect(r *http.Request) (any, error) {
	c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	return c.Node(r.Context(), r.PathValue("ref"))
}

func (s *Server) nodeRemove(r *http.Request) (any, error) {
	force, err := parseForce(r)
	if err != nil {
		return nil, err
	}
	c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	return nil, c.RemoveNode(r.Context(), r.PathValue("ref"), force)
}

func (s *Server) networkAddresses(r *http.Request) (any, error) {
	n, err := s.cfg.Backend.Network(r.PathValue("ref"))
	if err != nil {
		return nil, err
	}
	c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	list, err := c.Addresses(r.Context(), n)
	if err != nil {
		return nil, err
	}
	if list == nil {
		list = []api.AddressHolder{}
	}
	return list, nil
}

// remoteMember shows a member of a network on another node.
func remoteMember(n *model.Network, m model.RemoteMember) api.NetworkMember {
	return api.NetworkMember{
		Name: m.Name, EndpointID: m.ID, MacAddress: m.MAC.String(), Node: m.Node,
		IPv4Address: inSubnet(n, m.IPv4), IPv6Address: inSubnet(n, m.IPv6),
	}
}

// inSubnet formats an address with the prefix length of its subnet.
func inSubnet(n *model.Network, a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	s, _ := n.Subnet(model.FamilyOf(a))
	return prefixString(netip.PrefixFrom(a, s.Prefix.Bits()))
}
