// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/etcfiles"
	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
)

// view converts one snapshot to API types.
type view struct {
	snap     *desired.Snapshot
	runDir   string
	alive    func(pid int, start uint64) bool
	unserved func() []netip.Addr
}

func (s *Server) view() *view {
	return &view{snap: s.cfg.Backend.Snapshot(), runDir: s.cfg.RunDir, alive: s.cfg.Alive, unserved: sync.OnceValue(s.cfg.Backend.Unserved)}
}

func (v *view) network(n *model.Network, members bool) api.Network {
	out := api.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: api.ScopeOf(n), Driver: n.Driver,
		EnableIPv4: n.EnableIPv4, EnableIPv6: n.EnableIPv6, Internal: n.Internal,
		ConfigOnly: n.ConfigOnly, ConfigFrom: api.ConfigReference{Network: n.ConfigFrom},
		IPAM: api.IPAM{Driver: cmp.Or(n.IPAM, "default"), Options: map[string]string{}, Config: []api.IPAMConfig{}},
		VNI:  n.VNI, Encrypted: n.Encrypted, Containers: map[string]api.NetworkMember{}, Options: notNil(n.Options), Labels: notNil(n.Labels),
	}
	out.Uncarried = n.Has().Endpoint != model.NoDevice && !n.Has().Entries
	for _, f := range model.Families {
		if a := n.NodeAddr(f); n.HostAccess && a.IsValid() {
			out.HostAddrs = append(out.HostAddrs, a.String())
		}
	}
	subnets := n.Claimed()
	if n.ConfigOnly {
		subnets = n.Subnets
	}
	if n.Has().Shared {
		subnets, out.MTU = n.Subnets, n.DeviceMTU()
	}
	for _, s := range subnets {
		c := api.IPAMConfig{Subnet: prefixString(s.Prefix), IPRange: s.IPRange.String(), Gateway: model.AddrText(s.Gateway)}
		for name, a := range s.Aux {
			if c.AuxiliaryAddresses == nil {
				c.AuxiliaryAddresses = map[string]string{}
			}
			c.AuxiliaryAddresses[name] = a.String()
		}
		out.IPAM.Config = append(out.IPAM.Config, c)
		if n.DNS && slices.Contains(v.unserved(), s.Gateway) {
			out.Unserved = append(out.Unserved, c.Gateway)
		}
	}
	if !members {
		return out
	}
	for e := range v.snap.Members(n.ID) {
		if e.SandboxID == "" {
			continue
		}
		m := api.NetworkMember{
			EndpointID: e.ID, MacAddress: macText(e.MAC),
			IPv4Address: prefixString(e.IPv4), IPv6Address: prefixString(e.IPv6),
		}
		if sb := v.snap.Sandbox(e.SandboxID); sb != nil {
			m.Name = sb.Name
		}
		out.Containers[e.SandboxID] = m
	}
	return out
}

// status counts the addresses of a network, with those of members on other nodes.
func (v *view) status(n *model.Network, remote []model.RemoteMember) *api.NetworkStatus {
	out := &api.NetworkStatus{IPAM: api.IPAMStatus{Subnets: map[string]api.SubnetStatus{}}}
	if n.Router != "" {
		out.Gateway = &api.GatewayStatus{Sandbox: n.Router, Error: v.snap.RouterError(n)}
	}
	for _, s := range n.Subnets {
		f := model.FamilyOf(s.Prefix.Addr())
		pool, err := ipam.ForSubnet(s)
		if n.ConfigOnly || err != nil {
			continue
		}
		addrs := []netip.Addr{n.NodeAddr(f)}
		for e := range v.snap.Members(n.ID) {
			addrs = append(addrs, e.Addr(f))
		}
		for svc := range v.snap.ServicesOf(n.ID) {
			addrs = append(addrs, svc.Addr(f))
		}
		for _, m := range remote {
			addrs = append(addrs, m.Addr(f))
		}
		for _, a := range addrs {
			_ = pool.Reserve(a) // it refuses what does not count: the zero Addr, addresses of other subnets, and duplicates
		}
		used, free := pool.Numbers()
		out.IPAM.Subnets[s.Prefix.String()] = api.SubnetStatus{IPsInUse: used, DynamicIPsAvailable: free}
	}
	return out
}

