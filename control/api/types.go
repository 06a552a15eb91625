// SPDX-License-Identifier: Apache-2.0

// Package api defines Fairlead's HTTP and JSON interface: the types of its messages, which have
// the form of the Docker Engine API where it has an equivalent, and their translation from and to
// the model. The server is in api/server, the client in api/client.
package api

import (
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
)

// DefaultHost is the daemon's default address.
const DefaultHost = "unix:///run/fairlead/api.sock"

// MaxBody is the maximum size of a request body in bytes.
const MaxBody = 1 << 20

// Network is a network as the Docker Engine API shows it.
type Network struct {
	Name       string
	ID         string `json:"Id"`
	Created    time.Time
	Scope      string
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       IPAM
	Internal   bool
	VNI        uint32 `json:",omitempty"` // of a network that hosts share
	MTU        int    `json:",omitempty"` // of one, in bytes
	Encrypted  bool   `json:",omitempty"` // between hosts
	// Uncarried: no program of Fairlead sees the packets, so nothing of them is counted, checked or published.
	Uncarried  bool                     `json:",omitempty"`
	HostAddrs  []string                 `json:",omitempty"` // of this host in a network with access for it
	Containers map[string]NetworkMember // by sandbox ID; filled by inspect only
	Options    map[string]string
	Labels     map[string]string
	ConfigOnly bool            `json:",omitempty"`
	ConfigFrom ConfigReference `json:",omitzero"`
	// Status has the numbers of addresses; filled by inspect only.
	Status *NetworkStatus `json:",omitempty"`
	// Unserved are the gateways where the network's DNS should be served but is not,
	// because another program uses the port.
	Unserved []string `json:",omitempty"`
}

// ConfigReference names the network that holds the configuration of another.
type ConfigReference struct{ Network string }

// NetworkStatus is the state of a network.
type NetworkStatus struct {
	IPAM IPAMStatus
	// Gateway is the state of the sandbox by which alone the members reach what is outside; null if the host is their gateway.
	Gateway *GatewayStatus `json:",omitempty"`
}

// GatewayStatus says whether a sandbox is the gateway that a network names. Error says why it is not; "" if it is.
type GatewayStatus struct {
	Sandbox string
	Error   string `json:",omitempty"`
}

// IPAMStatus has the numbers of a network's addresses, by subnet.
type IPAMStatus struct{ Subnets map[string]SubnetStatus }

// SubnetStatus has the numbers of addresses that are in use, and that can be allocated.
type SubnetStatus struct{ IPsInUse, DynamicIPsAvailable uint64 }

// IPAM is the address management of a network.
type IPAM struct {
	Driver  string
	Options map[string]string
	Config  []IPAMConfig
}

// IPAMConfig is one subnet with its options.
type IPAMConfig struct {
	Subnet             string            `json:",omitempty"`
	IPRange            string            `json:",omitempty"`
	Gateway            string            `json:",omitempty"`
	AuxiliaryAddresses map[string]string `json:",omitempty"`
}

// NetworkMember is a sandbox's endpoint in the output of network inspect.
type NetworkMember struct {
	Name        string
	EndpointID  string
	MacAddress  string
	IPv4Address string // with prefix length; "" if there is none
	IPv6Address string
	// Node is the name of the node that the sandbox is on, if that is another one.
	Node string `json:",omitempty"`
}

// NetworkCreate is the body of POST /networks/create. The fields below Labels
// exist because Docker's clients send them. Values that request an unsupported feature
// are refused.
type NetworkCreate struct {
	Name       string
	Driver     string            `json:",omitempty"`
	EnableIPv4 *bool             `json:",omitempty"`
	EnableIPv6 *bool             `json:",omitempty"`
	Internal   bool              `json:",omitempty"`
	IPAM       *IPAM             `json:",omitempty"`
	Options    map[string]string `json:",omitempty"`
	Labels     map[string]string `json:",omitempty"`

	CheckDuplicate bool             `json:",omitempty"`
	Scope          string           `json:",omitempty"`
	Attachable     bool             `json:",omitempty"` // without effect: any sandbox may join
	Ingress        bool             `json:",omitempty"`
	ConfigOnly     bool             `json:",omitempty"`
	ConfigFrom     *ConfigReference `json:",omitempty"`
}

// NetworkCreated is the response to POST /networks/create.
type NetworkCreated struct {
	ID      string `json:"Id"`
	Warning string
}

// NetworksPruned is the response to POST /networks/prune.
type NetworksPruned struct {
	NetworksDeleted []string // names
}

