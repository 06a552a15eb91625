// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/cmd/fairlead/enter"
	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/apitest"
	"github.com/fairlead-net/fairlead/control/api/server"
	"github.com/fairlead-net/fairlead/control/cluster/token"
	"github.com/fairlead-net/fairlead/control/daemon"
	"github.com/fairlead-net/fairlead/control/host"
)

// world runs command lines in this process, against a fake daemon.
type world struct {
	t      *testing.T
	env    *env
	fake   *apitest.Fake
	out    *bytes.Buffer
	err    *bytes.Buffer
	places []enter.Place
	stop   func() // ends the daemon and removes its socket
	serve  func() // starts it again
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "api.sock")
	w := &world{t: t, fake: apitest.New(), out: &bytes.Buffer{}, err: &bytes.Buffer{}}
	w.fake.State = api.Status{Version: "v1", Pid: 77, Started: apitest.Created(), RunDir: dir, StateDir: "/state", BPFDir: "/bpf", Attach: "tcx",
		Uplinks: []string{"eth7"}, Networks: 3, Flows: 2, FlowsMax: 10, Repairs: map[string]uint64{"device": 2, "map": 0}}
	w.env = &env{
		stdin: strings.NewReader(""), stdout: w.out, stderr: w.err,
		getenv: func(key string) string {
			return map[string]string{"FAIRLEAD_HOST": "unix://" + socket, "PATH": os.Getenv("PATH")}[key]
		},
		missing: func() []string { return nil },
		now:     func() time.Time { return apitest.Created().Add(90 * time.Minute) },
		start: func(cmd *exec.Cmd, at enter.Place) error {
			w.places = append(w.places, at)
			return cmd.Start()
		},
		retryFor: 2 * time.Second,
		grace:    5 * time.Second,
		node: nodeCommands{
			daemon:  func(context.Context, daemonOptions) error { return nil },
			refuse:  func(context.Context, error) {},
			cleanup: func(context.Context, directories) error { return nil },
			downgrade: func(_ context.Context, _ directories, to string, ready func([]string)) error {
				switch to {
				case "/old":
					ready([]string{"fl_ct", "fl_ct_new", daemon.ConvertedState})
				case "/near":
					ready([]string{daemon.ConvertedState})
				}
				return nil
			},
			doctor: func(context.Context, io.Writer, string) (bool, error) { return true, nil },
		},
	}
	server := server.New(server.Config{Backend: w.fake, Log: slog.New(slog.DiscardHandler), RunDir: dir, Alive: host.ProcessAlive})
	w.serve = func() {
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Error(err)
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- server.Serve(ctx, l) }()
		w.stop = func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	w.serve()
	t.Cleanup(func() { w.stop() })
	return w
}

// run executes a command line, and discards the output of earlier ones.
func (w *world) run(args ...string) (code int, stdout, stderr string) {
	return w.runIn(context.Background(), args...)
}

// runIn is run with a context.
func (w *world) runIn(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	w.out.Reset()
	w.err.Reset()
	code = execute(ctx, w.env, args)
	return code, w.out.String(), w.err.String()
}

// ok executes a command line that must succeed with an empty stderr.
func (w *world) ok(args ...string) string {
	w.t.Helper()
	code, out, stderr := w.run(args...)
	if code != 0 || stderr != "" {
		w.t.Fatalf("fairlead %s: exit status %d, stderr %q", strings.Join(args, " "), code, stderr)
	}
	return out
}

var update = flag.Bool("update", false, "write the golden files")

// golden compares got with testdata/NAME.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it)\n%s", name, diff)
	}
}

