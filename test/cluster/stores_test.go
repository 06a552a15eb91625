// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// storeAddress is the router's, from which both hosts reach the store.
const storeAddress = "10.98.1.254"

// stores are the servers of others, by the scheme of their URL: the command that runs one with its data in
// a directory, and its port. root is where test/stores.sh unpacked them.
func stores(root string) map[string]struct {
	port    int
	command func(dir string) []string
} {
	type store = struct {
		port    int
		command func(dir string) []string
	}
	return map[string]store{
		"etcd": {2379, func(dir string) []string {
			url := "http://" + storeAddress + ":2379"
			return []string{root + "/usr/bin/etcd", "--data-dir", dir, "--listen-client-urls", url, "--advertise-client-urls", url, "--unsafe-no-fsync", "--logger", "zap", "--log-level", "warn"}
		}},
		"consul": {8500, func(dir string) []string {
			return []string{root + "/usr/bin/consul", "agent", "-server", "-bootstrap-expect=1", "-data-dir", dir, "-bind=" + storeAddress, "-client=" + storeAddress,
				"-node=one", "-log-level=warn", "-hcl", "performance { raft_multiplier = 1 } disable_update_check = true"}
		}},
		"zk": {2181, func(dir string) []string {
			var jars []string
			for name := range strings.FieldsSeq("zookeeper zookeeper-jute slf4j-api slf4j-nop netty-all snappy-java metrics-core jackson-databind jackson-core jackson-annotations log4j-1.2") {
				jars = append(jars, root+"/usr/share/java/"+name+".jar")
			}
			return []string{"java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dzookeeper.forceSync=no", "-Dzookeeper.admin.enableServer=false",
				"-cp", strings.Join(jars, ":"), "org.apache.zookeeper.server.quorum.QuorumPeerMain", "2181", dir}
		}},
	}
}

// newPairOn makes two hosts with a store of others, which runs. p.kill ends it, and startStore starts it again.
func newPairOn(t *testing.T, scheme string) (p *pair, startStore func()) {
	t.Helper()
	out, err := exec.Command("../stores.sh").Output()
	if err != nil {
		t.Fatalf("test/stores.sh: %v", err)
	}
	store, known := stores(strings.TrimSpace(string(out)))[scheme]
	if !known {
		t.Fatalf("unknown store %q", scheme)
	}
	url := fmt.Sprintf("%s://%s:%d", scheme, storeAddress, store.port)
	p = newPairWith(t, url, url)
	dir := p.a.Dir("store")
	startStore = func() {
		command := store.command(filepath.Join(dir, "data"))
		process := p.a.Spawn(p.router, command[0], command[1:]...)
		p.Cleanup(func() { process.Kill() })
		p.kill = func() { process.Kill() }
		p.a.Eventually(60*time.Second, func() error {
			c, err := p.router.Dial(net.Dialer{Timeout: time.Second}, "tcp", fmt.Sprint(storeAddress, ":", store.port))
			if err != nil {
				return err
			}
			return c.Close()
		})
	}
	startStore()
	return p, startStore
}

// TestEveryStore shares a network between two hosts through each store of others, kills the store, and
// starts it again.
func TestEveryStore(t *testing.T) {
	for _, scheme := range []string{"etcd", "consul", "zk"} {
		t.Run(scheme, func(t *testing.T) {
			p, startStore := newPairOn(t, scheme)
			p.start()
			p.share("web", "one", "two")
			p.kill()
			p.a.Eventually(30*time.Second, func() error {
				if r := p.a.Try("sandbox", "create", "--network", "web", "late"); r.Code != 1 || !strings.Contains(r.Stderr, scheme+"://") {
					return fmt.Errorf("create without the store: %d %s", r.Code, r.Output())
				}
				return nil
			})
			p.a.Fairlead("rm", "-f", "one")
			startStore()
			p.b.Eventually(60*time.Second, func() error {
				for _, m := range p.b.Network("web").Containers {
					if m.Name == "one" {
						return errors.New("the sandbox that was removed without the store is still known")
					}
				}
				return nil
			})
			p.share("more", "three", "four")
		})
	}
}

// share creates a network, and a sandbox on each host, which reach each other.
func (p *pair) share(network, one, two string) (onA, onB *lab.Sandbox) {
	p.Helper()
	p.a.Eventually(60*time.Second, func() error { // the store may have just started
		if r := p.a.Try("network", "create", "-d", "overlay", network); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
	has(p.b, network)
	x, y := p.a.Sandbox(one, "--network", network), p.b.Sandbox(two, "--network", network)
	reached := func(l *lab.Lab, from *lab.Sandbox, to *lab.Sandbox) {
		p.Helper()
		l.PingSoon(from.Host, to.IP4.String())
	}
	reached(p.a, x, y)
	reached(p.b, y, x)
	return x, y
}
