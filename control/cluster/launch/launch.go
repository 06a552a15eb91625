// SPDX-License-Identifier: Apache-2.0

// Package launch runs the embedded store, which is a program of its own (fairlead-store): what etcd
// initialises when it is linked in would slow down every command, and what it allocates would count
// as the daemon's memory.
package launch

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Program is the store's name in the file system.
const Program = "fairlead-store"

// Ready is the line that the store writes to its standard output when it serves.
const Ready = "ready"

// Config says where the store keeps its data, and where it listens.
type Config struct {
	Dir       string         // of its data; required
	Listen    netip.AddrPort // for clients; required
	TokenFile string         // of the join token; none: no TLS
	Log       *slog.Logger   // required
}

// How long an exited store takes to be started again: the first time, and at most.
const (
	firstPause   = time.Second
	longestPause = 30 * time.Second
)

// closeTime is how long a store has to close its files.
const closeTime = 10 * time.Second

// Store is a store that runs, and is started again if it exits.
type Store struct {
	cfg     Config
	program string
	stop    context.CancelFunc
	ended   chan struct{}
}

// Start starts the store and waits until it serves.
func Start(ctx context.Context, cfg Config) (*Store, error) {
	program, err := Find()
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, program: program, ended: make(chan struct{})}
	p, err := s.start(ctx)
	if err != nil {
		return nil, err
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	go s.supervise(ctx, p)
	return s, nil
}

// Find returns the program's path: it is installed beside this one, or in $PATH.
func Find() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	beside := filepath.Join(filepath.Dir(self), Program)
	if _, err := os.Stat(beside); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return beside, nil
	}
	path, err := exec.LookPath(Program)
	if err != nil {
		return "", fmt.Errorf("the program %s of the embedded store is neither at %s nor in $PATH (install it, or use another store)", Program, beside)
	}
	return path, nil
}

// Endpoint returns the address at which clients on this host reach the store.
func (s *Store) Endpoint() string {
	listen := s.cfg.Listen
	if listen.Addr().IsUnspecified() {
		loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if listen.Addr().Is6() {
			loopback = netip.IPv6Loopback()
		}
		listen = netip.AddrPortFrom(loopback, listen.Port())
	}
	return listen.String()
}

// Close stops the store and waits for its end. Its data stay.
func (s *Store) Close() error {
	s.stop()
	<-s.ended
	return nil
}

// supervise starts the store again whenever it exits, until ctx ends.
func (s *Store) supervise(ctx context.Context, p *process) {
	defer close(s.ended)
	pause := firstPause
	for {
		started := time.Now()
		if p != nil {
			select {
			case err := <-p.exited:
				s.cfg.Log.Error("the embedded store exited; starting it again", "err", err, "after", pause)
			case <-ctx.Done():
				p.close()
				return
			}
		}
		if time.Since(started) > longestPause {
			pause = firstPause
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, longestPause)
		var err error
		if p, err = s.start(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("the embedded store does not start; trying again", "err", err, "after", pause)
		}
	}
}

// process is one run of the store.
type process struct {
	cmd    *exec.Cmd
	stdin  io.Closer // which the store reads, to end when this process does
	exited chan error
}

// start starts the store and waits until it serves, or fails.
func (s *Store) start(ctx context.Context) (*process, error) {
	args := []string{"--dir", s.cfg.Dir, "--listen", s.cfg.Listen.String(), "--log-format", "json", "--end-with-stdin"}
	if s.cfg.TokenFile != "" {
		args = append(args, "--token-file", s.cfg.TokenFile)
	}
	p := &process{cmd: exec.Command(s.program, args...), exited: make(chan error, 1)}
	// A signal from the terminal is for the daemon, which still needs the store while it ends.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.stdin = stdin
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the embedded store: %w", err)
	}
	last := make(chan string, 1)
	go func() { last <- s.copyLog(stderr) }()
	ready := make(chan bool, 1)
	go func() {
		scan := bufio.NewScanner(stdout)
		ready <- scan.Scan() && scan.Text() == Ready
		_, _ = io.Copy(io.Discard, stdout) // it writes nothing else
		text := <-last                     // all of the log is read before Wait closes it
		err := p.cmd.Wait()
		switch {
		case text != "":
			err = errors.New(text)
		case err == nil:
			err = errors.New("exit status 0")
		}
		p.exited <- err
	}()
	select {
	case ok := <-ready:
		if !ok {
			return nil, fmt.Errorf("start the embedded store: %w", <-p.exited)
		}
		s.cfg.Log.Info("the embedded store serves", "listen", s.cfg.Listen, "dir", s.cfg.Dir, "pid", p.cmd.Process.Pid)
		return p, nil
	case <-ctx.Done():
		p.close()
		return nil, fmt.Errorf("start the embedded store in %s: %w", s.cfg.Dir, ctx.Err())
	}
}

// close lets the store end, and waits for it.
func (p *process) close() {
	_ = p.stdin.Close()
	select {
	case <-p.exited:
	case <-time.After(closeTime):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// copyLog passes the lines of the store's log to this process's. It returns the last line that is not
// one of slog's, which says why the store exited.
func (s *Store) copyLog(r io.Reader) (last string) {
	log := s.cfg.Log.With("component", Program)
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		var line map[string]any
		if json.Unmarshal(scan.Bytes(), &line) != nil {
			last = strings.TrimPrefix(scan.Text(), Program+": ")
			continue
		}
		var level slog.Level
		text, _ := line[slog.LevelKey].(string)
		_ = level.UnmarshalText([]byte(text)) // the default is INFO
		message, _ := line[slog.MessageKey].(string)
		var args []any
		for key, value := range line {
			if key != slog.LevelKey && key != slog.MessageKey && key != slog.TimeKey {
				args = append(args, key, value)
			}
		}
		log.Log(context.Background(), level, message, args...)
	}
	_, _ = io.Copy(io.Discard, r) // after a line that is too long
	return last
}
