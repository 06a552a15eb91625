// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/fairlead-net/fairlead/test/lab"
	"github.com/fairlead-net/fairlead/test/machine"
)

// The host's own namespace is refused, and untouched.
func TestHostIsNoContainer(t *testing.T) {
	t.Parallel()
	r := newRuntime(t, lab.Config{})
	pods := r.list("1.0.0", "pods", nil)
	a := r.container("anna", nil)
	a.conf.NetNS, a.conf.IfName = r.Host.NetNS(), "eth7"
	before := r.Must(r.Host, "ip", "addr", "show", "dev", "eth0")
	_, err := a.tryAdd(pods)
	if err == nil || !strings.Contains(err.Error(), "is the host's own") {
		t.Errorf("ADD of the host: %v", err)
	}
	r.wantSandboxes("", 0)
	if after := r.Must(r.Host, "ip", "addr", "show", "dev", "eth0"); after != before {
		t.Errorf("the host had\n%s\nand has\n%s", before, after)
	}
	if links := r.Must(r.Host, "ip", "-o", "link"); strings.Contains(links, "eth7") {
		t.Errorf("the host has\n%s", links)
	}
}

// CHECK finds what is broken and has it repaired; DEL succeeds however often, and
// when the namespace is gone.
func TestCheckAndDel(t *testing.T) {
	t.Parallel()
	r := newRuntime(t, lab.Config{})
	pods := r.list("1.0.0", "pods", nil)
	a, b := r.container("anna", nil), r.container("ben", nil)
	a.add(pods)
	b4 := b.ip(pods)
	for _, harm := range []string{"link set eth0 down", "addr flush dev eth0", "link del eth0"} {
		r.IP(a.Host, harm)
		if err := a.check(pods); err != nil {
			t.Errorf("CHECK after ip %s: %v", harm, err)
		}
		r.Ping(a.Host, b4)
	}
	// What the program in there changed stays, and CHECK says so until it is undone.
	for _, tt := range []struct {
		harm, mend []string
		want       string
	}{
		{
			[]string{"route replace default via 172.17.99.99 dev eth0 onlink"}, []string{"route del default"},
			`the route "default via 172.17.99.99 dev eth0" is used instead of "default via `,
		},
		{
			[]string{"link set eth0 down", "link set eth0 name foo0", "link set foo0 up"}, []string{"link set foo0 down", "link set foo0 name eth0"},
			`interface "eth0" was renamed to "foo0"`,
		},
	} {
		for _, harm := range tt.harm {
			r.IP(a.Host, harm)
		}
		err := a.check(pods)
		r.wantCode("CHECK after ip "+tt.harm[0], err, errConflict)
		if err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("CHECK after ip %s: %v, want %q", tt.harm, err, tt.want)
		}
		for _, mend := range tt.mend {
			r.IP(a.Host, mend)
		}
		r.NoError("CHECK after ip "+tt.mend[0], a.check(pods))
		r.Ping(a.Host, lab.Internet4)
	}
	r.wantCode("ADD of an interface that is there", second(a.tryAdd(pods)), 100)
	r.Fairlead("network", "disconnect", "pods", "cni-anna")
	r.wantCode("CHECK without an interface", a.check(pods), types.ErrUnknownContainer)
	r.Fairlead("rm", "-f", "cni-anna")
	r.wantCode("CHECK without a sandbox", a.check(pods), types.ErrUnknownContainer)
	for range 2 {
		a.del(pods)
	}
	b.end() // and with it the namespace
	r.wantCode("CHECK without a namespace", b.check(pods), errConflict)
	for range 2 {
		b.del(pods)
	}
	r.wantSandboxes("", 0)
}

