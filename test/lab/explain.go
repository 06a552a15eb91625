// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/fairlead-net/fairlead/bench/world"
)

// How much of each output a failed test shows: a runner's log may keep only its last hundred
// lines.
const (
	shownLines    = 20
	shownWarnings = 10
	shownFailures = 5
)

// history is what a failed test prints at its end. All copies of a lab share it.
type history struct {
	mu       sync.Mutex
	daemons  []*world.Process // that have exited
	failures []string
}

// ended records a daemon that has exited.
func (l *Lab) ended(daemon *world.Process) {
	l.Helper()
	if strings.Contains(daemon.Output(), "DATA RACE") {
		l.Errorf("daemon %d had a data race:\n%s", daemon.Pid(), warnings(daemon.Output()))
	}
	l.history.mu.Lock()
	defer l.history.mu.Unlock()
	l.history.daemons = append(l.history.daemons, daemon)
}

// explain shows, if the test failed, the daemons' warnings and the log of the last one, and
// then repeats the failures.
func (l *Lab) explain() {
	if !l.Failed() {
		return
	}
	l.history.mu.Lock()
	defer l.history.mu.Unlock()
	for i, daemon := range l.history.daemons {
		text := "warnings:\n" + short(warnings(daemon.Output()), shownWarnings)
		if i == len(l.history.daemons)-1 {
			text += "all:\n" + short(daemon.Output(), shownLines)
		}
		l.Logf("log of daemon %d, %s", daemon.Pid(), text)
	}
	l.Logf("what failed:\n%s", strings.Join(l.history.failures, "\n"))
}

// explainDrops shows, if the test failed, which packets the programs dropped in it.
func (l *Lab) explainDrops() {
	if !l.Failed() {
		return
	}
	m, err := l.scrape()
	if err != nil {
		l.Logf("the drops are unknown: %v", err)
		return
	}
	l.Logf("dropped packets by reason: %v", moves(nil, m.Drops()))
}

// short returns the beginning and the end of a long text.
func short(text string, n int) string {
	lines := slices.Collect(strings.Lines(text))
	if len(lines) <= n {
		return text
	}
	first, last := lines[:n/4], lines[len(lines)-(n-n/4):]
	return fmt.Sprintf("%s(%d lines more)\n%s", strings.Join(first, ""), len(lines)-n, strings.Join(last, ""))
}

// warnings returns the lines of a daemon's log above its usual level.
func warnings(log string) string {
	var found strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "level=INFO") && !strings.Contains(line, "level=DEBUG") {
			found.WriteString(line)
		}
	}
	return found.String()
}

func (l *Lab) failed(message string) {
	l.history.mu.Lock()
	defer l.history.mu.Unlock()
	switch n := len(l.history.failures); {
	case n < shownFailures:
		l.history.failures = append(l.history.failures, l.Name()+": "+short(strings.TrimSpace(message), shownLines))
	case n == shownFailures:
		l.history.failures = append(l.history.failures, "and more")
	}
}

// Error is the test's Error; explain repeats the message.
func (l *Lab) Error(args ...any) {
	l.Helper()
	l.failed(fmt.Sprintln(args...))
	l.TB.Error(args...)
}

// Errorf is like Error.
func (l *Lab) Errorf(format string, args ...any) {
	l.Helper()
	l.failed(fmt.Sprintf(format, args...))
	l.TB.Errorf(format, args...)
}

// Fatal is like Error, and ends the test.
func (l *Lab) Fatal(args ...any) {
	l.Helper()
	l.failed(fmt.Sprintln(args...))
	l.TB.Fatal(args...)
}

// Fatalf is like Fatal.
func (l *Lab) Fatalf(format string, args ...any) {
	l.Helper()
	l.failed(fmt.Sprintf(format, args...))
	l.TB.Fatalf(format, args...)
}
