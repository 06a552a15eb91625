// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/test/lab"
)

// Limits of the tests, in bits per second and bits.
const (
	ingressRate = 20_000_000
	egressRate  = 30_000_000
	limitBurst  = 400_000
	// unlimitedRate is what a container without limits reaches on any machine.
	unlimitedRate = 5 * ingressRate
)

func limits() config {
	return config{"ingressRate": ingressRate, "ingressBurst": limitBurst, "egressRate": egressRate, "egressBurst": limitBurst}
}

// limitable is a network whose containers may be limited.
func (r *runtime) limitable() *libcni.NetworkConfigList {
	return r.list("1.1.0", "pods", config{
		"subnets":      []config{{"subnet": "10.77.0.0/24"}, {"subnet": "fd00:77::/64"}},
		"capabilities": config{"bandwidth": true, "portMappings": true},
	})
}

// limitedPath is a way to or from a limited container.
type limitedPath struct {
	name string
	flow func(r *runtime, limited, neighbour *joined, f lab.Family) flow
}

func limitedPaths() []limitedPath {
	return []limitedPath{
		{"neighbour", func(r *runtime, limited, neighbour *joined, f lab.Family) flow {
			return flow{client: neighbour.Host, server: limited.Host, address: limited.address(f)}
		}},
		{"host", func(r *runtime, limited, _ *joined, f lab.Family) flow {
			return flow{client: r.Host, server: limited.Host, address: limited.address(f)}
		}},
		{"published", func(r *runtime, limited, _ *joined, f lab.Family) flow {
			return flow{client: r.Outside, server: limited.Host, address: f.Of(lab.Host4, lab.Host6)}
		}},
		{"masqueraded", func(r *runtime, limited, _ *joined, f lab.Family) flow {
			return flow{client: limited.Host, server: r.Outside, address: f.Of(lab.Outside4, lab.Outside6)}
		}},
	}
}

// joined is a container in a network.
type joined struct {
	*container
	v4, v6 string
}

func (j *joined) address(f lab.Family) string { return f.Of(j.v4, j.v6) }

func (r *runtime) joins(pods *libcni.NetworkConfigList, id string, capabilities config) *joined {
	r.Helper()
	c := r.container(id, capabilities)
	res := c.add(pods)
	return &joined{c, res.IPs[0].Address.IP.String(), res.IPs[1].Address.IP.String()}
}

// A container gets and sends no faster than its limits say, and no slower, with
// everybody; the others are as fast as they were.
func TestBandwidth(t *testing.T) {
	t.Parallel()
	r := newRuntime(t, lab.Config{})
	pods := r.limitable()
	neighbour, other := r.joins(pods, "neighbour", nil), r.joins(pods, "other", nil)
	t.Run("limited", func(t *testing.T) {
		for i, p := range limitedPaths() {
			for _, f := range lab.Families() {
				port := 8000 + 10*i + int(f)
				limited := r.joins(pods, p.name+f.String(), config{"bandwidth": limits(), "portMappings": []config{
					{"hostPort": port, "containerPort": port, "protocol": "tcp"}, {"hostPort": port, "containerPort": port, "protocol": "udp"},
				}})
				t.Run(p.name+"/IPv"+f.String(), func(t *testing.T) {
					t.Parallel()
					fl := p.flow(r, limited, neighbour, f)
					fl.port = port
					forth, back := float64(ingressRate), float64(egressRate)
					if fl.client == limited.Host {
						forth, back = back, forth
					}
					for _, fl.network = range []string{"tcp", "udp"} {
						fl.back = false
						fl.passesAt(t, forth)
						fl.back = true
						fl.passesAt(t, back)
					}
				})
			}
		}
	})
	busy := r.joins(pods, "busy", config{"bandwidth": limits()})
	stop := flow{network: "udp", client: neighbour.Host, server: busy.Host, address: busy.v4, port: 9000}.keep(t)
	defer stop()
	flow{network: "tcp", client: neighbour.Host, server: other.Host, address: other.v4, port: 9001}.exceeds(t, unlimitedRate)
}

