// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
)

// namePrefix is the prefix of the names of Docker's networks and sandboxes until a [Namer] has
// fetched theirs.
const namePrefix = "docker-"

type networkCapabilities struct {
	Scope, ConnectivityScope string
	GwAllocChecker           bool // see gatewayCheck
}

// ids are the IDs in most requests.
type ids struct{ NetworkID, EndpointID string }

// networkRequest creates a network, whose subnets are already allocated.
type networkRequest struct {
	NetworkID string
	Options   struct {
		Generic  map[string]string `json:"com.docker.network.generic"` // -o
		Internal bool              `json:"com.docker.network.internal"`
	}
	IPv4Data, IPv6Data []ipamData
}

// ipamData is one subnet. Its addresses have a prefix length.
type ipamData struct {
	Pool         string
	Gateway      string
	AuxAddresses map[string]string
}

// gatewayRequest asks for which families the network that is to be created next needs no gateway.
type gatewayRequest struct {
	Options struct {
		Generic map[string]string `json:"com.docker.network.generic"`
	}
}

type gatewayAnswer struct{ SkipIPv4, SkipIPv6 bool }

func gatewayCheck(_ context.Context, r *gatewayRequest) (any, error) {
	options := r.Options.Generic
	return gatewayAnswer{model.Isolated(options, model.V4), model.Isolated(options, model.V6)}, nil
}

func (s *Server) createNetwork(ctx context.Context, r *networkRequest) (any, error) {
	if s.cfg.Controller.Snapshot().EngineNetwork(r.NetworkID) != nil {
		return done{}, nil // the engine starts, or did not get the answer
	}
	if r.NetworkID == "" {
		return nil, refuse("the network has no ID")
	}
	spec := model.NetworkSpec{
		Name: namePrefix + model.ShortID(r.NetworkID), EngineID: r.NetworkID, Engine: s.requester(ctx),
		Internal: r.Options.Internal, Options: r.Options.Generic,
	}
	var err error
	if spec.Subnets, err = subnetSpecs(slices.Concat(r.IPv4Data, r.IPv6Data)); err != nil {
		return nil, err
	}
	_, err = s.cfg.Controller.CreateNetwork(ctx, spec)
	return done{}, err
}

func subnetSpecs(all []ipamData) (specs []model.SubnetSpec, err error) {
	for _, data := range all {
		subnet, err := data.spec()
		if err != nil {
			return nil, err
		}
		specs = append(specs, subnet)
	}
	if len(specs) == 0 {
		return nil, refuse("the network has no subnet (create it with one)")
	}
	return specs, nil
}

// allocateRequest allocates a network of a swarm, on a manager. The options are those that the user gave,
// or those of an earlier answer.
type allocateRequest struct {
	NetworkID          string
	Options            map[string]string
	IPv4Data, IPv6Data []ipamData
}

// allocateAnswer has the options that each host gets with its request to create the network.
type allocateAnswer struct{ Options map[string]string }

func (s *Server) allocateNetwork(ctx context.Context, r *allocateRequest) (any, error) {
	subnets, err := subnetSpecs(slices.Concat(r.IPv4Data, r.IPv6Data))
	if err != nil {
		return nil, err
	}
	spec := model.NetworkSpec{Name: namePrefix + model.ShortID(r.NetworkID), Subnets: subnets, Options: r.Options}
	return allocateAnswer{r.Options}, s.cfg.Controller.AllocateNetwork(ctx, r.NetworkID, spec)
}

func (s *Server) freeNetwork(ctx context.Context, r *ids) (any, error) {
	return done{}, s.cfg.Controller.FreeNetwork(ctx, r.NetworkID)
}

func (d *ipamData) spec() (s model.SubnetSpec, err error) {
	if s.Prefix, err = netip.ParsePrefix(d.Pool); err != nil {
		return s, refuse("invalid subnet %q: %v", d.Pool, err)
	}
	if d.Gateway != "" {
		if s.Gateway, err = parseAddr(d.Gateway); err != nil {
			return s, err
		}
	}
	for name, text := range d.AuxAddresses {
		a, err := parseAddr(text)
		if err != nil {
			return s, err
		}
		if s.Aux == nil {
			s.Aux = map[string]netip.Addr{}
		}
		s.Aux[name] = a
	}
	return s, nil
}

// parseAddr parses an address with or without a prefix length.
func parseAddr(text string) (netip.Addr, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return a, refuse("invalid address %q: %v", text, err)
	}
	return a, nil
}

func (s *Server) deleteNetwork(ctx context.Context, r *ids) (any, error) {
	return done{}, s.cfg.Controller.RemoveEngineNetwork(ctx, r.NetworkID)
}

// device is an endpoint's interface. A request contains what the engine has already chosen, the
// answer the rest.
type device struct {
	Address, AddressIPv6, MacAddress string `json:",omitempty"`
}