func TestRefusedCommandLines(t *testing.T) {
	for _, tc := range []struct {
		line string
		code int
		want string // on stderr, one line
	}{
		{"bogus", 2, `unknown command "bogus" for "fairlead" (see "fairlead --help")`},
		{"network bogus", 2, `unknown command "bogus" for "fairlead network"`},
		{"help bogus", 2, `unknown help topic "bogus"`},
		{"help network bogus", 2, `unknown help topic "network bogus"`},
		{"ps --bogus", 2, `unknown flag: --bogus (see "fairlead ps --help")`},
		{"ps x", 2, "wants no arguments, got 1 argument"},
		{"network create", 2, "wants NAME, got no argument"},
		{"network connect a", 2, "wants NETWORK SANDBOX, got 1 argument"},
		{"network rm", 2, "wants NAME…, got no argument"},
		{"node ls", 1, "this daemon is not part of a cluster"},
		{"node ls --filter a=b", 2, "node ls has no filters"},
		{"node rm", 2, "wants NODE…, got no argument"},
		{"ipam ls", 2, "wants NETWORK, got no argument"},
		{"network create --subnet 10.0.0.0 a", 2, `subnet "10.0.0.0": want ADDRESS/LENGTH`},
		{"network create --subnet 10.0.0.0/8 --subnet 10.1.0.0/16 a", 2, "subnets 10.0.0.0/8 and 10.1.0.0/16 overlap"},
		{"network create --subnet 10.0.0.1/8 a", 1, "invalid subnet 10.0.0.1/8: it should be 10.0.0.0/8"},
		{"network create --gateway 10.0.0.1 a", 2, "need a --subnet that holds them"},
		{"network create --subnet 10.1.0.0/16 --gateway 10.2.0.1 a", 2, "gateway 10.2.0.1 is in no --subnet"},
		{"network create --subnet 10.1.0.0/16 --gateway 10.1.0.1 --gateway 10.1.0.2 a", 2, "two gateways"},
		{"network create --subnet 10.1.0.0/16 --ip-range 10.2.0.0/24 a", 2, "IP range 10.2.0.0/24 is in no --subnet"},
		{"network create --subnet 10.1.0.0/16 --aux-address 10.1.0.3 a", 2, "want NAME=ADDRESS"},
		{"network create --subnet 10.1.0.0/16 --aux-address r=10.2.0.3 a", 2, "is in no --subnet"},
		{"network create -o =x a", 2, `option "=x": want KEY=VALUE`},
		{"service create web", 2, "--network is missing: name the network of the service"},
		{"service create --network a --vip x web", 2, `--vip "x" is not an IP address`},
		{"service create --network a --vip 10.0.0.1 --vip 10.0.0.2 web", 2, "--vip is given twice for IPv4: 10.0.0.1 and 10.0.0.2"},
		{"service rm web", 1, "no such service: web (see: fairlead service ls)"},
		{"network connect --ip fd00::1 bridge x", 2, `--ip "fd00::1" is not an IPv4 address`},
		{"network connect bridge nobody", 1, "no such sandbox: nobody (see: fairlead ps)"},
		{"network rm nothing", 1, "network nothing not found (see: fairlead network ls)"},
		{"network prune", 1, "nothing was removed: not confirmed"},
		{"network ls --filter x", 2, `filter "x": want KEY=VALUE`},
		{"network ls --filter x=y", 1, `unknown filter "x" (known: dangling, driver, id, label, name, scope, type)`},
		{"network ls --filter scope=x", 1, `filter scope must be one of local, swarm, global, not "x"`},
		{"network prune -f --filter dangling=true", 1, `unknown filter "dangling" (known: until, label, label!)`},
		{"ps --filter publish=x", 1, `filter publish must be PORT[-PORT][/PROTO], as in 8080/tcp, not "x"`},
		{"network ls --format {{.Bogus}}", 1, "can't evaluate field Bogus\n"}, // without a type of Go
		{"events --filter x=y", 1, `unknown filter "x" (known: container, event, network, sandbox, type)`},
		{"events --filter type=custom", 1, `filter type must be one of network, sandbox, datapath, not "custom"`},
		{"events --filter event", 2, `filter "event": want KEY=VALUE`},
		{"network ls --format {{", 2, "unclosed action"},
		{"run", 125, "wants COMMAND…, got no argument"},
		{"run --bogus", 125, "unknown flag: --bogus"},
		{"run --network-alias b --network name=a,ip=10.0.0.2 true", 125, `give addresses, aliases and limits of network "a" within --network "name=a,ip=10.0.0.2", not beside it`},
		{"run --bandwidth-in fast true", 125, `--bandwidth-in: invalid rate "fast" (want a number of bits per second, like 500kbit`},
		{"run --bandwidth-out none true", 125, "rate none is for interfaces that exist"},
		{"run --network name=a,bandwidth-out=1x true", 125, `--bandwidth-out: invalid rate "1x"`},
		{"run --network container:a --bandwidth-in 1mbit true", 125, "--bandwidth-in cannot be given with --network container:a"},
		{"update web", 2, "nothing to change (give --bandwidth-in or --bandwidth-out)"},
		{"update --bandwidth-in 1mbit nobody", 1, "no such sandbox: nobody"},
		{"publish add nobody -p 80", 1, "no such sandbox: nobody"},
		{"run --network name=a,driver-opt=com.docker.network.endpoint.ifname=x,driver-opt=com.docker.network.endpoint.ifname=y true", 125, "the interface has two names, x and y"},
		{"run --network name=a,driver-opt=b true", 125, `unknown driver option "b" of an endpoint (known: com.docker.network.endpoint.ifname, com.docker.network.endpoint.sysctls)`},
		{"run --network name=a,driver-opt=com.docker.network.endpoint.sysctls=x true", 125, `invalid sysctl "x" of an interface (want net.X.Y.IFNAME.Z=VALUE, as in`},
		{`run --network name=a,driver"opt true`, 125, `put a field that contains a comma in quotes`},
		{"network connect --driver-opt com.docker.network.endpoint.sysctls=net.ipv4.ip_forward=1 bridge x", 2, `invalid sysctl "net.ipv4.ip_forward=1"`},
		{"network connect --driver-opt com.docker.network.endpoint.ifname= bridge x", 2, "has no value (want the name of an interface)"},
		{"run --sysctl =1 true", 125, `sysctl "=1": want KEY=VALUE`},
		{"run --sysctl kernel.x=1 true", 125, "sysctl 'kernel.x' is not allowed"},
		{"run --sysctl net.ipv4.ip_forward true", 125, `sysctl net.ipv4.ip_forward has the value "" (give one: NAME=VALUE)`},
		{"run --network container:a --sysctl net.ipv4.ip_forward=1 true", 125, "--sysctl cannot be given with --network container:a"},
		{"run --network a --net a true", 125, `network "a" is given twice`},
		{"run --net-alias b --network name=a,ip=10.0.0.2 true", 125, `give addresses, aliases and limits of network "a" within --network`},
		{"run --dns x true", 125, `--dns "x" is not the IP address of a name server`},
		{"run --add-host a true", 125, "bad format for add-host"},
		{"run -p x true", 125, `published port "x"`},
		{"run --expose x true", 125, `exposed port "x"`},
		{"run --ip x true", 125, `--ip "x" is not an IPv4 address`},
		{"run --ip6 10.0.0.1 true", 125, `--ip6 "10.0.0.1" is not an IPv6 address`},
		{"run --mac-address 01:00:00:00:00:00 true", 125, "multicast"},
		{"run --network a --network a true", 125, `network "a" is given twice`},
		{"run --network host --network a true", 125, "--network host cannot be combined with other networks"},
		{"run --network container:x -p 80 true", 125, "--publish cannot be given with --network container:x"},
		{"run --network name=a,gw-priority=x true", 125, `gw-priority "x" is not a number`},
		{"run --network name=a,link-local-ip=169.254.1.1 true", 125, "link-local-ip in --network is not available yet (leave it out)"},
		{"run --network name=a,bogus=1 true", 125, `unknown field "bogus"`},
		{"run --network ip=10.0.0.1 true", 125, "has no name="},
		{"run --network name=a --ip 10.0.0.1 true", 125, "not beside it"},
		{"run no-such-command", 127, "no-such-command: command not found in PATH"},
		{"run /no/such/command", 127, "/no/such/command: no such file"},
		{"run /etc/passwd", 126, "/etc/passwd: not executable"},
		{"run /etc", 126, "/etc: is a directory"},
		{"exec", 125, "wants SANDBOX COMMAND…, got no argument"},
		{"exec nobody true", 125, "no such sandbox: nobody (see: fairlead ps)"},
		{"rm nobody", 1, "no such sandbox: nobody (see: fairlead ps)"},
		{"port nobody", 1, "no such sandbox: nobody (see: fairlead ps)"},
		{"port a b", 2, `port "b": want PORT or PORT/PROTO`},
		{"sandbox create --add-host a:b box", 2, "invalid IP address in add-host"},
		{"ct ls --filter colour=red", 2, `unknown filter "colour"`},
		{"ct ls --filter port=0", 2, "not a port number"},
		{"daemon --store bogus", 2, `--store: "bogus" is not the URL of a store`},
		{"daemon --store etcd://user:secret@192.0.2.1", 2, "contains a user or password"},
		{"daemon --store embed --store-listen 192.0.2.1", 2, "want IP:PORT"},
		{"daemon --advertise x", 2, "want an address of this host"},
		{"daemon --advertise 192.0.2.1 --advertise 192.0.2.2", 2, "192.0.2.2 is the second address of IPv4"},
		{"daemon --vxlan-port 0", 2, "want a port"},
		{"daemon --store-credentials /no/such/file", 1, "--store-credentials: open /no/such/file"},
		{"daemon --log-format xml", 2, "want text or json"},
		{"daemon --snat-ports 5-4", 2, "want A-B"},
		{"daemon --ct-timeout estab=5s", 2, "--ct-timeout: no flow is ever in state \"estab\" (want one of close, established"},
		{"daemon --ct-timeout icmp=5ms", 2, "is out of range (want 1s or more)"},
		{"daemon --default-address-pool base=239.0.0.0/8,size=16", 2, "multicast"},
		{"daemon --default-address-pool base=10.0.0.0/16,size=8", 2, "is shorter than base 10.0.0.0/16"},
		{"daemon --config /no/such/file", 1, "no such file"},
		{"policy add deny", 1, "policy is not available yet (--internal and icc=false"},
		{"policy --help", 1, "policy is not available yet"},
		{"nat ls", 1, "nat is not available yet (NAT shows in: fairlead ct ls)"},
		{"monitor", 1, "monitor is not available yet (refused packets are counted in the metrics"},
		{"--host tcp://192.0.2.1:1 ps", 2, "want unix:///PATH"},
		{"--host unix:///no/such.sock ps", 1, `no daemon listens at /no/such.sock; start it with "fairlead daemon"`},
		{"--host unix:///no/such.sock run true", 125, "no daemon listens"},
	} {
		t.Run(tc.line, func(t *testing.T) {
			w := newWorld(t)
			code, _, stderr := w.run(strings.Fields(tc.line)...)
			if code != tc.code || !strings.Contains(stderr, tc.want) {
				t.Errorf("got %d, %q; want %d, %q", code, stderr, tc.code, tc.want)
			}
			if !strings.HasPrefix(stderr, "fairlead: ") || strings.Count(stderr, "\n") != 1 {
				t.Errorf("stderr is not one line: %q", stderr)
			}
			if w.fake.Snapshot().Counts().Sandboxes != 0 || w.fake.Snapshot().Counts().Networks != 3 {
				t.Error("something was left behind")
			}
		})
	}
}

