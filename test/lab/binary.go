// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"cmp"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// binaryVar is the variable that holds the path of the binary under test.
const binaryVar = "FAIRLEAD_LAB_BINARY"

// clientVar is the variable that holds the path of the binary for commands.
const clientVar = "FAIRLEAD_LAB_CLIENT"

// Binary returns the path of the fairlead under test.
func Binary() string { return os.Getenv(binaryVar) }

// client returns the path of the fairlead for commands to a daemon. It is built without the race detector,
// with which each command would take a quarter of a second of processor time before it does anything.
func (l *Lab) client() string {
	if l.Binary == Binary() {
		return cmp.Or(os.Getenv(clientVar), l.Binary)
	}
	return l.Binary // another build, and its own commands
}

// Main runs the tests of a package that uses labs: it builds fairlead, with the race detector whether the
// tests have it or not, and removes all files afterwards. A signal ends the run at once: what a lab made ends
// with the process.
func Main(m *testing.M) { run(m, true) }

// MainUnraced is like Main with a fairlead that does not have the race detector, for tests of
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

// prepare puts the binaries, and all temporary files from now on, into dir.
func prepare(dir string, race bool) error {
	if os.Getenv(binaryVar) == "" {
		for variable, race := range map[string]bool{binaryVar: race, clientVar: false} {
			path, err := build(filepath.Join(dir, strings.ToLower(variable)), "fairlead", race)
			if err != nil {
				return err
			}
			if err := os.Setenv(variable, path); err != nil {
				return err
			}
		}
	}
	// A program with the race detector sleeps for a second before it exits.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")); err != nil {
		return err
	}
	return os.Setenv("TMPDIR", dir)
}

// Program builds another program of cmd/, without the race detector, and returns its path.
func Program(name string) (path string, err error) { return build(os.TempDir(), name, false) }

// Tool builds the program of a package that go.mod names as a tool.
func Tool(pkg string) (path string, err error) { return buildPackage(os.TempDir(), pkg, false) }

// build builds a program of cmd/ in a directory.
func build(in, name string, race bool) (path string, err error) {
	return buildPackage(in, "github.com/fairlead-net/fairlead/cmd/"+name, race)
}

// buildPackage builds a program in a directory. To link it takes seconds, which `go build` saves if its last
// output is still there: that is in the cache, apart for each clone, and the result is a copy.
func buildPackage(in, pkg string, race bool) (path string, err error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	root, _, _ := strings.Cut(here, "/test/")
	dir := filepath.Join(cache, "fairlead", "lab", fmt.Sprintf("%x", sha256.Sum256([]byte(root)))[:12])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", dir, err)
	}
	name := filepath.Base(pkg)
	cmd, output := exec.Command("go", "build", "-trimpath"), filepath.Join(dir, name)
	if race { // as the tests of units of `make test`, so that nothing is compiled twice
		output = filepath.Join(dir, name+"-race")
		cmd.Args = append(cmd.Args, "-race")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	} else { // as `make build`
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	cmd.Args = append(cmd.Args, "-o", output, pkg)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	if err := os.MkdirAll(in, 0o755); err != nil {
		return "", err
	}
	content, err := os.ReadFile(output)
	if err != nil {
		return "", err
	}
	path = filepath.Join(in, name)
	return path, os.WriteFile(path, content, 0o755)
}
