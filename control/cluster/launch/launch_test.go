// SPDX-License-Identifier: Apache-2.0

package launch_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/launch"
)

// output is a log that several goroutines write and read.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// program makes a shell script the store that is found, in directory dir.
func program(t *testing.T, script string) (cfg launch.Config, log *output) {
	t.Helper()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, launch.Program), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	log = &output{}
	return launch.Config{
		Dir: t.TempDir(), Listen: netip.MustParseAddrPort("127.0.0.1:2379"), TokenFile: "/token", Log: slog.New(slog.NewTextHandler(log, nil)),
	}, log
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func TestStart(t *testing.T) {
	cfg, log := program(t, `echo "$@" >"$2/args"; echo ready; `+
		`echo '{"time":"2026-01-01T00:00:00Z","level":"WARN","msg":"slow disk","took":"2s"}' >&2; cat >/dev/null; echo end >>"$2/args"`)
	s, err := launch.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store's log line", func() bool {
		return strings.Contains(log.String(), `level=WARN msg="slow disk" component=fairlead-store took=2s`)
	})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	got, err := os.ReadFile(cfg.Dir + "/args")
	want := "--dir " + cfg.Dir + " --listen 127.0.0.1:2379 --log-format json --end-with-stdin --token-file /token\nend\n"
	if string(got) != want || err != nil {
		t.Errorf("the store was started and ended with %q, %v; want %q", got, err, want)
	}
}

// TestExits has the store exit after it served: it is started again.
func TestExits(t *testing.T) {
	cfg, log := program(t, `echo start >>"$2/starts"; echo ready; [ $(wc -l <"$2/starts") = 3 ] && cat >/dev/null; echo fairlead-store: out of disk >&2; exit 1`)
	s, err := launch.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "three starts", func() bool {
		starts, _ := os.ReadFile(cfg.Dir + "/starts")
		return strings.Count(string(starts), "start") == 3
	})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), `msg="the embedded store exited; starting it again" err="out of disk"`); n != 2 {
		t.Errorf("the log reports %d exits, want 2:\n%s", n, log)
	}
}

func TestDoesNotStart(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"reason":  {"echo fairlead-store: the port is taken >&2; exit 1", "start the embedded store: the port is taken"},
		"status":  {"exit 3", "start the embedded store: exit status 3"},
		"nothing": {"exit 0", "start the embedded store: exit status 0"},
		"other":   {"echo hello; exit 1", "start the embedded store: exit status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, _ := program(t, c.script)
			if s, err := launch.Start(t.Context(), cfg); fmt.Sprint(err) != c.want {
				t.Errorf("Start returned %v, %v; want %s", s, err, c.want)
			}
		})
	}
	t.Run("absent", func(t *testing.T) {
		cfg, _ := program(t, "")
		t.Setenv("PATH", "/nonexistent")
		if s, err := launch.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "nor in $PATH (install it, or use another store)") {
			t.Errorf("Start returned %v, %v", s, err)
		}
	})
}

func TestEndpoint(t *testing.T) {
	for listen, want := range map[string]string{
		"192.0.2.1:2379": "192.0.2.1:2379", "0.0.0.0:2379": "127.0.0.1:2379", "[::]:2380": "[::1]:2380", "[2001:db8::1]:2379": "[2001:db8::1]:2379",
	} {
		cfg, _ := program(t, "echo ready; cat >/dev/null")
		cfg.Listen = netip.MustParseAddrPort(listen)
		s, err := launch.Start(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Endpoint(); got != want {
			t.Errorf("%s: %s, want %s", listen, got, want)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
