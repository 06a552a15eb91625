// SPDX-License-Identifier: Apache-2.0

// Package layout defines the keys of a cluster's store and the records under them, in JSON. The
// first element of every key is the version of the layout: nodes with another version do not see
// each other's records.
package layout

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
)

// root is the prefix of all keys.
const root = "fairlead/v1/"

// Prefixes of keys, and keys without a variable part.
const (
	// Cluster is the record of the cluster itself.
	Cluster = root + "cluster"
	// Nodes: a node's record, by its ID. Only the node writes it.
	Nodes = root + "node/"
	// Alive: leased, present while the node is connected. Nothing that is forwarded depends on it.
	Alive = root + "alive/"
	// Numbers: the ID of the node that has a number.
	Numbers = root + "number/"
	// Networks: a network's record, by its ID.
	Networks = root + "net/"
	// Names: the ID of the network that has a name.
	Names = root + "name/"
	// VNIs: the ID of the network that has a VNI.
	VNIs = root + "vni/"
	// Subnets is the subnets of all networks in one record, so that overlaps are found by comparing
	// its revision.
	Subnets = root + "subnets"
	// Shards: the holders of ShardSize consecutive addresses of a network. Any node writes them.
	Shards = root + "ip/"
	// MACs: the holder of a MAC that a user chose.
	MACs = root + "mac/"
	// Endpoints: up to ChunkSize members of a network on one node. Only that node writes them.
	Endpoints = root + "ep/"
	// Confirmed: the leaving members of a network to which a node sends no new flow any more, by the
	// network and the node. Only the node writes it.
	Confirmed = root + "confirmed/"
	// Services: a service of a network, by the network and its name. Any node writes them.
	Services = root + "svc/"
)

const (
	// ShardSize is the number of addresses whose holders one record has. It is a power of two.
	ShardSize = 64
	// ChunkSize is the maximum number of members in one record of Endpoints. A record that changes
	// is sent to every node of the network.
	ChunkSize = 32
)

// Identity is the record under Cluster. The ID is another one after the store was wiped: then nodes
// write again what they know.
type Identity struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
}

// Network is the record of a network.
type Network struct {
	model.Network
	// Removing is the ID of a node that is removing the network. Meanwhile nothing can be claimed in
	// it.
	Removing      string    `json:"removing,omitempty"`
	RemovingSince time.Time `json:"removing_since,omitzero"`
}

// Service is the record of a service: what is the same on all nodes.
type Service struct{ model.Service }

// SubnetTable is the record under Subnets: the network of each subnet.
type SubnetTable map[netip.Prefix]string

// Shard is the record of some consecutive addresses of a network.
type Shard struct {
	// Next is where the search for a free address begins, relative to the first address, so that one
	// that was just released is not reused at once.
	Next uint8                              `json:"next"`
	Held map[netip.Addr]model.AddressHolder `json:"held,omitempty"`
}

// Chunk is the record of some members of a network on a node.
type Chunk struct {
	Members []model.Member `json:"members"`
}

// Confirmation is the record of the leaving members of a network to which a node sends no new flow.
type Confirmation struct {
	Members []string `json:"members"` // IDs
}

// NodeKey returns the key of a node's record.
func NodeKey(id string) string { return Nodes + id }

// AliveKey returns the key of a node's sign of life.
func AliveKey(id string) string { return Alive + id }

// NumberKey returns the key of a node's number.
func NumberKey(n uint16) string { return Numbers + strconv.Itoa(int(n)) }

// NetworkKey returns the key of a network's record.
func NetworkKey(id string) string { return Networks + id }

// maxName is the length of an escaped name up to which it is used as part of a key.
const maxName = 255

// NameKey returns the key of a network's name. A name may contain characters that a key must not: they
// are escaped, and a name that gets too long by that is replaced by its hash.
func NameKey(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		if '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '-' || c == '_' || c == '.' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "+%02x", c)
		}
	}
	if b.Len() > maxName {
		return fmt.Sprintf("%s+sha256:%x", Names, sha256.Sum256([]byte(name)))
	}
	return Names + b.String()
}

// VNIKey returns the key of a VNI.
func VNIKey(vni uint32) string { return VNIs + strconv.FormatUint(uint64(vni), 10) }

// ShardsOf returns the prefix of the keys of a network's shards.
func ShardsOf(network string) string { return Shards + network + "/" }

// ShardOf returns the addresses of the shard that an address belongs to.
func ShardOf(a netip.Addr) netip.Prefix {
	const bits = 6 // of ShardSize
	p, _ := a.Prefix(a.BitLen() - bits)
	return p
}

// ShardKey returns the key of the shard of an address.
func ShardKey(network string, a netip.Addr) string {
	return ShardsOf(network) + ShardOf(a).Addr().String()
}

// MACsOf returns the prefix of the keys of the chosen MACs of a network.
func MACsOf(network string) string { return MACs + network + "/" }

// MACKey returns the key of a chosen MAC.
func MACKey(network string, mac model.MAC) string { return MACsOf(network) + mac.String() }

// EndpointsOf returns the prefix of the keys of a network's members.
func EndpointsOf(network string) string { return Endpoints + network + "/" }

// EndpointsAt returns the prefix of the keys of a network's members on a node.
func EndpointsAt(network, node string) string { return EndpointsOf(network) + node + "/" }

// ChunkKey returns the key of a chunk of members.
func ChunkKey(network, node string, chunk int) string {
	return EndpointsAt(network, node) + strconv.Itoa(chunk)
}

// ParseChunkKey returns the parts of a key of Endpoints.
func ParseChunkKey(key string) (network, node string, chunk int, ok bool) {
	parts := strings.Split(strings.TrimPrefix(key, Endpoints), "/")
	if len(parts) != 3 || !strings.HasPrefix(key, Endpoints) {
		return "", "", 0, false
	}
	chunk, err := strconv.Atoi(parts[2])
	return parts[0], parts[1], chunk, err == nil
}

// ConfirmedOf returns the prefix of the keys of a network's confirmations.
func ConfirmedOf(network string) string { return Confirmed + network + "/" }

// ConfirmedKey returns the key of a node's confirmations.
func ConfirmedKey(network, node string) string { return ConfirmedOf(network) + node }

// ServicesOf returns the prefix of the keys of a network's services.
func ServicesOf(network string) string { return Services + network + "/" }

// ServiceKey returns the key of a service. A name is one of DNS, and its case does not matter.
func ServiceKey(network, name string) string { return ServicesOf(network) + strings.ToLower(name) }

// Encode encodes a record. Every record can be encoded.
func Encode(record any) []byte {
	b, err := json.Marshal(record)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", record, err))
	}
	return b
}

// Decode decodes a record.
func Decode(key string, value []byte, record any) error {
	if err := json.Unmarshal(value, record); err != nil {
		return fmt.Errorf("decode %q of the cluster's store: %w", key, err)
	}
	return nil
}
