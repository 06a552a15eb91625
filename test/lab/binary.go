// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

// binaryVar is the variable that holds the path of the binary under test.
const binaryVar = "FAIRLEAD_LAB_BINARY"

// Binary returns the path of the fairlead under test.
func Binary() string { return os.Getenv(binaryVar) }

// Main runs the tests of a package that uses labs: it builds fairlead, with the race detector
// if the tests have it, and removes all files afterwards. A signal ends the run at once: what
// a lab made ends with the process.
func Main(m *testing.M) { run(m, raceEnabled) }

// MainUnraced is like Main with a fairlead that never has the race detector, for tests of
// time and memory.
func MainUnraced(m *testing.M) { run(m, false) }

func run(m *testing.M, race bool) {
	dir, err := os.MkdirTemp("", "fl-lab-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "make directory of the labs:", err)
		os.Exit(1)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		s := <-signals
		os.RemoveAll(dir)
		os.Exit(128 + int(s.(syscall.Signal)))
	}()
	flag.Parse()
	if err := parallel(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := 1
	if err := prepare(dir, race); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// labs is how many labs run at once, unless the command line sets it: they are mostly
// waiting.
const labs = "4"

// parallel sets the number of labs that run at once.
func parallel() error {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return nil
	}
	return flag.Set("test.parallel", labs)
}

// prepare puts the binary, and all temporary files from now on, into dir.
func prepare(dir string, race bool) error {
	if os.Getenv(binaryVar) == "" {
		binary := filepath.Join(dir, "fairlead")
		args := []string{"build", "-o", binary}
		args = append(args, fmt.Sprintf("-race=%t", race))
		out, err := exec.Command("go", append(args, "github.com/fairlead-net/fairlead/cmd/fairlead")...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("build fairlead: %w\n%s", err, out)
		}
		if err := os.Setenv(binaryVar, binary); err != nil {
			return err
		}
	}
	// A program with the race detector sleeps for a second before it exits.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")); err != nil {
		return err
	}
	return os.Setenv("TMPDIR", dir)
}
