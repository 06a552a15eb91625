// SPDX-License-Identifier: Apache-2.0

package load_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/load"
	"github.com/fairlead-net/fairlead/bench/world"
)

// roleVar makes this test binary one side of a load: "serve rr 1 [::1]:80".
const roleVar = "FAIRLEAD_LOAD_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		if err := play(role); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func play(role string) error {
	var side, address string
	o := load.Options{Size: 64, Duration: 50 * time.Millisecond}
	if _, err := fmt.Sscan(role, &side, &o.Kind, &o.Streams, &address); err != nil {
		return err
	}
	o.Address = netip.MustParseAddrPort(address)
	if side == "serve" {
		return load.Serve(o)
	}
	return load.Run(o, os.Stdout)
}

func TestLoads(t *testing.T) {
	for _, tc := range []struct {
		kind    string
		streams int
		want    []string
	}{
		{"rr", 1, []string{"p50", "p99", "p999", "rate"}},
		{"crr", 1, []string{"p50", "p99", "p999", "rate"}},
		{"stream", 1, []string{"gbps"}},
		{"stream", 3, []string{"gbps"}},
		{"http", 4, []string{"p50", "p99", "rate"}},
		{"httpclose", 4, []string{"p50", "p99", "rate"}},
		{"udp", 1, []string{"rate", "sent"}},
	} {
		for _, address := range []string{"127.0.0.1:80", "[::1]:80"} {
			t.Run(fmt.Sprintf("%s-%d-%s", tc.kind, tc.streams, address), func(t *testing.T) {
				m := measure(t, fmt.Sprintf("%s %d %s", tc.kind, tc.streams, address))
				for _, name := range tc.want {
					if m[name] <= 0 {
						t.Errorf("%s is %g, want more than 0", name, m[name])
					}
				}
				if p999, ok := m["p999"]; m["p50"] > m["p99"] || ok && m["p99"] > p999 || m["loss"] < 0 || m["loss"] >= 1 {
					t.Errorf("measures do not fit together: %v", m)
				}
			})
		}
	}
}

// measure runs both sides on a host of its own.
func measure(t *testing.T, what string) (m load.Measures) {
	t.Helper()
	h, err := world.New("host")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	side := func(name string) *exec.Cmd {
		cmd := world.Command(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), roleVar+"="+name+" "+what)
		return cmd
	}
	if _, err := h.SpawnCommand(side("serve")); err != nil {
		t.Fatal(err)
	}
	r, err := h.RunCommand(side("run"))
	if err != nil || r.Code != 0 {
		t.Fatalf("client: status %d, %v\n%s", r.Code, err, r.Output())
	}
	if err := json.NewDecoder(strings.NewReader(r.Stdout)).Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}
