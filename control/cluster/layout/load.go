// SPDX-License-Identifier: Apache-2.0

package layout

import (
	"context"
	"errors"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
)

// Absent is the revision of a key that does not exist.
var Absent kv.Rev

// Load reads a record and returns its revision, or Absent if it does not exist.
func Load(ctx context.Context, s kv.Store, key string, record any) (kv.Rev, error) {
	e, err := s.Get(ctx, key)
	if errors.Is(err, kv.ErrNotFound) {
		return Absent, nil
	}
	if err != nil {
		return Absent, err
	}
	return e.Rev, Decode(key, e.Value, record)
}
