// SPDX-License-Identifier: Apache-2.0

package memory_test

import (
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/kv/kvtest"
	"github.com/fairlead-net/fairlead/control/cluster/kv/memory"
)

// cluster is the reference behind the interface of the tests.
type cluster struct{ *memory.Server }

func (c cluster) Dial(t *testing.T) *kvtest.Client {
	conn := c.Server.Dial()
	store := kv.New(conn, kvtest.Config("memory://"))
	t.Cleanup(func() { _ = store.Close() })
	return &kvtest.Client{Store: store, Cut: conn.Cut}
}
func (c cluster) Stop(*testing.T)      { c.Server.Stop() }
func (c cluster) Start(*testing.T)     { c.Server.Start() }
func (c cluster) Wipe(*testing.T)      { c.Server.Wipe() }
func (c cluster) Compact(*testing.T)   { c.Server.Compact() }
func (c cluster) TTL() time.Duration   { return 300 * time.Millisecond }
func (c cluster) Grace() time.Duration { return 200 * time.Millisecond }

// The reference passes the tests of all stores.
func TestConformance(t *testing.T) {
	kvtest.Run(t, cluster{memory.New()})
}
