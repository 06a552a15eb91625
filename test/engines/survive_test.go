// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/lab"
)

// newWeb is an engine with a network of Fairlead's, web; end takes it down.
func newWeb(t *testing.T, k kind, live bool) *docker {
	t.Helper()
	d := newDockerLive(t, k, live)
	d.docker("network", "create", "-d", "fairlead", "web")
	return d
}

// end removes containers and the network web, and wants nothing left of them.
func (d *docker) end(containers ...string) {
	d.Helper()
	if len(containers) > 0 {
		d.docker(append([]string{"rm", "-f"}, containers...)...)
	}
	d.docker("network", "rm", "web")
	d.nothingLeft()
}

// answers waits until the published port 18080 answers outside.
func (d *docker) answers() {
	d.Helper()
	d.WaitTCP(d.Outside, lab.Host4+":18080")
}

// timed wants something done within a time, and what a few starts of an engine take
// longer while much else runs.
func (d *docker) timed(what string, within time.Duration, do func()) {
	d.Helper()
	d.Timed(what, within+min(4*d.took, 10*time.Second), do)
}

// Fairlead is killed, started, and taken over from under running containers, and
// others end and start beside: no connection breaks, and the containers are known
// afterwards.
func TestDockerOutlivesFairlead(t *testing.T) { eachVersion(t, outlivesFairlead) }

func outlivesFairlead(t *testing.T, k kind) {
	d := newDocker(t, k)
	d.docker("network", "create", "-d", "fairlead", "--ipam-driver", "fairlead", "-o", model.OptUntracked+"=true", "web")
	ben := d.run("ben", "--network", "web", "-p", "18080:80", "-p", "7000:7", "-p", "7000:7/udp")
	anna := d.run("anna", "--network", "web")
	d.shown("ben", "{{.ID}}")
	d.shown("anna", "{{.ID}}")
	before := d.Fairlead("ps", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Networks}} {{.Ports}}")
	load := d.StartLoad("published port", d.Outside, d.Echo(ben, 7), net.JoinHostPort(lab.Host4, "7000"))
	d.KillDaemon()
	time.Sleep(300 * time.Millisecond)
	d.StartDaemon()
	d.StartDaemon() // takes over
	d.run("mary", "--network", "web", "-p", "18090:80")
	d.docker("restart", "-t", "0", "mary")
	d.docker("kill", "mary")
	d.docker("start", "mary")
	d.docker("rm", "-f", "mary")
	report := load.Stop()
	if t.Log(report); len(report.Errors) > 0 {
		t.Errorf("connections broke: %q", report.Errors)
	}
	if after := d.Fairlead("ps", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Networks}} {{.Ports}}"); after != before {
		t.Errorf("sandboxes were\n%s\nand are now\n%s", before, after)
	}
	d.Get(anna, d.address("ben", "web"), 80, "ben", "")
	d.Must(ben, "nft", "flush", "table", "inet", "fairlead")
	d.becomesUntracked("ben")
	if n := d.Metrics().Repairs()["rule"]; n != 1 {
		t.Errorf("%v repairs of rules, want one", n)
	}
	d.KillDaemon()
	d.docker("rename", "anna", "hanna")
	d.Must(ben, "nft", "delete", "table", "inet", "fairlead")
	d.StartDaemon()
	d.shown("hanna", "{{.ID}}")
	d.becomesUntracked("ben", "hanna")
	otto := d.run("otto", "--network", "web")
	d.Get(otto, lab.Host4, 18080, "ben", d.gateway("ben", "web"))
	d.end("ben", "hanna", "otto")
}

// The engine dies with its containers. It will not tell of them when it is back;
// what they had is given up, and they can start.
func TestDockerdDies(t *testing.T) {
	t.Parallel()
	eachVersion(t, dockerdDies)
}

func dockerdDies(t *testing.T, k kind) {
	d := newWeb(t, k, false)
	d.docker("run", "-d", "--name", "ben", "--stop-timeout", "1", "--network", "web", "-p", "18080:80", image)
	d.answers()
	d.inEngine("kill $(cat /run/docker.pid)") // it ends its containers
	d.engine.Wait()
	d.startEngine()
	d.docker("start", "ben")
	d.answers()
	held := d.enter("ben") // somebody looks around in there
	d.engine.Kill()
	d.startEngine()
	d.docker("start", "ben")
	held.Close()
	d.answers()
	d.KillDaemon() // and both at once, as when the machine goes down
	d.engine.Kill()
	d.StartDaemon()
	d.Eventually(5*time.Second, func() error {
		if ps := d.Fairlead("ps", "-q"); ps != "" {
			return fmt.Errorf("sandbox %s is there", ps)
		}
		return nil
	})
	d.startEngine()
	d.end("ben")
}

