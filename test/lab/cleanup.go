// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
)

// close stops the daemon, removes everything that Fairlead made and checks that nothing is
// left.
func (l *Lab) close() {
	if l.Daemon != nil {
		l.explainDrops()
		l.StopDaemon()
	}
	programs := l.Host.ProcessesIn(filepath.Join(l.dir, "run", "netns", "*"))
	l.RunCleanup()
	for _, pid := range programs {
		// Fairlead does not own them; the test that made them should have removed them.
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// RunCleanup runs `fairlead cleanup` and fails the test if anything is left.
func (l *Lab) RunCleanup() {
	l.Helper()
	objects, err := l.pinned()
	if err != nil {
		l.Errorf("list the pins: %v", err)
	}
	r, err := l.try(append([]string{"cleanup"}, l.dirs()...)...)
	if err != nil || r.Code != 0 {
		l.Errorf("fairlead cleanup: status %d, %v\n%s", r.Code, err, r.Output())
	}
	for _, left := range l.left(objects) {
		l.Errorf("left behind after cleanup: %s", left)
	}
}

// left lists what remains of Fairlead.
func (l *Lab) left(objects []object) (left []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	links, err := l.Host.Run(ctx, "ip", "-details", "-oneline", "link", "show")
	if err != nil {
		left = append(left, err.Error())
	}
	for line := range strings.Lines(links.Stdout) {
		if strings.Contains(line, "alias fairlead:") {
			left = append(left, "link "+line)
		}
	}
	mounts, err := os.ReadFile(l.mountinfo())
	if err != nil {
		left = append(left, err.Error())
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, l.dir) {
			left = append(left, "mount "+line)
		}
	}
	for _, name := range []string{"run", "bpf"} {
		err := l.Host.Do(func() error {
			_, err := os.Lstat(filepath.Join(l.dir, name))
			return err
		})
		if !errors.Is(err, fs.ErrNotExist) {
			left = append(left, fmt.Sprintf("directory %s (%v)", name, err))
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		objects = slices.DeleteFunc(objects, object.gone)
		if len(objects) == 0 || time.Now().After(deadline) { // the kernel frees them a little later
			break
		}
	}
	for _, o := range objects {
		left = append(left, o.String())
	}
	return left
}

// object is a program or map in the kernel.
type object struct {
	kind, pin string
	id        uint32
}

func (o object) String() string { return fmt.Sprintf("%s %d, pinned at %s", o.kind, o.id, o.pin) }

func (o object) gone() bool {
	if o.kind == "program" {
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(o.id))
		if err == nil {
			p.Close()
		}
		return err != nil
	}
	m, err := ebpf.NewMapFromID(ebpf.MapID(o.id))
	if err == nil {
		m.Close()
	}
	return err != nil
}

// pinned lists the programs and maps in the daemon's bpf directory.
func (l *Lab) pinned() (list []object, err error) {
	dir := filepath.Join(l.dir, "bpf")
	err = l.Host.Do(func() error {
		return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			o := object{pin: rel}
			switch {
			case strings.HasPrefix(rel, "maps/"):
				o.kind = "map"
				o.id, err = mapID(path)
			case strings.HasPrefix(rel, "progs-"):
				o.kind = "program"
				o.id, err = programID(path)
			default:
				return nil
			}
			list = append(list, o)
			return err
		})
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return list, err
}

func mapID(path string) (uint32, error) {
	m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return 0, err
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return 0, err
	}
	id, _ := info.ID()
	return uint32(id), nil
}

func programID(path string) (uint32, error) {
	p, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return 0, err
	}
	id, _ := info.ID()
	return uint32(id), nil
}

// Objects returns the IDs of the daemon's programs and maps by pin.
func (l *Lab) Objects() map[string]uint32 {
	l.Helper()
	list, err := l.pinned()
	l.must(err)
	ids := make(map[string]uint32)
	for _, o := range list {
		ids[o.pin] = o.id
	}
	return ids
}

// Filters lists the records of clsact filters that the daemon attached.
func (l *Lab) Filters() []string {
	l.Helper()
	var names []string
	l.must(l.Host.Do(func() error {
		files, err := os.ReadDir(filepath.Join(l.dir, "bpf", "filters"))
		for _, f := range files {
			names = append(names, f.Name())
		}
		return err
	}))
	return names
}
