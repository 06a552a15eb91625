// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/control/cleanup"
	"github.com/fairlead-net/fairlead/control/doctor"
)

// runVariable, when set, turns this test binary into a daemon or a cleanup of
// the directories below the one it names.
const runVariable = "FAIRLEAD_TEST_RUN"

const testMetrics = "127.0.0.1:9477"

func testDirs(dir string) Dirs {
	return Dirs{State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run"), BPF: filepath.Join(dir, "bpf")}
}

// runVerb is the main function of processes of the tests.
func runVerb(dir, verb string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	var err error
	switch verb {
	case "daemon":
		err = Run(ctx, Config{Dirs: testDirs(dir), MetricsListen: testMetrics, Version: "test", Log: log})
	case "cleanup":
		err = cleanup.Run(ctx, testDirs(dir), func(int, int) {}, log)
	case "doctor":
		_, err = doctor.Report(ctx, os.Stdout, "unix://"+testDirs(dir).Socket())
	case "squat":
		err = squat()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return 0
}

// testNode is a private host with the directories of one daemon.
type testNode struct {
	*testing.T
	host   *world.Host
	dir    string
	before []string // what runs the tests' program: a command that takes one
}

func newNode(t *testing.T) *testNode {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("the test creates network namespaces and loads programs: run it as root")
	}
	host, err := world.New("host")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Close)
	dir, err := os.MkdirTemp("", "d") // short: the path of a socket has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &testNode{T: t, host: host, dir: dir}
}

func (n *testNode) command(verb string) *exec.Cmd {
	args := append(slices.Clone(n.before), os.Args[0], verb)
	cmd := world.Command(n.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), runVariable+"="+n.dir, "GORACE=atexit_sleep_ms=0")
	return cmd
}

// start starts a daemon and waits until it serves.
func (n *testNode) start() *world.Process {
	n.Helper()
	p, err := n.host.SpawnCommand(n.command("daemon"))
	if err != nil {
		n.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		status, err := n.client().Status(n.Context())
		if err == nil && status.Pid == p.Pid() {
			return p
		}
		if time.Now().After(deadline) {
			n.Fatalf("the daemon does not serve: %v\n%s", err, p.Output())
		}
	}
}

func (n *testNode) client() *client.Client {
	n.Helper()
	client, err := client.New("unix://" + testDirs(n.dir).Socket())
	if err != nil {
		n.Fatal(err)
	}
	return client
}

// pinned lists pins, with the IDs of programs and maps.
func (n *testNode) pinned() map[string]uint32 {
	n.Helper()
	ids := map[string]uint32{}
	root := filepath.Join(n.dir, "bpf")
	err := n.host.Do(func() error {
		return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			name := strings.TrimPrefix(path, root+"/")
			switch top, _, _ := strings.Cut(name, "/"); {
			case top == "maps":
				m, err := ebpf.LoadPinnedMap(path, nil)
				if err != nil {
					return err
				}
				defer m.Close()
				info, err := m.Info()
				if err != nil {
					return err
				}
				id, _ := info.ID()
				ids[name] = uint32(id)
			case strings.HasPrefix(top, "progs-"):
				p, err := ebpf.LoadPinnedProgram(path, nil)
				if err != nil {
					return err
				}
				defer p.Close()
				info, err := p.Info()
				if err != nil {
					return err
				}
				id, _ := info.ID()
				ids[name] = uint32(id)
			}
			return nil
		})
	})
	if err != nil {
		n.Fatal(err)
	}
	return ids
}

// scrape reads the daemon's metrics as Prometheus does.
func (n *testNode) scrape() string {
	n.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			return n.host.Dial(net.Dialer{Timeout: 5 * time.Second}, network, address)
		},
	}}
	answer, err := client.Get("http://" + testMetrics + "/metrics")
	if err != nil {
		n.Fatal(err)
	}
	defer answer.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(answer.Body); err != nil {
		n.Fatal(err)
	}
	return text.String()
}

func (n *testNode) cleanup() world.Result {
	n.Helper()
	return n.run("cleanup")
}

