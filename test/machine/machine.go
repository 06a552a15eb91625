// SPDX-License-Identifier: Apache-2.0

// Package machine knows how busy the machine is that tests run on. A time that a test
// allows is for a machine that is idle; on one that is busy, with this test or with
// something else, all takes as much longer as programs have to share processors.
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

// sampleEvery is how often the machine is looked at, which costs 20 µs.
const sampleEvery = 50 * time.Millisecond

// mostStretch bounds by how much a time stretches: a test that fails is to end.
const mostStretch = 8

// Start begins to measure; Stop ends it.
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

// Stop ends the measurement, whose result stays.
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

// runnable is how many threads of the machine run or wait for a processor.
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

// Slowness is how many times longer everything takes than on an idle machine, on average
// since the start: 1 while there is a processor for everyone.
func (w *Watch) Slowness() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.looks == 0 {
		return 1
	}
	share := w.sum / float64(w.looks) / float64(runtime.NumCPU())
	return min(mostStretch, max(1, share))
}

// Stretch is a time that is allowed on an idle machine, for this one.
func (w *Watch) Stretch(limit time.Duration) time.Duration {
	return time.Duration(float64(limit) * w.Slowness())
}

// Took is the time since the start.
func (w *Watch) Took() time.Duration { return time.Since(w.began) }

// Over reports whether more time went by than is allowed.
func (w *Watch) Over(limit time.Duration) bool { return w.Took() > w.Stretch(limit) }