func (v *view) state(sb *model.Sandbox) api.SandboxState {
	st := api.SandboxState{Status: api.StatusCreated}
	switch {
	case sb.Exited:
		st.Status = api.StatusExited
		if code := sb.ExitCode; code >= 0 { // otherwise the code is not known
			st.ExitCode = &code
		}
	case sb.ManagedBy == model.ByEngine: // exists only while the engine runs the container
		st = api.SandboxState{Status: api.StatusRunning, Running: true}
	case sb.PID == 0:
	case v.alive(sb.PID, sb.PIDStart):
		st = api.SandboxState{Status: api.StatusRunning, Running: true, Pid: sb.PID, PidStart: sb.PIDStart}
	default:
		// A detached program does not have a parent that reports its status.
		st.Status = api.StatusExited
	}
	return st
}

func (v *view) sandbox(sb *model.Sandbox) api.Sandbox {
	out := api.Sandbox{
		ID: sb.ID, Name: sb.Name, Created: sb.Created, State: v.state(sb), LogPath: logPath(v.runDir, sb.ID),
		Config: api.SandboxConfig{
			Hostname: sb.UTSName(), Domainname: sb.Lookup.Domainname, Cmd: sb.Command, Labels: notNil(sb.Labels), ExposedPorts: api.NewExposedPorts(sb.Expose),
		},
		HostConfig: api.HostConfig{NetworkMode: sb.NetworkMode, AutoRemove: sb.AutoRemove, PortBindings: api.NewPortBindings(requested(sb.Ports)), Sysctls: sb.Sysctls},
		NetworkSettings: api.NetworkSettings{
			SandboxKey: sb.NetNS, Owned: sb.OwnsNetNS(),
			Ports: map[string][]api.PortBinding{}, Networks: map[string]api.EndpointSettings{},
		},
	}
	out.HostConfig.SetLookup(sb.Lookup)
	if sb.HasFiles() {
		dir := etcfiles.Dir(filepath.Join(v.runDir, "etc"), sb.ID)
		out.HostsPath, out.ResolvConfPath = filepath.Join(dir, etcfiles.Hosts), filepath.Join(dir, etcfiles.ResolvConf)
		if sb.UTSName() != "" {
			out.HostnamePath = filepath.Join(dir, etcfiles.Hostname)
		}
	}
	for _, p := range v.ports(sb) {
		for i := range p.Count {
			key := strconv.Itoa(int(p.PrivatePort+i)) + "/" + p.Type
			b := api.PortBinding{HostIP: p.IP, HostPort: strconv.Itoa(int(p.PublicPort + i)), From: p.From, ClientSeenAs: p.ClientSeenAs}
			out.NetworkSettings.Ports[key] = append(out.NetworkSettings.Ports[key], b)
		}
	}
	for e := range v.snap.EndpointsOf(sb.ID) {
		if n := v.snap.Network(e.NetworkID); n != nil {
			out.NetworkSettings.Networks[n.Name] = endpointSettings(n, e)
		}
	}
	return out
}

// requested returns published ports in the form of a request for exactly these.
func requested(ports []model.PortBinding) []model.PortSpec {
	specs := make([]model.PortSpec, 0, len(ports))
	for _, p := range ports {
		specs = append(specs, model.PortSpec{HostIP: p.HostIP, HostPort: p.HostPort, HostCount: p.Count, Port: p.Port, Count: p.Count, Proto: p.Proto, From: p.From})
	}
	return specs
}

// macText returns a MAC, or "" for an endpoint that has that of its network's parent.
func macText(m model.MAC) string {
	if m.IsZero() {
		return ""
	}
	return m.String()
}