func TestClusterToken(t *testing.T) {
	w := newWorld(t)
	state := t.TempDir()
	if code, _, stderr := w.run("cluster", "token", "--state-dir", state); code != 1 || !strings.Contains(stderr, "--store embed") {
		t.Errorf("without a token: %d, %q", code, stderr)
	}
	made, err := token.Ensure(filepath.Join(state, daemon.TokenFile))
	if err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := w.run("cluster", "token", "--state-dir", state); code != 0 || stdout != made.Text()+"\n" {
		t.Errorf("got %d, %q, %q", code, stdout, stderr)
	}
}

func TestDaemonFlags(t *testing.T) {
	w := newWorld(t)
	var got daemonOptions
	w.env.node.daemon = func(_ context.Context, o daemonOptions) error { got = o; return errors.New("ended") }
	config := filepath.Join(t.TempDir(), "fairlead.conf")
	text := "# comment\n\nuplink = eth0\nuplink = eth1\nct-max = 1000\nforce-clsact = true\nlog-format = json\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := w.run("daemon", "--config", config, "--ct-max", "2000", "--state-dir", "/s", "--run-dir", "/r", "--bpf-dir", "/b",
		"--store", "etcd://192.0.2.1", "--advertise", "192.0.2.9", "--advertise", "2001:db8::9", "--node-name", "n1", "--vxlan-port", "8472", "--store-token", "/t",
		"--snat-ports", "40000-50000", "--default-address-pool", "base=10.0.0.0/8,size=24", "--metrics-listen", "")
	if code != 1 || stderr != "fairlead: ended\n" {
		t.Errorf("got %d, %q", code, stderr)
	}
	if got.state != "/s" || got.run != "/r" || got.bpf != "/b" || strings.Join(got.uplinks, " ") != "eth0 eth1" || got.ctMax != 2000 ||
		!got.forceClsact || got.logFormat != "json" || got.snatPorts.String() != "40000-50000" || got.metricsListen != "" ||
		len(got.pools) != 1 || got.pools[0].Size != 24 ||
		got.cluster.Store != "etcd://192.0.2.1" || len(got.cluster.Advertise) != 2 || got.cluster.Name != "n1" || got.cluster.Port != 8472 || got.cluster.TokenFile != "/t" {
		t.Errorf("options: %+v", got)
	}
	var refused error
	w.env.node.refuse = func(_ context.Context, reason error) { refused = reason }
	for _, bad := range []string{"bogus = 1", "uplink", "ct-max = x", "config = y"} {
		refused = nil
		if err := os.WriteFile(config, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, _, stderr := w.run("daemon", "--config", config); code != 2 || !strings.Contains(stderr, config+":1: ") || refused == nil || !strings.Contains(stderr, refused.Error()) {
			t.Errorf("%q: got %d, %q, and engines received %v", bad, code, stderr, refused)
		}
	}
	for _, bad := range [][]string{{"--bogus"}, {"surplus"}, {"--config", "/none"}, {"--log-level", "loud"}, {"--docker-scope", "swarm"}} {
		refused = nil
		if _, _, stderr := w.run(append([]string{"daemon"}, bad...)...); refused == nil || !strings.Contains(stderr, refused.Error()) {
			t.Errorf("%q: engines received %v, and the operator %q", bad, refused, stderr)
		}
	}
}

