// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// newProgress returns a progress bar, which is visible only if w is a terminal.
func newProgress(w io.Writer, steps int) *progressbar.ProgressBar {
	f, ok := w.(*os.File)
	visible := ok && term.IsTerminal(int(f.Fd()))
	return progressbar.NewOptions(steps, progressbar.OptionSetWriter(w), progressbar.OptionSetVisibility(visible),
		progressbar.OptionShowCount(), progressbar.OptionSetPredictTime(true), progressbar.OptionClearOnFinish())
}

// showProgress shows progress on a terminal from the first report until stop.
func showProgress(w io.Writer, what string) (report func(done, all int), stop func()) {
	var bar *progressbar.ProgressBar
	report = func(done, all int) {
		if bar == nil {
			bar = newProgress(w, all)
			bar.Describe(what)
		}
		_ = bar.Set(done) // only for display
	}
	return report, func() {
		if bar != nil {
			_ = bar.Clear() // so that an error starts on an empty line
		}
	}
}
