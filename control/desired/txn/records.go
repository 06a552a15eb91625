// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"encoding/json"

	"github.com/fairlead-net/fairlead/control/model"
)

// The stored forms of objects, where they differ from the model. A change here needs another
// version of the schema (package schema).

// localOf returns the value to store of what only this host knows of a network, or nil if there is no
// network.
func localOf(n *model.Network) any {
	if n == nil {
		return nil
	}
	return n.Local
}

// publishRecord is the stored form of a publish.
type publishRecord struct {
	ID         uint32 `json:"id"`
	EndpointID string `json:"endpoint_id"`
	model.PortBinding
}

type publishes []publishRecord

// Bindings returns the host ports of all.
func (ps publishes) Bindings() (all []model.PortBinding) {
	for _, p := range ps {
		all = append(all, p.PortBinding)
	}
	return all
}

// publishRecords returns the value to store for a sandbox's publishes, or nil if there
// are none.
func publishRecords(ps []*model.Publish) any {
	if len(ps) == 0 {
		return nil
	}
	out := make(publishes, len(ps))
	for i, p := range ps {
		out[i] = publishRecord{p.ID, p.EndpointID, p.PortBinding}
	}
	return out
}

// read decodes a stored object.
func read[V any](value []byte) (*V, error) {
	v := new(V)
	if err := json.Unmarshal(value, v); err != nil {
		return nil, err
	}
	return v, nil
}