// qdiscs are those of a device.
func (r *runtime) qdiscs(h *world.Host, device string) string {
	r.Helper()
	return r.Must(h, "tc", "qdisc", "show", "dev", device)
}

// Limits outlive the daemon, are repaired, and go with the container.
func TestBandwidthLasts(t *testing.T) {
	t.Parallel()
	for _, clsact := range []bool{false, true} {
		t.Run(fmt.Sprintf("clsact=%t", clsact), func(t *testing.T) {
			t.Parallel()
			r := newRuntime(t, lab.Config{Clsact: clsact})
			pods := r.limitable()
			neighbour, limited := r.joins(pods, "neighbour", nil), r.joins(pods, "limited", config{"bandwidth": limits()})
			want := api.Bandwidth{IngressRate: ingressRate, IngressBurst: limitBurst, EgressRate: egressRate, EgressBurst: limitBurst}
			if got := r.Inspect("cni-limited").NetworkSettings.Networks["pods"].Bandwidth; got == nil || *got != want {
				t.Errorf("inspect shows %+v, want %+v", got, want)
			}
			if got := r.Inspect("cni-neighbour").NetworkSettings.Networks["pods"].Bandwidth; got != nil {
				t.Errorf("inspect shows %+v of a container without limits", got)
			}
			endpoint := r.Inspect("cni-limited").NetworkSettings.Networks["pods"].EndpointID
			device := r.Device("fairlead:endpoint:" + endpoint)
			hostEnd, inside := r.qdiscs(r.Host, device), r.qdiscs(limited.Host, "eth0")
			forth := flow{network: "tcp", client: neighbour.Host, server: limited.Host, address: limited.v4, port: 9000}
			back := forth
			back.back = true

			r.KillDaemon()
			forth.passesAt(t, ingressRate)
			r.StartDaemon()
			back.passesAt(t, egressRate)
			r.NoError("CHECK", limited.check(pods))
			if n := r.Metrics().Repairs()["device"]; n != 0 {
				t.Errorf("%v devices were repaired after a restart, want none", n)
			}

			works := func() error {
				if got := r.qdiscs(r.Host, device) + r.qdiscs(limited.Host, "eth0"); got != hostEnd+inside {
					return fmt.Errorf("qdiscs are %s, want %s", got, hostEnd+inside)
				}
				return nil
			}
			for _, spoil := range []struct {
				name, tc string
				host     *world.Host
			}{
				{"host end's deleted", "qdisc del dev " + device + " root", r.Host},
				{"host end's changed", "qdisc change dev " + device + " root tbf rate 90mbit burst 64k limit 1m", r.Host},
				{"sandbox's deleted", "qdisc del dev eth0 root", limited.Host},
				{"sandbox's replaced", "qdisc replace dev eth0 root pfifo", limited.Host},
			} {
				r.Case(spoil.name, func(l *lab.Lab) {
					l.Repaired("device", func() { l.Must(spoil.host, "tc", strings.Fields(spoil.tc)...) }, works)
				})
			}
			forth.passesAt(t, ingressRate)

			limited.del(pods)
			if res := r.Run(r.Host, "ip", "link", "show", "dev", device); res.Code == 0 {
				t.Errorf("the device is still there: %s", res.Stdout)
			}
		})
	}
}

