// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv/memory"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// seedVar repeats a run of TestRandomFaults.
const seedVar = "FAIRLEAD_SEED"

// faults are hosts, and a store that fails.
type faults struct {
	*testing.T
	r      *rand.Rand
	server *memory.Server
	hosts  []*host
	down   bool
}

// Hosts do random verbs while the store is stopped, emptied and cut off, answers are lost, the kernel refuses, and
// daemons are killed. Never do two endpoints have one address; and when all is well again, the store has
// exactly what the hosts have.
func TestRandomFaults(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(seedVar); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d (repeat with %s)", seed, seedVar)
	f := &faults{T: t, r: rand.New(rand.NewPCG(seed, 0)), server: memory.New()}
	for i := range 3 {
		f.hosts = append(f.hosts, newHost(t, f.server, string(rune('a'+i))).registered())
	}
	// A small subnet, so that addresses run out and are used again.
	n := f.hosts[0].overlay("web", "10.5.0.0/27")
	for _, h := range f.hosts {
		h.has("web")
	}
	steps := 400
	if testing.Short() {
		steps = 100
	}
	for range steps {
		f.step()
		f.distinct(n.ID)
	}
	f.heal()
	store := f.server.Open()
	defer store.Close()
	settled(t, store, n.ID, f.hosts...)
	for _, h := range f.hosts {
		h.Check()
		eventually(t, h.name+" creates again", func() error {
			name := "last-" + h.name
			if _, err := h.CreateSandbox(t.Context(), model.SandboxSpec{Name: name, NetworkMode: "web"}); errors.Is(err, model.ErrExhausted) {
				return h.RemoveSandbox(t.Context(), f.any(h), true)
			} else if err != nil {
				return err
			}
			return h.RemoveSandbox(t.Context(), name, false)
		})
	}
	settled(t, store, n.ID, f.hosts...)
}

// any returns the name of a sandbox of a host, or one that does not exist.
func (f *faults) any(h *host) string {
	name := "nobody"
	for sb := range h.Snapshot().Sandboxes() {
		if name = sb.Name; f.r.IntN(3) == 0 {
			break
		}
	}
	return name
}

func (f *faults) step() {
	h := f.hosts[f.r.IntN(len(f.hosts))]
	ctx, cancel := context.WithTimeout(f.Context(), 5*time.Second)
	defer cancel()
	switch p := f.r.IntN(100); {
	case p < 40:
		spec := model.SandboxSpec{Name: fmt.Sprint(h.name, f.r.IntN(12)), NetworkMode: "web"}
		if f.r.IntN(3) == 0 {
			spec.Endpoint.IPv4 = netip.AddrFrom4([4]byte{10, 5, 0, byte(2 + f.r.IntN(29))})
		}
		if f.r.IntN(6) == 0 {
			spec.Endpoint.MAC = model.MAC{2, 1, 1, 1, 1, byte(f.r.IntN(4))}
		}
		if f.r.IntN(8) == 0 {
			h.Kernel.OnApply = func(*desired.Snapshot) error { return errors.New("refused") }
			defer func() { h.Kernel.OnApply = nil }()
		}
		f.expect(second(h.CreateSandbox(ctx, spec)))
	case p < 70:
		f.expect(h.RemoveSandbox(ctx, f.any(h), true))
	case p < 75:
		f.expect(second(h.Connect(ctx, "web", f.any(h), model.EndpointSpec{})))
	case p < 80:
		f.expect(h.Disconnect(ctx, "web", f.any(h), true))
	case p < 84:
		h.restart()
	case p < 88:
		h.conn.Cut(f.r.IntN(2) == 0)
	case p < 90:
		h.conn.Hang(f.r.IntN(2) == 0)
	case p < 94:
		if f.down = !f.down; f.down {
			f.server.Stop()
		} else {
			f.server.Start()
		}
	case p < 96:
		f.server.Compact()
	default:
		time.Sleep(time.Duration(f.r.IntN(100)) * time.Millisecond)
	}
}

func second[V any](_ V, err error) error { return err }

// expect accepts refusals, and fails the test after other errors.
func (f *faults) expect(err error) {
	f.Helper()
	var refusal *model.Refusal
	if err != nil && !errors.As(err, &refusal) && err.Error() != "refused" && !errors.Is(err, context.DeadlineExceeded) {
		f.Errorf("a verb failed without a refusal: %v", err)
	}
}

// distinct checks that no address belongs to two endpoints.
func (f *faults) distinct(network string) {
	f.Helper()
	owner := map[netip.Addr]string{}
	for _, h := range f.hosts {
		for ep := range h.Snapshot().Members(network) {
			if other, twice := owner[ep.IPv4.Addr()]; twice {
				f.Fatalf("%v belongs to %s and to an endpoint of %s", ep.IPv4, other, h.name)
			}
			owner[ep.IPv4.Addr()] = h.name
		}
		if n := h.Snapshot().Network(network); n != nil && n.NodeIPv4.IsValid() {
			if other, twice := owner[n.NodeIPv4]; twice {
				f.Fatalf("%v belongs to %s and to host %s itself", n.NodeIPv4, other, h.name)
			}
			owner[n.NodeIPv4] = h.name
		}
	}
}

// heal ends all faults.
func (f *faults) heal() {
	if f.down {
		f.server.Start()
	}
	for _, h := range f.hosts {
		h.conn.Cut(false)
		h.conn.Hang(false)
		h.cluster.Verify()
	}
}