type endpointRequest struct {
	ids
	Interface *device
	Options   struct {
		IfName string `json:"com.docker.network.endpoint.ifname"`
	}
}

type endpointAnswer struct{ Interface device }

func (s *Server) createEndpoint(ctx context.Context, r *endpointRequest) (any, error) {
	given := device{}
	if r.Interface != nil {
		given = *r.Interface
	}
	spec, err := given.spec()
	if err != nil {
		return nil, err
	}
	if name := r.Options.IfName; name != "" {
		return nil, refuse("cannot set interface name %s: Docker ignores names from remote drivers (use the network's option com.docker.network.container_iface_prefix)", name)
	}
	if spec.EngineID = r.EndpointID; spec.EngineID == "" {
		return nil, refuse("the endpoint has no ID")
	}
	ep, err := s.cfg.Controller.ReserveEndpoint(ctx, r.NetworkID, spec)
	if err != nil {
		return nil, err
	}
	var chosen device
	if given.MacAddress == "" {
		chosen.MacAddress = ep.MAC.String()
	}
	if given.Address == "" && ep.IPv4.IsValid() {
		chosen.Address = ep.IPv4.String()
	}
	if given.AddressIPv6 == "" && ep.IPv6.IsValid() {
		chosen.AddressIPv6 = ep.IPv6.String()
	}
	return endpointAnswer{chosen}, nil
}

func (d *device) spec() (s model.EndpointSpec, err error) {
	if d.Address != "" {
		if s.IPv4, err = parseAddr(d.Address); err != nil {
			return s, err
		}
	}
	if d.AddressIPv6 != "" {
		if s.IPv6, err = parseAddr(d.AddressIPv6); err != nil {
			return s, err
		}
	}
	if d.MacAddress != "" {
		if s.MAC, err = model.ParseMAC(d.MacAddress); err != nil {
			return s, refuse("%v", err)
		}
	}
	return s, nil
}

func (s *Server) deleteEndpoint(ctx context.Context, r *ids) (any, error) {
	return done{}, s.cfg.Controller.ReleaseEndpoint(ctx, r.EndpointID)
}

// endpointInfo returns nothing: the engine discards the ports that a remote driver reports.
func (s *Server) endpointInfo(_ context.Context, r *ids) (any, error) {
	if s.cfg.Controller.Snapshot().Endpoint(r.EndpointID) == nil {
		return nil, refuse("endpoint %s is not known to Fairlead", model.ShortID(r.EndpointID))
	}
	return struct{ Value map[string]any }{map[string]any{}}, nil
}

type joinRequest struct {
	ids
	SandboxKey string
}

// joinAnswer tells the engine which interface to move, and the default gateways. The gateway
// service is disabled, since it would also attach the container to one of Docker's bridges.
type joinAnswer struct {
	InterfaceName         struct{ SrcName, DstPrefix string }
	Gateway, GatewayIPv6  string `json:",omitempty"`
	DisableGatewayService bool
}

func (s *Server) join(ctx context.Context, r *joinRequest) (any, error) {
	// The key is a path that may not exist yet.
	ep, err := s.cfg.Controller.JoinEndpoint(ctx, r.EndpointID, namePrefix+path.Base(r.SandboxKey), r.SandboxKey)
	if err != nil {
		return nil, err
	}
	n := s.cfg.Controller.Snapshot().Network(ep.NetworkID)
	if n == nil {
		return nil, fmt.Errorf("network %s was removed", model.ShortID(ep.NetworkID))
	}
	out := joinAnswer{DisableGatewayService: true}
	out.InterfaceName.SrcName, out.InterfaceName.DstPrefix = ep.IfName, n.InterfacePrefix()
	out.Gateway, out.GatewayIPv6 = model.AddrText(n.DefaultGateway(ep, model.V4)), model.AddrText(n.DefaultGateway(ep, model.V6))
	return out, nil
}

// leave stops serving published ports. The devices stay until the endpoint is deleted, since the
// engine will move the inner end back.
func (s *Server) leave(ctx context.Context, r *ids) (any, error) {
	return done{}, s.cfg.Controller.UnpublishEndpoint(ctx, r.EndpointID)
}

// publishRequest makes an endpoint the default gateway. If its network has no IPv6, another
// endpoint remains the IPv6 gateway if the option says so, or if Revoke was not called for it.
type publishRequest struct {
	ids
	Options struct {
		Ports    []portBinding `json:"com.docker.network.portmap"`
		IPv4Only bool          `json:"com.docker.network.driver.private.no_proxy_6to4"`
	}
}

func (s *Server) publish(ctx context.Context, r *publishRequest) (any, error) {
	ports, err := portSpecs(r.Options.Ports)
	if err != nil {
		return nil, err
	}
	return done{}, s.cfg.Controller.PublishEndpoint(ctx, r.EndpointID, ports, r.Options.IPv4Only)
}