// EndpointConfig configures how a sandbox joins a network.
type EndpointConfig struct {
	IPAMConfig *EndpointIPAM `json:",omitempty"`
	Aliases    []string      `json:",omitempty"`
	Links      []string      `json:",omitempty"` // TARGET:ALIAS
	MacAddress string        `json:",omitempty"`
	GwPriority int           `json:",omitempty"` // the network with the highest has the default routes
	// InterfaceName is the interface's name in the sandbox; "": the first free of
	// eth0, eth1, ….
	InterfaceName string            `json:",omitempty"`
	DriverOpts    map[string]string `json:",omitempty"` // see ApplyDriverOpt
	Bandwidth     *Bandwidth        `json:",omitempty"` // null: no limit
}

// Bandwidth holds the limits of an interface, under CNI's names: rates in bits per second,
// bursts in bits, both zero if there is no limit. Ingress is towards the sandbox.
type Bandwidth struct {
	IngressRate  uint64
	IngressBurst uint64
	EgressRate   uint64
	EgressBurst  uint64
}

// EndpointIPAM holds the addresses that the user chose.
type EndpointIPAM struct {
	IPv4Address string `json:",omitempty"`
	IPv6Address string `json:",omitempty"`
	// Leased means that another program allocated the addresses and is notified of
	// their release.
	Leased bool `json:",omitempty"`
}

// NetworkConnect is the body of POST /networks/{ref}/connect.
type NetworkConnect struct {
	Container      string
	EndpointConfig *EndpointConfig `json:",omitempty"`
}

// NetworkDisconnect is the body of POST /networks/{ref}/disconnect.
type NetworkDisconnect struct {
	Container string
	Force     bool `json:",omitempty"`
}

// PortBinding is one host side of a published port. In a request, HostPort may
// be empty (automatic) or a range A-B.
type PortBinding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
	// From are the prefixes of the clients that reach the port; empty: all do.
	From []string `json:",omitempty"`
	// ClientSeenAs is the address that the sandbox sees instead of the client's, if the sandbox
	// lacks the family of the host address. "": the client's own. Not in requests.
	ClientSeenAs string `json:",omitempty"`
}

// SandboxCreate is the body of POST /sandboxes/create?name=. It has the form
// of Docker's container create. Keys of ExposedPorts and PortBindings may be
// ranges, as in "9000-9010/tcp".
type SandboxCreate struct {
	Hostname         string              `json:",omitempty"`
	Domainname       string              `json:",omitempty"`
	Cmd              []string            `json:",omitempty"`
	Labels           map[string]string   `json:",omitempty"`
	ExposedPorts     map[string]struct{} `json:",omitempty"`
	NetNS            string              `json:",omitempty"` // path of an existing namespace
	HostConfig       HostConfig
	NetworkingConfig NetworkingConfig
}

// HostConfig is the part of a sandbox's configuration that concerns the host.
type HostConfig struct {
	NetworkMode     string
	AutoRemove      bool
	PublishAllPorts bool                     `json:",omitempty"`
	PortBindings    map[string][]PortBinding `json:",omitempty"`
	DNS             []string                 `json:"Dns,omitempty"`
	DNSOptions      []string                 `json:"DnsOptions,omitempty"`
	DNSSearch       []string                 `json:"DnsSearch,omitempty"`
	ExtraHosts      []string                 `json:",omitempty"` // NAME:ADDRESS
	Sysctls         map[string]string        `json:",omitempty"` // of the network namespace
}

// NetworkingConfig configures how a new sandbox joins its first network. It has at most one
// entry, under the name in NetworkMode.
type NetworkingConfig struct {
	EndpointsConfig map[string]EndpointConfig `json:",omitempty"`
}

// Sandbox is the output of sandbox inspect, in the form of Docker's container
// inspect.
type Sandbox struct {
	ID      string `json:"Id"`
	Name    string
	Created time.Time
	State   SandboxState
	LogPath string // file for the program's output with run -d
	// Files to be mounted over those of the host, where programs are started; "": none.
	HostnamePath    string `json:",omitempty"`
	HostsPath       string `json:",omitempty"`
	ResolvConfPath  string `json:",omitempty"`
	Config          SandboxConfig
	HostConfig      HostConfig
	NetworkSettings NetworkSettings
}

// NetworkConnected is the response to POST /networks/ID/connect.
type NetworkConnected struct {
	Warnings []string // what was accepted but is not served, one sentence each
}

// SandboxCreated is the response to POST /sandboxes/create.
type SandboxCreated struct {
	Sandbox
	Network  *Network // the network that it joined, without members; null: none
	Warnings []string // what was accepted but is not served, one sentence each
}

// The values of SandboxState.Status.
const (
	StatusCreated = "created" // no program was started
	StatusRunning = "running"
	StatusExited  = "exited"
)

