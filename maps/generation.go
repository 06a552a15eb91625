// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
)

// generation is fl_generation: it ends the decisions that the programs have cached. Safe for
// concurrent use.
type generation struct {
	mu sync.Mutex
	m  *ebpf.Map
}

// next ends all decisions that were made from tables as they were before. Programs count in the
// lower half at the same time, so this counts in the upper one.
func (g *generation) next() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var key uint32
	var v uint64
	if err := g.m.Lookup(key, &v); err != nil {
		return fmt.Errorf("read table %s: %w", bpf.TCMapFlGeneration, err)
	}
	if err := g.m.Update(key, v+1<<32, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("write to table %s: %w", bpf.TCMapFlGeneration, err)
	}
	return nil
}
