// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"context"
	"errors"

	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
)

// Claimer is the part of a cluster that reserves what an endpoint of a shared network needs. Verbs
// call it without the lock of the state, because its store may not answer.
type Claimer interface {
	// Claim reserves what an endpoint needs, and Done ends the claim: what the state does not have
	// then is released.
	Claim(ctx context.Context, n *model.Network, spec model.EndpointSpec, member model.Member) (*model.Claim, error)
	Done(claim *model.Claim)
}

// claimTries bounds the attempts of a verb to use what the cluster reserved for it.
const claimTries = 4

// WithClaim calls verb with what the cluster reserves for an endpoint of a shared network in
// spec.Claim. Without an ID in member, each attempt has a new one.
func WithClaim(ctx context.Context, s *txn.State, c Claimer, n *model.Network, spec *model.EndpointSpec, member model.Member, verb func() error) error {
	given, network := member.ID, n
	for range claimTries {
		if given == "" {
			member.ID = NewID(s.Snapshot().EndpointsByPrefix)
		}
		var err error
		if spec.Claim, err = c.Claim(ctx, network, *spec, member); err != nil {
			return err
		}
		err = verb()
		c.Done(spec.Claim)
		if !errors.Is(err, ErrStaleClaim) {
			return err
		}
		if network = s.Snapshot().Network(n.ID); network == nil {
			return model.NoNetwork(n.Name)
		}
	}
	return model.Refuse(model.ErrConflict, "network %s is used and left by other sandboxes all the time (try again)", n.Name)
}