// A container that lives keeps its port though its namespace has lost its path; one that
// ended gives it to the caller.
func TestAddBesideALostPath(t *testing.T) {
	t.Parallel()
	r := newRuntime(t, lab.Config{})
	pods := r.list("1.0.0", "pods", nil)
	ports := config{"portMappings": []config{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}
	a, b, witness := r.container("anna", ports), r.container("ben", ports), r.container("witness", nil)
	path := filepath.Join(t.TempDir(), "anna")
	r.NoError("link", os.Symlink(a.conf.NetNS, path))
	a.conf.NetNS = path
	a4 := a.ip(pods)
	witness.add(pods)
	r.NoError("unlink", os.Remove(path))
	r.wantCode("ADD that wants the port of one that lives", second(b.tryAdd(pods)), errConflict)
	r.Ping(witness.Host, a4)
	a.end()
	r.Eventually(10*time.Second, func() error { return second(b.tryAdd(pods)) })
	r.wantSandboxes("cni-ben pods\ncni-witness pods", 2)
}

// errConflict is the plugin's own code.
const errConflict = 100

func second[A any](_ A, err error) error { return err }

// One container has several networks under the names the runtime chose; the first
// with a way out bears the default route and the ports.
func TestSeveralNetworks(t *testing.T) {
	t.Parallel()
	r := newRuntime(t, lab.Config{})
	quiet := r.list("1.0.0", "quiet", config{"internal": true})
	front := r.list("1.0.0", "front", config{"isolated": true})
	ports := config{"portMappings": []config{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}
	a, b := r.container("anna", ports), r.container("ben", nil)
	if res := a.as("net0").add(quiet); len(res.Routes) != 0 {
		t.Errorf("routes %v through an internal network", res.Routes)
	}
	if res := a.as("net1").add(front); len(res.Routes) != 1 {
		t.Errorf("routes %v, want a default route", res.Routes)
	}
	r.wantCode("the same network again", second(a.as("net2").tryAdd(front)), errConflict)
	r.HTTP(a.Host, "anna", 80)
	r.Get(r.Outside, lab.Host4, 8080, "anna", lab.Outside4)
	b4 := b.ip(front)
	r.NoPing(a.Host, b4) // isolated
	r.IP(b.Host, "link add eth1 type veth peer name other")
	r.wantCode("an interface of somebody else's", second(b.as("eth1").tryAdd(quiet)), errConflict)
	r.wantSandboxes("cni-ben front\ncni-anna quiet,front", 3)
	a.as("net1").del(front)
	a.as("net2").del(quiet) // not that interface
	r.wantSandboxes("cni-ben front\ncni-anna quiet", 2)
	a.as("net0").del(quiet)
	b.del(front)
	r.wantSandboxes("", 0)
}

// Containers that come at once find one network, whichever of them creates it.
func TestFirstAtOnce(t *testing.T) {
	t.Parallel()
	r := newRuntime(t, lab.Config{})
	pods := r.list("1.0.0", "pods", nil)
	var all []*container
	for _, id := range strings.Fields("a1 b2 c3 d4 e5 f6") {
		all = append(all, r.container(id, nil))
	}
	ips := make([]string, len(all))
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() {
			if res, err := c.tryAdd(pods); err != nil {
				t.Errorf("ADD %s: %v", c.Name, err)
			} else {
				ips[i] = res.IPs[0].Address.IP.String()
			}
		})
	}
	wg.Wait()
	for i, c := range all {
		r.Ping(c.Host, ips[(i+1)%len(all)])
	}
	for _, c := range all {
		wg.Go(func() { c.del(pods) })
	}
	wg.Wait()
	r.wantSandboxes("", 0)
}

