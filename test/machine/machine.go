// SPDX-License-Identifier: Apache-2.0

// Package machine measures how busy the machine is that tests run on. Time limits of tests
// are for an idle machine; on a machine that is busy, with this test or with something else,
// everything takes longer in proportion to the programs that share a processor.
package machine

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Watch measures how many programs want a processor, from its start on.
type Watch struct {
	began time.Time
	stop  chan struct{}

	mu    sync.Mutex
	sum   float64 // of the programs that want a processor
	looks int
}

// sampleEvery is the sampling interval; a sample costs 20 µs.
const sampleEvery = 50 * time.Millisecond

// mostStretch limits the stretching of a time: a test that fails has to end.
const mostStretch = 8

// Start starts measuring; Stop ends it.
func Start() *Watch {
	w := &Watch{began: time.Now(), stop: make(chan struct{})}
	go func() {
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		for {
			w.look()
			select {
			case <-w.stop:
				return
			case <-tick.C:
			}
		}
	}()
	return w
}

// Stop ends the measurement and keeps its result.
func (w *Watch) Stop() { close(w.stop) }

func (w *Watch) look() {
	n, err := runnable()
	if err != nil {
		panic(err) // a kernel without /proc/loadavg
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sum += float64(n)
	w.looks++
}

// runnable returns how many threads of the machine run or wait for a processor.
func runnable() (int, error) {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	if len(fields) < 4 {
		return 0, fmt.Errorf("/proc/loadavg is %q", b)
	}
	n, _, _ := strings.Cut(fields[3], "/")
	return strconv.Atoi(n)
}

// Slowness returns how many times longer everything takes than on an idle machine, on average
// since the start: 1 while there is a processor for every program.
func (w *Watch) Slowness() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.looks == 0 {
		return 1
	}
	share := w.sum / float64(w.looks) / float64(runtime.NumCPU())
	return min(mostStretch, max(1, share))
}

// Stretch converts a time limit for an idle machine to one for this machine.
func (w *Watch) Stretch(limit time.Duration) time.Duration {
	return time.Duration(float64(limit) * w.Slowness())
}

// Took returns the time since the start.
func (w *Watch) Took() time.Duration { return time.Since(w.began) }

// Over reports whether more time has passed than is allowed.
func (w *Watch) Over(limit time.Duration) bool { return w.Took() > w.Stretch(limit) }