func endpointSettings(n *model.Network, e *model.Endpoint) api.EndpointSettings {
	out := api.EndpointSettings{
		Aliases: e.Aliases, Links: api.LinkTexts(e.Links), NetworkID: e.NetworkID, EndpointID: e.ID, InterfaceName: e.IfName,
		IPAddress: model.AddrText(e.IPv4.Addr()), GlobalIPv6Address: model.AddrText(e.IPv6.Addr()),
		MacAddress: macText(e.MAC), DefaultRoute: e.IsGateway(), GwPriority: e.GwPriority,
		Bandwidth: api.NewBandwidth(e.Bandwidth), DriverOpts: api.DriverOpts(e.Sysctls),
	}
	if e.FixedIPv4 || e.FixedIPv6 {
		out.IPAMConfig = &api.EndpointIPAM{Leased: e.Leased}
	}
	if e.FixedIPv4 {
		out.IPAMConfig.IPv4Address = out.IPAddress
		if e.Lease != nil {
			out.IPAMConfig.IPv4Address = model.AddrText(e.Lease.Address.Addr())
		}
	}
	if e.FixedIPv6 {
		out.IPAMConfig.IPv6Address = out.GlobalIPv6Address
	}
	if out.Lease = api.NewLease(e, time.Now()); out.Lease != nil && e.IPv4.IsValid() {
		out.IPPrefixLen, out.Gateway = e.IPv4.Bits(), model.AddrText(e.Lease.Router)
	}
	if s, ok := n.SubnetWith(e.IPv4.Addr()); ok {
		out.IPPrefixLen, out.Gateway = e.IPv4.Bits(), model.AddrText(s.Gateway)
	}
	if s, ok := n.SubnetWith(e.IPv6.Addr()); ok {
		out.GlobalIPv6PrefixLen, out.IPv6Gateway = e.IPv6.Bits(), model.AddrText(s.Gateway)
	}
	return out
}

// ports lists the published ports of a sandbox, one entry per host address. Of a family that is routed that is the sandbox's
// own address.
func (v *view) ports(sb *model.Sandbox) []api.PortSummary {
	out := []api.PortSummary{}
	for e := range v.snap.EndpointsOf(sb.ID) {
		n := v.snap.Network(e.NetworkID)
		if n == nil {
			continue
		}
		for p := range v.snap.PublishesOf(e.ID) {
			for _, o := range n.Openings(e, p.PortBinding) {
				row := api.PortSummary{IP: o.Host.String(), PublicPort: o.Port, PrivatePort: p.Port, Count: p.Count, Type: p.Proto.String(), From: p.From.Texts()}
				if !o.Direct {
					row.ClientSeenAs = clientSeenAs(n, o.Host, o.Backend)
				}
				out = append(out, row)
			}
		}
	}
	slices.SortFunc(out, func(a, b api.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.Type, b.Type),
			cmp.Compare(a.PublicPort, b.PublicPort), cmp.Compare(a.IP, b.IP))
	})
	return out
}

// foldPorts merges consecutive ports into one entry, because a list of a thousand sandboxes
// with ten ports each consists mostly of ports.
func foldPorts(ports []api.PortSummary) []api.PortSummary {
	type kind struct{ ip, proto, from string }
	last := map[kind]int{} // index into out
	out := ports[:0]
	for _, p := range ports {
		k := kind{p.IP, p.Type, strings.Join(p.From, ",")}
		if i, ok := last[k]; ok && int(out[i].PublicPort)+int(out[i].Count) == int(p.PublicPort) &&
			int(out[i].PrivatePort)+int(out[i].Count) == int(p.PrivatePort) {
			out[i].Count += p.Count
			continue
		}
		last[k] = len(out)
		out = append(out, p)
	}
	return out
}

// clientSeenAs returns the address that replaces the client's at a host address: the gateway's if
// the backend has the other family, otherwise "".
func clientSeenAs(n *model.Network, host, backend netip.Addr) string {
	if host.Is4() == backend.Is4() {
		return ""
	}
	s, _ := n.Subnet(model.FamilyOf(backend))
	return model.AddrText(s.Gateway)
}

func (v *view) summary(sb *model.Sandbox) api.SandboxSummary {
	out := api.SandboxSummary{
		ID: sb.ID, Name: sb.Name, Command: sb.Command, Created: sb.Created, State: v.state(sb),
		NetworkMode: sb.NetworkMode, Networks: []string{}, Ports: foldPorts(v.ports(sb)), Labels: notNil(sb.Labels),
	}
	for e := range v.snap.EndpointsOf(sb.ID) {
		if n := v.snap.Network(e.NetworkID); n != nil {
			out.Networks = append(out.Networks, n.Name)
		}
	}
	return out
}

func notNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func prefixString(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}