// Limits from the command line hold, change and end while the sandbox runs; those of a network apply to its members.
func TestBandwidthChanges(t *testing.T) {
	t.Parallel()
	r := newRuntime(t, lab.Config{})
	r.Fairlead("network", "create", "web")
	r.Fairlead("network", "create", "-o", "fairlead.bandwidth_in=20mbit", "-o", "fairlead.bandwidth_out=30mbit", "slow")
	ben, anna, cleo := r.Sandbox("ben", "--network", "web"), r.Sandbox("anna", "--network", "web"), r.Sandbox("cleo", "--network", "slow")
	between := func(client, server *world.Host, address string, port int) (forth, back flow) {
		forth = flow{network: "tcp", client: client, server: server, address: address, port: port}
		back = forth
		back.back = true
		return forth, back
	}
	forth, back := between(ben.Host, anna.Host, anna.IP(lab.IPv4), 9000)
	forth.exceeds(t, unlimitedRate)
	back.exceeds(t, unlimitedRate)
	r.Fairlead("update", "anna", "--bandwidth-in", "20mbit", "--bandwidth-out", "30mbit")
	forth.passesAt(t, ingressRate)
	back.passesAt(t, egressRate)
	r.Fairlead("update", "anna", "--bandwidth-out", "none")
	forth.passesAt(t, ingressRate)
	back.exceeds(t, unlimitedRate)
	r.KillDaemon()
	r.StartDaemon()
	r.Fairlead("update", "anna", "--network", "web", "--bandwidth-in", "none")
	forth.exceeds(t, unlimitedRate)
	if got := r.Inspect("anna").NetworkSettings.Networks["web"].Bandwidth; got != nil {
		t.Errorf("inspect shows %+v without limits", got)
	}
	for _, q := range []string{r.qdiscs(r.Host, r.Device("fairlead:endpoint:"+r.Inspect("anna").NetworkSettings.Networks["web"].EndpointID)), r.qdiscs(anna.Host, "eth0")} {
		if strings.Contains(q, "tbf") {
			t.Errorf("without limits there is still the qdisc %s", q)
		}
	}
	forth, back = between(r.Host, cleo.Host, cleo.IP(lab.IPv4), 9001)
	forth.passesAt(t, ingressRate)
	back.passesAt(t, egressRate)
	if n := r.Metrics().Repairs()["device"]; n != 0 {
		t.Errorf("%v devices were repaired, want none", n)
	}
}

// What makes no sense is refused before anything is made.
func TestBandwidthRefused(t *testing.T) {
	t.Parallel()
	r := newRuntime(t, lab.Config{})
	pods := r.limitable()
	for name, tt := range map[string]struct {
		limits config
		code   uint
		text   string
	}{
		"no burst":     {config{"ingressRate": 1_000_000}, 7, "ingress rate of 1000000 bit/s without a burst"},
		"no rate":      {config{"egressBurst": 1_000_000}, 7, "egress burst of 1000000 bits without a rate"},
		"slow":         {config{"egressRate": 1000, "egressBurst": 100_000}, 7, "egress rate of 1000 bit/s is out of range (3036 to"},
		"small burst":  {config{"ingressRate": 1_000_000, "ingressBurst": 1500}, 7, "ingress burst of 1500 bits is out of range (12144, one packet of this network, to"},
		"negative":     {config{"ingressRate": -1, "ingressBurst": 100_000}, 7, "whole numbers of bits per second"},
		"unknown":      {config{"unshapedSubnets": []string{"10.0.0.0/8"}}, 2, `bandwidth "unshapedSubnets"`},
		"not a record": {nil, 6, "bandwidth"},
	} {
		var given any = tt.limits
		if tt.limits == nil {
			given = "fast"
		}
		_, err := r.container("anna", config{"bandwidth": given}).tryAdd(pods)
		r.wantCode(name, err, tt.code)
		if err == nil || !strings.Contains(err.Error(), tt.text) {
			r.Errorf("%s: %v, want %q", name, err, tt.text)
		}
		r.wantSandboxes("", 0)
	}

	// The reference plugin cannot limit Fairlead's containers, and says so.
	chain := r.list("1.0.0", "pods", nil, config{"type": "bandwidth", "capabilities": config{"bandwidth": true}})
	anna, ben := r.container("anna", config{"bandwidth": limits()}), r.container("ben", nil)
	if _, err := anna.tryAdd(chain); err == nil {
		r.Error("the reference plugin takes limits, though no packet would meet them")
	}
	ben.add(chain)
	for _, c := range []*container{anna, ben} {
		c.del(chain)
	}
	r.wantSandboxes("", 0)
}