// GC removes what the runtime knows nothing of, and nothing else.
func TestGC(t *testing.T) {
	t.Parallel()
	r := newRuntime(t, lab.Config{})
	pods, other := r.list("1.1.0", "pods", nil), r.list("1.1.0", "other", nil)
	a, b, c := r.container("anna", nil), r.container("ben", nil), r.container("cleo", nil)
	a4 := a.ip(pods)
	b.add(pods)
	b.as("eth1").add(other)
	c.add(pods)
	c.end()
	lodger := r.Sandbox("lodger", "--network", "pods") // not the runtime's
	r.NoError("drop libcni's memory", r.forget())
	gc := func(l *libcni.NetworkConfigList, valid ...types.GCAttachment) error {
		ctx, cancel := timeout()
		defer cancel()
		return r.GCNetworkList(ctx, l, &libcni.GCArgs{ValidAttachments: valid})
	}
	r.NoError("GC", gc(pods, types.GCAttachment{ContainerID: "anna", IfName: "eth0"}, types.GCAttachment{ContainerID: "ben", IfName: "eth1"}))
	r.wantSandboxes("lodger pods\ncni-ben other\ncni-anna pods", 3)
	r.Ping(lodger.Host, a4)
	r.NoError("GC of all", gc(pods))
	r.NoError("GC of all", gc(other))
	r.wantSandboxes("lodger pods", 1)
	r.Remove(lodger)
	r.givesLeasesBack()
}

// givesLeasesBack wants GC to give host-local, which knows no GC, the addresses of what it
// removes, and no others.
func (r *runtime) givesLeasesBack() {
	r.Helper()
	ipam := config{"ipam": config{"type": "host-local", "dataDir": r.Dir("leases"), "ranges": [][]config{
		{{"subnet": "10.78.0.0/29"}}, // a gateway and five
	}}}
	pods, collecting := r.list("1.0.0", "leased", ipam), r.list("1.1.0", "leased", ipam)
	var all []*container
	for _, id := range strings.Fields("a1 b2 c3 d4 e5") {
		all = append(all, r.container(id, nil))
		all[len(all)-1].add(pods)
	}
	for _, c := range all[1:] {
		c.end()
	}
	r.NoError("drop libcni's memory", r.forget())
	full := r.container("full", nil)
	if _, err := full.tryAdd(pods); err == nil || !strings.Contains(err.Error(), "no IP addresses available") {
		r.Errorf("ADD without a free address: %v", err)
	}
	ctx, cancel := timeout()
	defer cancel()
	valid := []types.GCAttachment{{ContainerID: "a1", IfName: "eth0"}}
	r.NoError("GC", r.GCNetworkList(ctx, collecting, &libcni.GCArgs{ValidAttachments: valid}))
	r.wantSandboxes("cni-a1 leased", 1)
	if left := r.Must(r.Host, "find", r.Dir("leases"), "-name", "10.78.*"); strings.Count(left, "10.78.") != 1 {
		r.Errorf("host-local has these leases, want one:\n%s", left)
	}
	full.add(pods)
	full.del(pods)
	all[0].del(pods)
	r.wantSandboxes("", 0)
}

// withinASecond wants a code, and soon. DEL waits 0.7 s itself, so a busy machine gets
// several tries.
func (r *runtime) withinASecond(verb string, code uint, do func() error) error {
	r.Helper()
	var took time.Duration
	for range 5 {
		watch := machine.Start()
		err := do()
		took = watch.Took()
		watch.Stop()
		r.wantCode(verb, err, code)
		if took <= watch.Stretch(time.Second) {
			return err
		}
	}
	r.Errorf("%s takes %v to find no daemon, at the fifth try", verb, took)
	return nil
}