// The sizes in the help of the daemon's flags match the BPF objects.
func TestDaemonHelpNamesTheSizesOfTheTables(t *testing.T) {
	spec, err := bpf.LoadTC()
	if err != nil {
		t.Fatal(err)
	}
	flags := newDaemonCommand(&env{}).Flags()
	for flag, table := range map[string]string{
		"ct-max": bpf.TCMapFlCt, "max-endpoints": bpf.TCMapFlEndpoint, "max-publishes": bpf.TCMapFlService, "max-peers": bpf.TCMapFlPeerFdb,
	} {
		want := fmt.Sprintf("(default %d)", spec.Maps[table].MaxEntries)
		if usage := flags.Lookup(flag).Usage; !strings.HasSuffix(usage, want) {
			t.Errorf("help of --%s is %q, the table's size is %s", flag, usage, want)
		}
	}
}

// Commands that work on the kernel itself refuse to run without root, in one line.
func TestNeedsRoot(t *testing.T) {
	w := newWorld(t)
	w.env.uid = 1000
	ended, cancel := context.WithCancel(t.Context()) // so that a command that is not refused ends at once
	cancel()
	for _, command := range []string{"daemon", "doctor", "bench", "demo", "cleanup"} {
		code, out, stderr := w.runIn(ended, command)
		if want := "fairlead: fairlead " + command + " needs root (run it as root, or with sudo)\n"; code != 1 || out != "" || stderr != want {
			t.Errorf("%s: got %d, %q, %q", command, code, out, stderr)
		}
	}
	w.env.uid, w.env.missing = 0, func() []string { return []string{"CAP_NET_ADMIN", "CAP_SYS_ADMIN"} }
	for _, command := range []string{"daemon", "bench", "demo", "cleanup"} { // doctor reports it
		code, out, stderr := w.runIn(ended, command)
		if want := "fairlead: fairlead " + command + " needs CAP_NET_ADMIN and CAP_SYS_ADMIN, which root lacks here ("; code != 1 || out != "" || !strings.HasPrefix(stderr, want) {
			t.Errorf("%s: got %d, %q, %q", command, code, out, stderr)
		}
	}
}

