// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"encoding/json"

	"github.com/fairlead-net/fairlead/control/model"
)

// The stored forms of objects, where they differ from the model.

// networkRecord is the stored form of a network.
type networkRecord struct {
	*model.Network
	ManagedBy *model.Manager `json:"managed_by,omitempty"` // not stored
	Foreign   bool           `json:"foreign,omitempty"`    // managed by an engine
}

func networkRecordOf(n *model.Network) any {
	if n == nil {
		return nil
	}
	return networkRecord{Network: n, Foreign: n.ManagedBy == model.ByEngine}
}

func readNetwork(value []byte) (*model.Network, error) {
	r := networkRecord{Network: &model.Network{}}
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, err
	}
	if r.Foreign {
		r.Network.ManagedBy = model.ByEngine
	}
	return r.Network, nil
}

// sandboxRecord is the stored form of a sandbox.
type sandboxRecord struct {
	*model.Sandbox
	ManagedBy *model.Manager `json:"managed_by,omitempty"` // not stored
	Owned     bool           `json:"owned,omitempty"`      // has a namespace that Fairlead created
	Foreign   bool           `json:"foreign,omitempty"`    // managed by an engine
}

func sandboxRecordOf(sb *model.Sandbox) any {
	if sb == nil {
		return nil
	}
	return sandboxRecord{Sandbox: sb, Owned: sb.OwnsNetNS(), Foreign: sb.ManagedBy == model.ByEngine}
}

func readSandbox(value []byte) (*model.Sandbox, error) {
	r := sandboxRecord{Sandbox: &model.Sandbox{}}
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, err
	}
	sb := r.Sandbox
	switch {
	case r.Foreign:
		sb.ManagedBy = model.ByEngine
	case r.Owned || sb.NetNS == "" || sb.SharesNetNS():
		sb.ManagedBy = model.ByFairlead
	case model.HasRuntimeLabel(sb.Labels):
		sb.ManagedBy = model.ByRuntime
	default:
		sb.ManagedBy = model.ByUser
	}
	return sb, nil
}

// endpointRecord is the stored form of an endpoint.
type endpointRecord struct {
	*model.Endpoint
	DefaultRoute4 *bool `json:"default_route4,omitempty"` // not stored
	DefaultRoute6 *bool `json:"default_route6,omitempty"` // not stored
	Gateway       bool  `json:"gateway,omitempty"`        // of either family
	Only4         bool  `json:"only4,omitempty"`          // not of IPv6
}

func endpointRecordOf(ep *model.Endpoint) any {
	if ep == nil {
		return nil
	}
	return endpointRecord{Endpoint: ep, Gateway: ep.IsGateway(), Only4: ep.IsGateway() && !ep.DefaultRoute6}
}

func readEndpoint(value []byte) (*model.Endpoint, error) {
	r := endpointRecord{Endpoint: &model.Endpoint{}}
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, err
	}
	r.Endpoint.DefaultRoute4, r.Endpoint.DefaultRoute6 = r.Gateway, r.Gateway && !r.Only4
	return r.Endpoint, nil
}

// publishRecord is the stored form of a publish.
type publishRecord struct {
	ID         uint32 `json:"id"`
	EndpointID string `json:"endpoint_id"`
	model.PortBinding
}

// publishRecords returns the value to store for a sandbox's publishes, nil if there
// are none.
func publishRecords(ps []*model.Publish) any {
	if len(ps) == 0 {
		return nil
	}
	out := make([]publishRecord, len(ps))
	for i, p := range ps {
		out[i] = publishRecord{p.ID, p.EndpointID, p.PortBinding}
	}
	return out
}