// The absence of a daemon is reported at once; what it created outlives it.
func TestDaemonAway(t *testing.T) {
	t.Parallel()
	r := newRuntime(t, lab.Config{NoDaemon: true})
	pods := r.list("1.1.0", "pods", nil)
	a, b := r.container("anna", nil), r.container("ben", nil)
	status := func() error {
		ctx, cancel := timeout()
		defer cancel()
		return r.GetStatusNetworkList(ctx, pods)
	}
	away := func() {
		t.Helper()
		err := r.withinASecond("ADD", types.ErrTryAgainLater, func() error { return second(b.tryAdd(pods)) })
		if e := (*types.Error)(nil); errors.As(err, &e) && !strings.Contains(e.Msg, r.Socket()) {
			t.Errorf("message %q does not name the socket", e.Msg)
		}
		r.withinASecond("DEL", types.ErrTryAgainLater, func() error { return b.tryDel(pods) })
		r.withinASecond("STATUS", types.ErrPluginNotAvailable, status)
	}
	away()
	r.StartDaemon()
	r.NoError("STATUS", status())
	a4 := a.ip(pods)
	r.KillDaemon()
	away()
	r.StartDaemon()
	b.add(pods)
	r.Ping(b.Host, a4)
	r.NoError("CHECK", a.check(pods))
	r.KillDaemon()
	a.end() // unseen
	r.StartDaemon()
	r.NoError("CHECK", b.check(pods))
	time.Sleep(5 * time.Second) // two looks
	if n := strings.Count(r.Daemon.Output(), "cni-anna"); n != 1 {
		t.Errorf("the daemon speaks %d times of the container that is gone:\n%s", n, r.Daemon.Output())
	}
	a.del(pods)
	r.KillDaemon()
	deleted := make(chan error, 1)
	go func() { deleted <- b.tryDel(pods) }()
	r.StartDaemon()
	if err := <-deleted; err != nil {
		r.wantCode("DEL beside a start that takes long", err, types.ErrTryAgainLater)
		b.del(pods)
	}
	r.wantSandboxes("", 0)
}

// A daemon that dies in the midst of ADD and DEL leaves nothing that a DEL does not
// remove.
func TestDaemonDiesInVerbs(t *testing.T) {
	t.Parallel()
	r := newRuntime(t, lab.Config{})
	pods := r.list("1.0.0", "pods", nil)
	a, b := r.container("anna", nil), r.container("ben", nil)
	for range 3 {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for _, c := range []*container{a, b} {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						_ = second(c.tryAdd(pods)) // either may fail
						_ = c.tryDel(pods)
					}
				}
			})
		}
		time.Sleep(time.Duration(100+rand.IntN(200)) * time.Millisecond)
		r.KillDaemon()
		close(stop)
		wg.Wait()
		r.StartDaemon()
		a.del(pods)
		b.del(pods)
		r.wantSandboxes("", 0)
		a.add(pods)
		r.Ping(a.Host, b.ip(pods))
		a.del(pods)
		b.del(pods)
	}
}

// Another plugin may manage the addresses, and others come after.
func TestChain(t *testing.T) {
	t.Parallel()
	r := newRuntime(t, lab.Config{})
	ipam := config{"type": "host-local", "dataDir": r.Dir("leases"), "ranges": [][]config{
		{{"subnet": "10.78.0.0/24", "rangeStart": "10.78.0.100"}}, {{"subnet": "fd00:78::/64"}},
	}, "routes": []config{{"dst": "0.0.0.0/0"}}}
	pods := r.list("1.0.0", "pods", config{"ipam": ipam}, config{"type": "tuning", "sysctl": config{"net.ipv4.ip_default_ttl": "42"}})
	a, b := r.container("anna", nil), r.container("ben", nil)
	if got := a.ip(pods); got != "10.78.0.100" {
		t.Errorf("address %s, want host-local's first", got)
	}
	b4 := b.ip(pods)
	r.Ping(a.Host, b4)
	r.Ping(a.Host, lab.Internet4)
	if got := strings.TrimSpace(r.Must(a.Host, "cat", "/proc/sys/net/ipv4/ip_default_ttl")); got != "42" {
		t.Errorf("TTL %s, want tuning's", got)
	}
	r.NoError("CHECK", a.check(pods))
	for _, c := range []*container{a, b} {
		c.del(pods)
		c.del(pods)
	}
	if left := r.Must(r.Host, "find", r.Dir("leases"), "-name", "10.78.*"); left != "" {
		t.Errorf("host-local has leases yet:\n%s", left)
	}
	r.wantSandboxes("", 0)
}
