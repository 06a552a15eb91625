// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/fairlead-net/fairlead/control/model"
)

// bandwidth returns the limits of the interface. The daemon validates them.
func (r *runtimeConfig) bandwidth() (b model.Bandwidth, err error) {
	if len(r.Bandwidth) == 0 {
		return b, nil
	}
	var keys map[string]json.RawMessage
	var limits struct {
		IngressRate, IngressBurst, EgressRate, EgressBurst uint64
	}
	if err := json.Unmarshal(r.Bandwidth, &keys); err != nil {
		return b, refuse(types.ErrDecodingFailure, "runtimeConfig: bandwidth: %v", err)
	}
	// containerd writes the keys with capitals, as Go does by default.
	maps.DeleteFunc(keys, func(key string, _ json.RawMessage) bool {
		return slices.ContainsFunc(bandwidthKeys, func(k string) bool { return strings.EqualFold(k, key) })
	})
	if err := known("bandwidth ", keys, bandwidthKeys); err != nil {
		return b, err
	}
	if err := json.Unmarshal(r.Bandwidth, &limits); err != nil {
		return b, refuse(types.ErrInvalidNetworkConfig, "runtimeConfig: bandwidth: %v (rates are whole numbers of bits per second, bursts of bits)", err)
	}
	return model.Bandwidth{
		Ingress: model.Limit{Rate: limits.IngressRate, Burst: limits.IngressBurst},
		Egress:  model.Limit{Rate: limits.EgressRate, Burst: limits.EgressBurst},
	}, nil
}
