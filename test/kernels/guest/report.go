// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// report sends results to the test outside: "begin STEP", details of the step, each on a line that
// begins with a space, then "ok STEP" or "FAIL STEP".
type report struct {
	w      io.Writer
	began  time.Time
	failed bool
}

// step runs one test and reports whether it passed.
func (r *report) step(name string, f func() error) bool {
	began := time.Now()
	fmt.Fprintf(r.w, "begin %s, %s after the first step began\n", name, began.Sub(r.began).Round(time.Second))
	err := f()
	if err != nil {
		r.failed = true
		r.note("%v", err)
	}
	verdict := "ok"
	if err != nil {
		verdict = "FAIL"
	}
	fmt.Fprintf(r.w, "%s %s (%s)\n", verdict, name, time.Since(began).Round(time.Millisecond))
	return err == nil
}

// result returns an error if a step failed.
func (r *report) result() error {
	if r.failed {
		return errors.New("some steps failed")
	}
	return nil
}

// note adds a detail of one or several lines.
func (r *report) note(format string, args ...any) {
	for line := range strings.Lines(strings.TrimSpace(fmt.Sprintf(format, args...))) {
		fmt.Fprintf(r.w, "  %s\n", strings.TrimRight(line, "\r\n"))
	}
}