// Fairlead dies at some moment of a container's start or removal: what the engine had
// not finished it takes back, or Fairlead sweeps.
func TestDockerFairleadDiesInRequests(t *testing.T) {
	t.Parallel()
	eachVersion(t, diesInRequests)
}

func diesInRequests(t *testing.T, k kind) {
	d := newWeb(t, k, false)
	for i, after := range []time.Duration{50, 120} {
		for _, command := range [][]string{
			{"run", "-d", "--name", "ben", "--network", "web", "-p", "18080:80", image},
			{"rm", "-f", "ben"},
		} {
			done := make(chan error, 1)
			go func() {
				_, err := d.try(command...)
				done <- err
			}()
			time.Sleep(after * time.Millisecond)
			d.KillDaemon()
			d.StartDaemon()
			if err := <-done; err != nil {
				t.Logf("round %d, %s: %v", i, command[0], err)
			}
		}
		_, _ = d.try("rm", "-f", "ben") // it may be gone
		d.docker("run", "-d", "--name", "ben", "--network", "web", "-p", "18080:80", image)
		d.answers()
		d.docker("rm", "-f", "ben")
	}
	d.end()
}

// With live-restore containers outlive the engine, and so does all of Fairlead's.
func TestDockerLiveRestore(t *testing.T) { eachVersion(t, liveRestore) }

func liveRestore(t *testing.T, k kind) {
	d := newWeb(t, k, true)
	ben := d.run("ben", "--network", "web", "-p", "18080:80", "-p", "7000:7", "-p", "7000:7/udp")
	load := d.StartLoad("published port", d.Outside, d.Echo(ben, 7), net.JoinHostPort(lab.Host4, "7000"))
	d.exchangeEngine("KILL")
	d.exchangeEngine("TERM")
	if report := load.Stop(); len(report.Errors) > 0 {
		t.Errorf("connections broke: %q", report.Errors)
	}
	anna := d.run("anna", "--network", "web")
	d.Get(anna, d.address("ben", "web"), 80, "ben", d.address("anna", "web"))
	d.docker("restart", "-t", "1", "ben")
	d.answers()
	d.end("ben", "anna")
}

// An engine that asks while Fairlead does not run has it started by systemd, and one
// that cannot start says why: neither the engine's start nor anything else waits.
func TestDockerStartsFairlead(t *testing.T) {
	t.Parallel()
	eachVersion(t, startsFairlead)
}

func startsFairlead(t *testing.T, k kind) {
	d := newWeb(t, k, false)
	d.docker("run", "-d", "--restart", "always", "--name", "ben", "--network", "web", "-p", "18080:80", image)
	d.StopDaemon()
	d.engine.Kill()
	stop := d.activate()
	d.timed("the start of an engine whose containers need Fairlead", 3*time.Second, d.startEngine)
	d.answers()
	stop()

	d.engine.Kill()
	stop = d.activate("--state-dir", "/proc/nowhere")
	d.timed("the start of an engine while Fairlead cannot start", 3*time.Second, d.startEngine)
	d.timed("a container that needs Fairlead", 3*time.Second, func() {
		d.refused("fairlead cannot start: --state-dir", "start", "ben")
	})
	d.timed("a container that does not", 3*time.Second, func() { d.run("theirs") })
	stop()

	stop = d.activate()
	d.docker("start", "ben")
	d.answers()
	d.end("ben", "theirs")
	stop()
}

// Without Fairlead the engine starts as fast, and serves everything else.
func TestDockerWithoutFairlead(t *testing.T) {
	t.Parallel()
	eachVersion(t, withoutFairlead)
}

func withoutFairlead(t *testing.T, k kind) {
	d := newWeb(t, k, false)
	d.StopDaemon()
	d.engine.Kill()
	d.timed("the start of an engine without Fairlead", 3*time.Second, d.startEngine)
	d.run("theirs")
	d.StartDaemon()
	ben := d.run("ben", "--network", "web")
	d.Get(ben, d.address("ben", "web"), 80, "ben", "")
	d.end("ben", "theirs")
}