// devices lists the host's devices except for the loopback.
func (n *testNode) devices() []string {
	n.Helper()
	var names []string
	err := n.host.Do(func() error {
		entries, err := os.ReadDir("/proc/thread-self/net/dev_snmp6")
		for _, entry := range entries {
			if entry.Name() != "lo" {
				names = append(names, entry.Name())
			}
		}
		return err
	})
	if err != nil {
		n.Fatal(err)
	}
	return names
}

// TestLife follows a daemon from its first start through a takeover and a crash to the cleanup.
func TestLife(t *testing.T) {
	n := newNode(t)
	first := n.start()
	status, err := n.client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if status.Networks != 3 || status.Version != "test" || status.LastError != "" {
		t.Errorf("status of a fresh daemon: %+v, want 3 networks and no error", status)
	}
	pins := n.pinned()
	if len(pins) == 0 {
		t.Error("nothing is pinned")
	}

	second := n.start()
	if code := first.Wait(); code != 0 {
		t.Errorf("the first daemon ended with status %d:\n%s", code, first.Output())
	}
	if diff := cmp.Diff(pins, n.pinned()); diff != "" {
		t.Errorf("the takeover replaced programs or maps (-before +after):\n%s", diff)
	}
	if result := n.cleanup(); result.Code == 0 || !strings.Contains(result.Stderr, "stop it first") {
		t.Errorf("cleanup beside a daemon: status %d, %q; want a refusal", result.Code, result.Output())
	}

	second.Kill()
	third := n.start()
	if diff := cmp.Diff(pins, n.pinned()); diff != "" {
		t.Errorf("the start after a crash replaced programs or maps (-before +after):\n%s", diff)
	}
	n.checkMetrics()
	if code := third.Stop(5 * time.Second); code != 0 {
		t.Errorf("the daemon ended with status %d:\n%s", code, third.Output())
	}
	if diff := cmp.Diff(pins, n.pinned()); diff != "" {
		t.Errorf("the end of the daemon changed what is pinned (-before +after):\n%s", diff)
	}
	n.checkCleanup()
}

func (n *testNode) checkMetrics() {
	n.Helper()
	text := n.scrape()
	for _, want := range []string{
		"fairlead_datapath_up 1\n",
		"fairlead_networks 3\n",
		`fairlead_network_packets_total{direction="from_endpoint",network="bridge"} `,
		`fairlead_dropped_packets_total{reason="spoofed_mac"} 0`,
		`fairlead_forwarded_packets_total{path="peer"} 0`,
		`fairlead_conntrack_entries_limit{table="confirmed"} 524288`,
		`fairlead_map_entries{map="fl_subnet"} 0`,
		`fairlead_map_entries_limit{map="fl_service"} 131072`,
		`fairlead_map_entries_limit{map="fl_publish"} 131072`,
		`fairlead_reconcile_duration_seconds_count{operation="apply"} 1`,
		`fairlead_build_info{`,
	} {
		if !strings.Contains(text, want) {
			n.Errorf("the metrics have no %q", want)
		}
	}
	promtool := exec.CommandContext(n.Context(), "promtool", "check", "metrics")
	promtool.Stdin = strings.NewReader(text)
	if out, err := promtool.CombinedOutput(); err != nil || len(out) > 0 {
		n.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

func (n *testNode) checkCleanup() {
	n.Helper()
	other := "other0"
	if err := n.host.IP("link add " + other + " type veth peer name other1"); err != nil {
		n.Fatal(err)
	}
	for range 2 { // the second has nothing to do
		if result := n.cleanup(); result.Code != 0 {
			n.Fatalf("cleanup: status %d: %s", result.Code, result.Output())
		}
	}
	if got, want := n.devices(), []string{other, "other1"}; !slices.Equal(got, want) {
		n.Errorf("devices %q after cleanup, want %q", got, want)
	}
	for _, dir := range []string{"run", "bpf"} {
		err := n.host.Do(func() error {
			_, err := os.Lstat(filepath.Join(n.dir, dir))
			return err
		})
		if !os.IsNotExist(err) {
			n.Errorf("directory %s after cleanup: %v, want none", dir, err)
		}
	}
}
