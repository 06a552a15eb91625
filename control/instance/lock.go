// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// takeoverWait is long: a daemon that was asked to end does so, also on a busy machine, and if the other one gave
	// up first, none would be left.
	takeoverWait = 30 * time.Second
	lockPoll     = 5 * time.Millisecond
	// stopWait bounds the wait for a daemon that was just asked to stop.
	stopWait = 3 * time.Second
)

// errLocked means that a running daemon holds the lock of the run directory.
var errLocked = errors.New("locked")

// identity is the content of the lock file, which describes its holder. It stays when the daemon
// ends, since cleanup must know the namespace of the devices.
type identity struct {
	PID         int    `json:"pid"`
	NetNSCookie uint64 `json:"netns_cookie"`
	BPFDir      string `json:"bpf_dir"`
}

// lock is the lock of a run directory, which at most one daemon serves. The kernel releases it
// when its holder exits for any reason.
type lock struct {
	file *os.File
}

// tryLock acquires the lock of a run directory, or returns errLocked.
func tryLock(runDir string) (*lock, error) {
	path := filepath.Join(runDir, lockName)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		err = errLocked
		fallthrough
	case err != nil:
		return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), file.Close())
	}
	return &lock{file: file}, nil
}

// sameNode returns an error if the last daemon of a run directory used another network namespace
// or bpffs directory.
func (id identity) sameNode(mine identity, runDir string) error {
	if id.NetNSCookie != mine.NetNSCookie {
		return fmt.Errorf("the daemon of %q is in another network namespace (go there with nsenter --net=PATH, or use another --run-dir)", runDir)
	}
	if filepath.Clean(id.BPFDir) != filepath.Clean(mine.BPFDir) {
		return fmt.Errorf("the daemon of %q has its pins in %q, not %q (give that as --bpf-dir)", runDir, id.BPFDir, mine.BPFDir)
	}
	return nil
}

// checkPins returns an error if the last daemon of a run directory left its datapath in another bpffs directory. Its
// flows would be lost, and its pins stay.
func checkPins(runDir string, mine identity) error {
	former, err := readIdentity(filepath.Join(runDir, lockName))
	if err != nil || former.NetNSCookie != mine.NetNSCookie || former.BPFDir == "" || filepath.Clean(former.BPFDir) == filepath.Clean(mine.BPFDir) {
		return err
	}
	pins, err := os.ReadDir(former.BPFDir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(pins) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for the pins of the last daemon: %w", err)
	}
	return fmt.Errorf("the last daemon of %q has its pins in %q, not %q (give that as --bpf-dir, or remove them first, with fairlead cleanup and the directories of that daemon)",
		runDir, former.BPFDir, mine.BPFDir)
}

// takeOver acquires the lock. A daemon that holds it is requested to end, and ends without touching
// kernel objects.
func takeOver(ctx context.Context, runDir string, mine identity, log *slog.Logger) (*lock, error) {
	l, err := tryLock(runDir)
	if !errors.Is(err, errLocked) {
		return l, err
	}
	pid, err := stopHolder(runDir, mine)
	if err != nil {
		return nil, fmt.Errorf("take over from the daemon of %q: %w", runDir, err)
	}
	log.Info("taking over from a running daemon", "pid", pid)
	l, err = awaitLock(ctx, runDir, takeoverWait)
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("the daemon with pid %d still holds %q after %v (stop it, or use another --run-dir): %w",
			pid, runDir, takeoverWait, err)
	}
	return l, err
}

// awaitLock acquires the lock as soon as its holder releases it. It returns errLocked if it does
// not.
func awaitLock(ctx context.Context, runDir string, wait time.Duration) (*lock, error) {
	for deadline := time.Now().Add(wait); ; {
		l, err := tryLock(runDir)
		if !errors.Is(err, errLocked) || time.Now().After(deadline) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

// stopHolder sends SIGTERM to the process that holds the lock, and continues it if it was
// stopped. It does not signal an unrelated process that reuses the PID.
func stopHolder(runDir string, mine identity) (pid int, retErr error) {
	path := filepath.Join(runDir, lockName)
	id, err := readIdentity(path)
	if err != nil {
		return 0, err
	}
	if id.PID <= 1 {
		return 0, fmt.Errorf("lock file %q does not name a process", path)
	}
	if err := id.sameNode(mine, runDir); err != nil {
		return 0, err
	}
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return id.PID, nil // it just exited and released the lock
	}
	if err != nil {
		return 0, fmt.Errorf("open process %d: %w", id.PID, err)
	}
	defer func() { retErr = errors.Join(retErr, unix.Close(fd)) }()
	switch open, ending := hasOpen(id.PID, path); {
	case ending:
		return id.PID, nil // it is about to release the lock
	case !open:
		return 0, fmt.Errorf("process %d, named in %q, does not hold it (is the daemon in another PID namespace?)", id.PID, path)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return 0, fmt.Errorf("signal process %d: %w", id.PID, err)
	}
	// A process that was stopped (SIGSTOP, Ctrl-Z) handles SIGTERM only when it runs again. If
	// somebody continued it long after the new daemon gave up, no daemon would be left.
	if err := unix.PidfdSendSignal(fd, unix.SIGCONT, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return 0, fmt.Errorf("continue process %d: %w", id.PID, err)
	}
	return id.PID, nil
}

// hasOpen reports whether a process has a file open. ending means that it has no open files at
// all, since it is exiting or has exited; the kernel releases its locks a moment later.
func hasOpen(pid int, path string) (open, ending bool) {
	want, err := os.Stat(path)
	if err != nil {
		return false, false
	}
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return false, err == nil || errors.Is(err, fs.ErrNotExist)
	}
	for _, entry := range entries {
		if got, err := os.Stat(filepath.Join(dir, entry.Name())); err == nil && os.SameFile(want, got) {
			return true, false
		}
	}
	return false, false
}

// readIdentity reads the identity of the current or last holder of a lock file.
func readIdentity(path string) (identity, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return identity{}, fmt.Errorf("read lock file: %w", err)
	}
	var id identity
	if len(text) == 0 {
		return id, nil // its holder exited before it wrote its identity
	}
	if err := json.Unmarshal(text, &id); err != nil {
		return identity{}, fmt.Errorf("read lock file %q: %w", path, err)
	}
	return id, nil
}

// sign writes the holder's identity to the lock file.
func (l *lock) sign(id identity) error {
	text, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("encode lock file: %w", err)
	}
	text = append(text, '\n')
	if _, err := l.file.WriteAt(text, 0); err != nil {
		return fmt.Errorf("write lock file: %w", err)
	}
	if err := l.file.Truncate(int64(len(text))); err != nil {
		return fmt.Errorf("write lock file: %w", err)
	}
	return nil
}

// Close releases the lock.
func (l *lock) Close() error { return l.file.Close() }
