// SPDX-License-Identifier: Apache-2.0

// Package faces asks the same of every way to have containers: Docker with its own
// bridge driver, Docker with Fairlead, CNI and the command line. The differences and their reasons are in
// a table.
package faces

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// peer is the program that containers run, on this machine; plugin is CNI's, and netavark's
// is beside it.
var peer, plugin string

// build makes them, without the race detector.
func build(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-w", "-o", dir, "./peer", "../../cmd/fairlead-cni", "../../cmd/fairlead-netavark")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	peer, plugin = filepath.Join(dir, "peer"), filepath.Join(dir, "fairlead-cni")
}

// image is a tarball with nothing but peer.
func image(l *lab.Lab) string {
	path := filepath.Join(l.Dir("image"), "rootfs.tar")
	l.Must(l.Host, "tar", "-C", filepath.Dir(peer), "-cf", path, filepath.Base(peer))
	return path
}

// Every face behaves as Docker's bridge driver does, save for what is explained.
func TestFaces(t *testing.T) {
	build(t)
	table := newTable(behaviours(), columns, explained)
	t.Run("faces", func(t *testing.T) {
		for _, c := range columns {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				s := newStage(c.start(t))
				started := time.Since(began)
				s.observe(func(behaviour, observation string) { table.put(behaviour, c.name, observation) })
				t.Logf("started in %v, all in %v", started.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
			})
		}
	})
	table.print(t)
	table.judge(t)
	if !t.Failed() {
		table.document(t, head)
	}
}
