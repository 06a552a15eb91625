// SPDX-License-Identifier: Apache-2.0

package open_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fairlead-net/fairlead/control/cluster/embed"
	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/kv/consul"
	"github.com/fairlead-net/fairlead/control/cluster/kv/etcd"
	"github.com/fairlead-net/fairlead/control/cluster/kv/kvtest"
	"github.com/fairlead-net/fairlead/control/cluster/kv/zk"
)

const (
	// embedDir makes this binary an embedded store, in a process that a test can kill.
	embedDir = "FAIRLEAD_TEST_EMBED"
	// storesDir is where the servers of others are.
	storesDir = "FAIRLEAD_TEST_STORES"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(embedDir); dir != "" {
		serve(dir)
	}
	if os.Getenv(storesDir) == "" { // before the network is left, which the script may need
		cmd := exec.Command("../../../../test/stores.sh")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			fmt.Fprintln(os.Stderr, "test/stores.sh:", err)
			os.Exit(1)
		}
		if err := os.Setenv(storesDir, strings.TrimSpace(string(out))); err != nil {
			panic(err)
		}
	}
	kvtest.Main(m)
}

// Where the servers listen, in the tests' network namespace.
const (
	etcdAddr   = "127.0.0.1:2379"
	embedAddr  = "127.0.0.1:2479"
	consulAddr = "127.0.0.1:8500"
	zkAddr     = "127.0.0.1:2181"
)

// serve runs the embedded store until the process is killed.
func serve(dir string) {
	s, err := embed.Start(context.Background(), embed.Config{
		Dir: dir, Listen: netip.MustParseAddrPort(embedAddr), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), NoSync: true,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, <-s.Err())
	os.Exit(1)
}

// servers returns the stores. Those of others are Debian's, which test/stores.sh unpacks.
func servers(t *testing.T) map[string]*kvtest.Server {
	root := os.Getenv(storesDir)
	etcdBackend := func(addr string) kv.Backend { return etcd.New(etcd.Config{Endpoints: []string{addr}}) }
	return map[string]*kvtest.Server{
		"etcd": {
			Addr: etcdAddr,
			Command: func(dir string) *exec.Cmd {
				return exec.Command(root+"/usr/bin/etcd", "--data-dir", dir, "--listen-client-urls", "http://"+etcdAddr, "--advertise-client-urls", "http://"+etcdAddr,
					"--heartbeat-interval", "20", "--election-timeout", "200", "--unsafe-no-fsync", "--logger", "zap", "--log-level", "warn")
			},
			Backend: etcdBackend, Compaction: compact, Lease: time.Second, Late: time.Second,
		},
		"embed": {
			Addr: embedAddr,
			Command: func(dir string) *exec.Cmd {
				cmd := exec.Command("/proc/self/exe")
				cmd.Env = append(os.Environ(), embedDir+"="+dir)
				return cmd
			},
			Backend: etcdBackend, Compaction: compact, Lease: 2 * time.Second, Late: time.Second,
		},
		"consul": {
			Addr: consulAddr,
			Command: func(dir string) *exec.Cmd {
				return exec.Command(root+"/usr/bin/consul", "agent", "-server", "-bootstrap-expect=1", "-data-dir", dir, "-bind=127.0.0.1", "-node=one",
					"-log-level=warn", "-hcl", `session_ttl_min="1s" performance { raft_multiplier = 1 } disable_update_check = true`)
			},
			Backend: func(addr string) kv.Backend {
				b, err := consul.New(consul.Config{Addr: addr})
				if err != nil {
					t.Error(err)
				}
				return b
			},
			Lease: time.Second, Late: 3 * time.Second, // Consul waits for another ttl
		},
		"zk": {
			Addr: zkAddr,
			Command: func(dir string) *exec.Cmd {
				conf := filepath.Join(dir, "..", "zoo.cfg")
				text := fmt.Sprintf("tickTime=200\ndataDir=%s\nclientPort=2181\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\nminSessionTimeout=500\nmaxSessionTimeout=20000\nmaxClientCnxns=0\n", dir)
				if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
					t.Error(err)
				}
				return exec.Command("java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dzookeeper.forceSync=no",
					"-cp", classpath(root), "org.apache.zookeeper.server.quorum.QuorumPeerMain", conf)
			},
			Backend: func(addr string) kv.Backend {
				return zk.New(zk.Config{Servers: []string{addr}, Session: 5 * time.Second})
			},
			Lease: time.Second, Late: 1500 * time.Millisecond,
		},
	}
}

// classpath returns the jars that ZooKeeper's server loads, without those that log.
func classpath(root string) string {
	var jars []string
	for name := range strings.FieldsSeq("zookeeper zookeeper-jute slf4j-api slf4j-nop netty-buffer netty-codec netty-common netty-handler netty-resolver netty-transport netty-transport-native-epoll netty-transport-native-unix-common snappy-java metrics-core jackson-databind jackson-core jackson-annotations log4j-1.2") {
		jars = append(jars, root+"/usr/share/java/"+name+".jar")
	}
	return strings.Join(jars, ":")
}

// compact removes the past of an etcd.
func compact(ctx context.Context, addr string) error {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}, DialTimeout: time.Second})
	if err != nil {
		return err
	}
	defer c.Close()
	r, err := c.Get(ctx, "x")
	if err != nil {
		return err
	}
	_, err = c.Compact(ctx, r.Header.Revision, clientv3.WithCompactPhysical())
	return err
}

// Every store keeps the same contract, and all of them at once take as long as the slowest.
func TestConformance(t *testing.T) {
	for name, server := range servers(t) {
		t.Run(name, func(t *testing.T) {
			if name == "zk" && raceDetector {
				t.Skip("go-zookeeper 1.0.4 reads lastZxid without a lock when it connects again (sendSetWatches): make test runs this without the race detector")
			}
			t.Parallel()
			kvtest.Run(t, kvtest.Begin(t, server))
		})
	}
}