// SandboxState is the state of the program in a sandbox.
type SandboxState struct {
	Status   string
	Running  bool
	Pid      int
	PidStart uint64 // field 22 of /proc/PID/stat
	ExitCode *int   // null: not exited, or not known
}

// SandboxConfig is the part of a sandbox's configuration that concerns the program.
type SandboxConfig struct {
	Hostname     string
	Domainname   string `json:",omitempty"`
	Cmd          []string
	Labels       map[string]string
	ExposedPorts map[string]struct{} `json:",omitempty"`
}

// NetworkSettings is the current network configuration of a sandbox.
type NetworkSettings struct {
	SandboxKey string                      // path of the network namespace; "" with NetworkMode host
	Owned      bool                        // Fairlead created the namespace
	Ports      map[string][]PortBinding    // "80/tcp" -> host sides, one key per port
	Networks   map[string]EndpointSettings // by network name
}

// EndpointSettings is one endpoint of a sandbox.
type EndpointSettings struct {
	IPAMConfig          *EndpointIPAM
	Aliases             []string
	Links               []string `json:",omitempty"`
	NetworkID           string
	EndpointID          string
	InterfaceName       string
	Gateway             string
	IPAddress           string
	IPPrefixLen         int
	IPv6Gateway         string
	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
	MacAddress          string
	DefaultRoute        bool              // the sandbox's default route uses this endpoint
	GwPriority          int               `json:",omitempty"`
	Bandwidth           *Bandwidth        `json:",omitempty"`
	DriverOpts          map[string]string `json:",omitempty"`
	Lease               *Lease            `json:",omitempty"` // in networks with IPAM driver dhcp
}

// Lease is what a DHCP server gave an endpoint. A time that is left out never comes.
type Lease struct {
	State    string    // none, bound, renewing, rebinding or expired
	Address  string    // the current, the last or the requested one; "": none
	Server   string    `json:",omitempty"`
	DNS      []string  `json:",omitempty"`
	Domain   string    `json:",omitempty"`
	Obtained time.Time `json:",omitzero"`
	Renew    time.Time `json:",omitzero"` // when the server is asked to renew the lease
	Rebind   time.Time `json:",omitzero"` // when any server is asked
	Expires  time.Time `json:",omitzero"`
}

// NewLease returns the lease of an endpoint, or nil if it has none.
func NewLease(e *model.Endpoint, now time.Time) *Lease {
	l := e.Lease
	if l == nil {
		return nil
	}
	out := &Lease{
		State: e.LeaseState(now), Address: model.AddrText(l.Address.Addr()), Server: model.AddrText(l.Server), Domain: l.Domain,
		Obtained: l.Obtained, Renew: l.Renew, Rebind: l.Rebind, Expires: l.Expires,
	}
	for _, a := range l.DNS {
		out.DNS = append(out.DNS, a.String())
	}
	return out
}

// SandboxSummary is one row of GET /sandboxes.
type SandboxSummary struct {
	ID          string `json:"Id"`
	Name        string
	Command     []string
	Created     time.Time
	State       SandboxState
	NetworkMode string
	Networks    []string // names, in order of attachment
	Ports       []PortSummary
	Labels      map[string]string
}

// PortSummary is a published port, or Count consecutive ones, at one address.
type PortSummary struct {
	IP          string // of the host; of the sandbox itself if its network routes the family
	PublicPort  uint16
	PrivatePort uint16
	Count       uint16
	Type        string // tcp, udp, sctp
	// From and ClientSeenAs are the same as in PortBinding.
	From         []string `json:",omitempty"`
	ClientSeenAs string   `json:",omitempty"`
}

// SandboxStarted is the body of POST /sandboxes/{ref}/started.
type SandboxStarted struct {
	Pid      int    // in the daemon's PID namespace
	PidStart uint64 // field 22 of /proc/PID/stat
}

// Expected is the configuration that a runtime expects of a sandbox's interface. The zero
// value expects nothing.
type Expected struct {
	EndpointID string
	Gateways   []netip.Addr // of its default routes
}

// PublishedPorts is the body of POST /sandboxes/{ref}/publish and /unpublish, with the keys of HostConfig.
type PublishedPorts struct {
	PortBindings map[string][]PortBinding
}

// BandwidthChange is the body of POST /sandboxes/{ref}/bandwidth. No network means the only one of the sandbox; null means that a
// limit stays.
type BandwidthChange struct {
	Network         string `json:",omitempty"`
	Ingress, Egress *Limit `json:",omitempty"`
}

// Limit is one of an interface: a rate in bits per second and a burst in bits, both zero for no limit.
type Limit struct{ Rate, Burst uint64 }

