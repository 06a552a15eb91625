// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"flag"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/fairlead-net/fairlead/test/lab"
	"github.com/fairlead-net/fairlead/test/machine"
)

// rounds is small for the sake of the other tests; docs/cni.md has more.
var rounds = flag.Int("rounds", 10, "how often each contestant of TestTimes adds and removes a container")

// contestant is a runtime's network and its container.
type contestant struct {
	name     string
	c        *container
	list     *libcni.NetworkConfigList
	add, del []time.Duration
}

func (c *contestant) round() {
	c.c.r.Helper()
	start := time.Now()
	c.c.add(c.list)
	added := time.Now()
	c.c.del(c.list)
	c.add, c.del = append(c.add, added.Sub(start)), append(c.del, time.Since(added))
}

// limit is the most that the plugin may take of the others' time. It takes about a
// sixth for an ADD and a fourteenth for a DEL.
const limit = 1.0 / 3

// A container with a published port is there, and gone again, faster than with
// bridge, host-local and portmap. Each contestant has a host of its own; they take
// turns, and each begins in turn.
func TestTimes(t *testing.T) {
	r := newRuntime(t, lab.Config{NoDaemon: true})
	r.Binary = filepath.Join(r.plugins, "fairlead")
	r.StartDaemon()
	ports := config{"portMappings": []config{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}
	ours := &contestant{name: "fairlead-cni", c: r.container("ours", ports), list: r.list("1.0.0", "pods", nil)}
	all := []*contestant{ours, r.reference(ports)}
	for _, c := range all {
		c.round() // makes the network
		c.add, c.del = nil, nil
	}
	watch := machine.Start()
	defer watch.Stop()
	for i := range *rounds {
		for k := range all {
			all[(i+k)%len(all)].round()
		}
	}
	for _, c := range all {
		t.Logf("%-12s ADD p50 %6.1f ms p99 %6.1f ms   DEL p50 %6.1f ms p99 %6.1f ms", c.name,
			ms(c.add, 50), ms(c.add, 99), ms(c.del, 50), ms(c.del, 99))
	}
	// On a busy machine both wait for a processor most of the time.
	most := min(1, limit*watch.Slowness())
	faster(t, "ADD", most, ours.add, all[1].add)
	faster(t, "DEL", most, ours.del, all[1].del)
}

// faster judges the median of the rounds' ratios.
func faster(t *testing.T, verb string, limit float64, ours, theirs []time.Duration) {
	t.Helper()
	ratios := make([]float64, len(ours))
	for i := range ours {
		ratios[i] = float64(ours[i]) / float64(theirs[i])
	}
	slices.Sort(ratios)
	median := ratios[len(ratios)/2]
	t.Logf("%s: %.2f of their time (%.2f to %.2f)", verb, median, ratios[0], ratios[len(ratios)-1])
	if median > limit {
		t.Errorf("%s takes %.2f of the time of the reference plugins, want %.2f at most", verb, median, limit)
	}
}

// reference is a container on a host with the plugins that come with CNI.
func (r *runtime) reference(ports config) *contestant {
	host := r.NewHost("reference")
	peer := *r
	peer.CNIConfig = libcni.NewCNIConfigWithCacheDir([]string{debianPlugins}, r.Dir("peercache"), onHost{host, new(version.PluginDecoder)})
	list := peer.list("1.0.0", "peers", config{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
		"ipam": config{"type": "host-local", "dataDir": r.Dir("peerleases"), "ranges": [][]config{{{"subnet": "10.78.0.0/16"}}}, "routes": []config{{"dst": "0.0.0.0/0"}}},
	}, config{"type": "portmap", "capabilities": config{"portMappings": true}})
	return &contestant{name: "bridge", c: peer.container("theirs", ports), list: list}
}

// ms is a percentile in milliseconds.
func ms(times []time.Duration, percentile int) float64 {
	sorted := slices.Sorted(slices.Values(times))
	return float64(sorted[(len(sorted)*percentile-1)/100]) / float64(time.Millisecond)
}
