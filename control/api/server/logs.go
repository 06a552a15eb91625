// SPDX-License-Identifier: Apache-2.0

package server

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

const (
	logDir    = "logs"
	logSuffix = ".log"
)

// logPath returns the file for the output of a sandbox's program with run -d.
func logPath(runDir, id string) string {
	return filepath.Join(runDir, logDir, model.ShortID(id)+logSuffix)
}

// Logs removes the output of programs with their sandboxes, whatever removes these.
type Logs struct {
	runDir string
	log    *slog.Logger
	last   *desired.Snapshot
}

// NewLogs returns Logs of a run directory. Nothing is removed before the first Update.
func NewLogs(runDir string, log *slog.Logger) *Logs { return &Logs{runDir: runDir, log: log} }

// Update removes what a snapshot no longer needs. Its calls must not overlap.
func (l *Logs) Update(s *desired.Snapshot) {
	before := l.last
	l.last = s
	if before == nil {
		l.sweep(s)
		return
	}
	for c := range desired.DiffSandboxes(before, s) {
		if c.New == nil {
			l.remove(logPath(l.runDir, c.ID))
		}
	}
}

// sweep removes the output of sandboxes that were removed while no daemon ran.
func (l *Logs) sweep(s *desired.Snapshot) {
	wanted := map[string]bool{}
	for sb := range s.Sandboxes() {
		wanted[model.ShortID(sb.ID)+logSuffix] = true
	}
	dir := filepath.Join(l.runDir, logDir)
	files, _ := os.ReadDir(dir) // there is none before the first run -d
	for _, f := range files {
		if strings.HasSuffix(f.Name(), logSuffix) && !wanted[f.Name()] {
			l.remove(filepath.Join(dir, f.Name()))
		}
	}
}

func (l *Logs) remove(path string) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		l.log.Warn("cannot remove the log of a removed sandbox", "path", path, "err", err)
	}
}
