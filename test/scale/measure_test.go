// SPDX-License-Identifier: Apache-2.0

package scale

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/test/lab"
	"github.com/fairlead-net/fairlead/test/machine"
)

// host is the crowded host with the state of the measurements.
type host struct {
	*lab.Lab
	client *client.Client
	http   *http.Client
	verbs  []string // in the order in which they were first measured
	rounds map[string][][]time.Duration
}

func newHost(t *testing.T) *host {
	l := lab.New(t, lab.Config{})
	socket := filepath.Join(l.Dir("run"), "api.sock")
	client, err := client.New("unix://" + socket)
	if err != nil {
		t.Fatal(err)
	}
	return &host{
		Lab: l, client: client, rounds: map[string][][]time.Duration{},
		http: &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}},
	}
}

// round begins another round of measurements.
func (h *host) round() {
	for _, verb := range h.verbs {
		h.rounds[verb] = append(h.rounds[verb], nil)
	}
}

// time measures a verb, which must succeed.
func (h *host) time(verb string, f func() error) time.Duration {
	h.Helper()
	start := time.Now()
	err := f()
	took := time.Since(start)
	if err != nil {
		h.Fatalf("%s: %v", verb, err)
	}
	rounds, known := h.rounds[verb]
	if !known {
		h.verbs = append(h.verbs, verb)
		rounds = [][]time.Duration{nil}
	}
	last := len(rounds) - 1
	rounds[last] = append(rounds[last], took)
	h.rounds[verb] = rounds
	return took
}

// get reads a response of the API without decoding it: the daemon is measured, not the test.
func (h *host) get(path string) func() error {
	return func() error {
		resp, err := h.http.Get("http://fairlead" + path)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %s", resp.Status)
		}
		return err
	}
}

// command runs a command that must succeed.
func (h *host) command(args ...string) func() error {
	return func() error {
		if r := h.Try(args...); r.Code != 0 {
			return fmt.Errorf("status %d: %s", r.Code, r.Output())
		}
		return nil
	}
}

// attempts is how often a measurement that exceeds its limits is repeated: other programs use
// the machine too, and only ever make it slower.
const attempts = 3

// within measures until nothing exceeds the limits, which stretch on a slow machine.
func (h *host) within(what string, measure func(stretch stretch) (beyond []string)) {
	h.Helper()
	var beyond []string
	for try := 1; try <= attempts; try++ {
		stretch, stop := h.stretch()
		beyond = measure(stretch)
		h.Logf("%s, attempt %d: limits times %.1f", what, try, stretch(time.Second).Seconds())
		stop()
		if len(beyond) == 0 {
			return
		}
		h.Logf("%s, attempt %d of %d: %s", what, try, attempts, strings.Join(beyond, "; "))
	}
	h.Errorf("%s: %s", what, strings.Join(beyond, "; "))
}

// slowness compares how long this machine takes now to start a program with the usual time;
// it returns 1 if the machine is as fast or faster.
func (h *host) slowness() float64 {
	h.Helper()
	var starts []time.Duration
	for range startsMeasured {
		begin := time.Now()
		if err := h.command("version")(); err != nil {
			h.Fatal(err)
		}
		starts = append(starts, time.Since(begin))
	}
	return max(1, percentile(starts, 50).Seconds()/usualStart.Seconds())
}

// stretch converts a limit to one for this machine, as slow and as busy as it has been until
// now.
type stretch func(limit time.Duration) time.Duration

// stretch measures how slow the machine is, and how busy from now on.
func (h *host) stretch() (s stretch, stop func()) {
	h.Helper()
	slowness := h.slowness()
	watch := machine.Start()
	return func(limit time.Duration) time.Duration {
		return max(watch.Stretch(limit), time.Duration(float64(limit)*slowness))
	}, watch.Stop
}

// report prints all verbs and returns those that exceed the limits. The 99th percentile is
// the median of the rounds' 99th percentiles, so that one stall of the machine, which
// Fairlead does not cause, is not decisive.
func (h *host) report(stretch stretch) (beyond []string) {
	h.Helper()
	for _, verb := range h.verbs {
		half, tail := h.percentiles(verb)
		all := slices.Concat(h.rounds[verb]...)
		h.Logf("%-28s %5d times: p50 %7s  p99 %7s  (of all: p99 %s, worst %s)", verb, len(all),
			ms(half), ms(tail), ms(percentile(all, 99)), ms(percentile(all, 100)))
		middle, p99 := verbMiddle, verbTail
		if strings.HasPrefix(verb, "fairlead ") {
			middle, p99 = commandMiddle, commandTail
		}
		middle, p99 = stretch(middle), stretch(p99)
		if half > middle || tail > p99 {
			beyond = append(beyond, fmt.Sprintf("%s: p50 %s, p99 %s; want at most %s and %s", verb, ms(half), ms(tail), ms(middle), ms(p99)))
		}
	}
	return beyond
}

// percentiles returns the median of all and the median of the rounds' 99th percentiles.
func (h *host) percentiles(verb string) (half, tail time.Duration) {
	var tails []time.Duration
	for _, round := range h.rounds[verb] {
		if len(round) > 0 {
			tails = append(tails, percentile(round, 99))
		}
	}
	return percentile(slices.Concat(h.rounds[verb]...), 50), percentile(tails, 50)
}

func percentile(all []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1fms", float64(d.Microseconds())/1000) }

// status returns a number from the daemon's /proc/PID/status.
func (h *host) status(field string) (n int) {
	h.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.Daemon.Pid()))
	if err != nil {
		h.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			if _, err := fmt.Sscan(value, &n); err != nil {
				h.Fatal(err)
			}
			return n
		}
	}
	h.Fatalf("no %s in the daemon's status", field)
	return 0
}

// children counts the daemon's processes.
func (h *host) children() (n int) {
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // exited just now
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == fmt.Sprint(h.Daemon.Pid()) {
			n++
		}
	}
	return n
}