// A downgrade reports when to start the other daemon, and when there is nothing to do.
func TestDowngrade(t *testing.T) {
	w := newWorld(t)
	w.env.uid = 0
	if code, _, stderr := w.run("downgrade"); code != 2 || !strings.Contains(stderr, "--to is missing") {
		t.Errorf("without --to: %d, %q", code, stderr)
	}
	if out, want := w.ok("downgrade", "--to", "/old"), "converted fl_ct, fl_ct_new, the stored state; start the daemon of /old now\n/old has taken over\n"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	if out, want := w.ok("downgrade", "--to", "/near"), "converted the stored state; start the daemon of /near now\n/near can read the stored state\n"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	if out, want := w.ok("downgrade", "--to", "/same"), "nothing to convert: /same reads the tables and the state as they are\n"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	w.env.uid = 1000
	if code, _, stderr := w.run("downgrade", "--to", "/old"); code != 1 || !strings.Contains(stderr, "fairlead downgrade needs root") {
		t.Errorf("without root: %d, %q", code, stderr)
	}
}

func TestVersionAndHelp(t *testing.T) {
	w := newWorld(t)
	version = "9.8.7"
	t.Cleanup(func() { version = "" })
	for _, args := range [][]string{{"version"}, {"--version"}, {"-v"}} {
		if out := w.ok(args...); !strings.HasPrefix(out, "fairlead 9.8.7 (commit ") || strings.Count(out, "\n") != 1 {
			t.Errorf("%q prints %q", args, out)
		}
	}
	if out := w.ok("help", "network", "create"); !strings.Contains(out, "fairlead network create") {
		t.Errorf("help network create: %q", out)
	}
	if out := w.ok("help"); out != w.ok() {
		t.Errorf("help: %q", out)
	}
}

func TestCompletion(t *testing.T) {
	w := newWorld(t)
	if out := w.ok("completion", "bash"); !strings.Contains(out, "__start_fairlead") {
		t.Error("no bash completion")
	}
	if _, out, _ := w.run("__complete", "network", "rm", ""); !strings.HasPrefix(out, "bridge\nhost\nnone\n") {
		t.Errorf("completion of networks: %q", out)
	}
	if code, _, _ := w.run("completion", "bogus"); code != 2 {
		t.Errorf("completion of an unknown shell: exit status %d", code)
	}
}