// SandboxExited is the body of POST /sandboxes/{ref}/exited.
type SandboxExited struct {
	ExitCode int
}

// Flow is one tracked connection.
type Flow struct {
	Protocol         string
	State            string
	Source           string // ADDR:PORT, as in the flow's first packet
	Destination      string
	ReplySource      string // ADDR:PORT as in reply packets, after NAT
	ReplyDestination string
	Network          string // name; "": none
	Publish          uint32 // ID of the published port that it uses; 0: none
	AgeSeconds       float64
	ExpiresSeconds   float64
}

// FlowFilter selects flows in GET and DELETE /conntrack. Zero fields match all.
type FlowFilter struct {
	Protocol string // tcp, udp, icmp, …
	State    string
	Address  string // either address of either direction
	Port     uint16 // either port of either direction
	Network  string // name or ID
	Limit    int    // maximum number of flows; 0: all
}

// FlowsFlushed is the response to DELETE /conntrack.
type FlowsFlushed struct {
	Removed int
}

// Status is the response to GET /status. The daemon fills it in.
type Status struct {
	Version  string
	Pid      int
	Started  time.Time
	StateDir string
	RunDir   string
	BPFDir   string
	Attach   string // tcx or clsact
	Uplinks  []string
	// Troubles describes uplinks that do not work and the reasons, one line each.
	Troubles []string
	// Leases describes endpoints without an address, and leases that are not renewed, one line each.
	Leases []string `json:",omitempty"`
	// Gateways describes sandboxes that networks name as their gateway and that do not serve, one line each.
	Gateways  []string `json:",omitempty"`
	Networks  int
	Sandboxes int
	Endpoints int
	Publishes int
	Flows     int // currently in the conntrack table
	FlowsMax  int
	Repairs   map[string]uint64 // external changes that the reconciler repaired, by kind
	LastError string            // what is wrong now; "" if nothing is known to be
	Cluster   *ClusterStatus    `json:",omitempty"` // null: the host is not part of a cluster
}

// Node is a host of the cluster, as the daemon sees it.
type Node struct {
	ID        string
	Name      string
	Number    uint16 // in the datapath
	Self      bool   // the daemon's own host
	Status    string // up, down or unknown
	Address   string // of its end of the tunnels
	Device    string // through which this host reaches it; "": not at all
	MTU       int    // of packets of shared networks to it, in bytes; 0: not known
	Version   string
	Sandboxes int       // in networks that have sandboxes here too
	LastSeen  time.Time `json:",omitzero"` // if it is down
	// PublicKey is the key of the node's WireGuard device, "" if it has had none. LastHandshake is the last one
	// between it and this host.
	PublicKey     string    `json:",omitempty"`
	LastHandshake time.Time `json:",omitzero"`
	// Paths are the paths to the node that are probed: of networks that both hosts are members of.
	Paths []NodePath
}

// NodePath is what the last probes say of a path to a node, which is the one of encrypted networks or the one of
// the others. The large probes have the size of a network's largest packets, in bytes with the IP header.
type NodePath struct {
	Encrypted              bool
	State                  model.PathState
	RoundTrip              float64 // in seconds: median of the small probes; 0: none was answered
	Probes, Lost           int     // small ones
	LargeSize              int
	LargeProbes, LargeLost int
	LastAnswer             time.Time `json:",omitzero"`
	LastHeard              time.Time `json:",omitzero"` // last probe of the other host that arrived here
}

// The values of Node.Status.
const (
	NodeUp      = "up"
	NodeDown    = "down"
	NodeUnknown = "unknown" // the store does not answer
)

// AddressHolder is the holder of an address of a shared network.
type AddressHolder struct {
	Address  string
	Node     string // its name
	Endpoint string // ID; "": the node itself
	Sandbox  string // name; "": not known
	Since    time.Time
}

// ClusterStatus is the daemon's part in a cluster.
type ClusterStatus struct {
	Node      string // this host's name
	Number    uint16 // 0: not registered yet
	Store     string // its URL
	Reachable bool
	Since     time.Time // of the last change of Reachable
	Error     string    `json:",omitempty"`
	Nodes     int       // other nodes
	NodesDown int
	Members   int // sandboxes on other nodes, in networks that have sandboxes here
	// Waiting is the number of networks whose members here are not published yet.
	Waiting int
	// EncryptionError says why this host cannot encrypt, although the cluster has encrypted networks.
	EncryptionError string `json:",omitempty"`
}

// Version answers GET /version.
type Version struct {
	Version       string
	GitCommit     string
	GoVersion     string
	Os            string
	Arch          string
	KernelVersion string
}
