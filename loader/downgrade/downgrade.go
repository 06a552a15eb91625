// SPDX-License-Identifier: Apache-2.0

// Package downgrade hands the pinned tables over to an earlier build, which cannot read their layout.
package downgrade

import (
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	stdmaps "maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/loader/bpffs"
	"github.com/fairlead-net/fairlead/loader/tables"
	"github.com/fairlead-net/fairlead/maps"
)

const (
	// pollEvery is how often Run checks whether the other build's programs are pinned.
	pollEvery = 2 * time.Millisecond
	// copyShare bounds the cost of copying until then: at most 1/copyShare of the time.
	copyShare = 10
)

// Config configures Run. All fields but Wait are required.
type Config struct {
	BPFDir string
	// To is the path of the fairlead binary that takes over.
	To string
	// Ready is called with the names of the converted tables once they are pinned and To may start.
	Ready func(converted []string)
	// Wait waits until no daemon of this build can restore what Run removes in the end; nil: there is none.
	Wait func(context.Context) error
	Log  *slog.Logger
}

// Run hands the pinned tables over to a build that can neither read nor convert their
// layout. It pins tables in the layout of the other build's BPF objects, keeps copying to them
// what this build's programs write, and returns once all these programs have been replaced. If
// ctx ends before the other build has loaded its programs, Run restores the pins.
func Run(ctx context.Context, cfg Config) error {
	d := &downgrade{cfg: cfg, dir: filepath.Join(cfg.BPFDir, bpffs.MapsDir)}
	specs, err := embeddedTables(cfg.To)
	if err != nil {
		return err
	}
	if d.before, err = d.programs(); err != nil {
		return err
	}
	if len(d.before) == 0 {
		return fmt.Errorf("no datapath is in %q (name its directory with --bpf-dir)", cfg.BPFDir)
	}
	other, err := d.otherLayout(specs)
	if err != nil {
		return err
	}
	if d.tables, err = tables.Open(d.dir, other, cfg.Log); err != nil {
		return err
	}
	defer d.tables.Close()
	replaced := d.tables.Replaced()
	if len(replaced) == 0 {
		cfg.Ready(nil)
		return d.removeUnknown(ctx, specs) // the programs keep them; a daemon of this build makes others
	}
	if err := d.pin(); err != nil {
		return errors.Join(err, d.restore())
	}
	cfg.Ready(slices.Sorted(stdmaps.Keys(replaced)))
	release, err := d.await(ctx)
	if err != nil {
		return err
	}
	lost, err := d.handOver(ctx)
	if err := errors.Join(err, release()); err != nil {
		return err
	}
	if lost > 0 {
		cfg.Log.Error("the tables of the other build are full; some flows are lost", "entries", lost)
	}
	return d.removeUnknown(ctx, specs)
}

type downgrade struct {
	cfg    Config
	dir    string // of the pinned tables
	before []string
	tables *tables.Tables
}

// embeddedTables reads the map definitions of the BPF objects embedded in a program.
func embeddedTables(path string) (map[string]*ebpf.MapSpec, error) {
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the other build: %w", err)
	}
	all, magic := make(map[string]*ebpf.MapSpec), []byte(elf.ELFMAG)
	for i := bytes.Index(program, magic); i >= 0; {
		if err := addTables(all, program[i:]); err != nil {
			return nil, fmt.Errorf("read the BPF objects in %q: %w", path, err)
		}
		next := bytes.Index(program[i+1:], magic)
		if next < 0 {
			break
		}
		i += 1 + next
	}
	if all[bpf.TCMapFlCt] == nil {
		return nil, fmt.Errorf("%q holds no table of flows: it is not fairlead", path)
	}
	return all, nil
}

// addTables adds the definitions of the BPF object at the start of b, if there is one.
func addTables(all map[string]*ebpf.MapSpec, b []byte) error {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil || f.Machine != elf.EM_BPF {
		return nil // the program itself, or bytes that look like one
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(b))
	if err != nil {
		return err
	}
	for name, m := range spec.Maps {
		all[name] = cmp.Or(all[name], m)
	}
	return nil
}

func (d *downgrade) pin() error {
	d.tables.Overwrite() // the other build's programs do not write to them yet
	if _, _, err := d.tables.Copy(false); err != nil {
		return err
	}
	return d.tables.Pin()
}

// otherLayout returns the definitions of the flow tables and of the pinned tables that have to
// be converted. The rest are compatible, or the other build recreates them.
func (d *downgrade) otherLayout(specs map[string]*ebpf.MapSpec) (map[string]*ebpf.MapSpec, error) {
	other := make(map[string]*ebpf.MapSpec)
	for _, name := range maps.Names() {
		spec := specs[name]
		pinned, err := ebpf.LoadPinnedMap(filepath.Join(d.dir, name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open pinned map %s: %w", name, err)
		}
		if spec != nil && d.handsOver(name, spec, pinned) {
			other[name] = spec
		}
		if err := pinned.Close(); err != nil {
			return nil, err
		}
	}
	return other, nil
}

// handsOver reports whether otherLayout returns the definition.
func (d *downgrade) handsOver(name string, spec *ebpf.MapSpec, pinned *ebpf.Map) bool {
	spec.MaxEntries = pinned.MaxEntries() // the other build itself copies to another size
	if spec.Compatible(pinned) == nil {
		return name == bpf.TCMapFlCt || name == bpf.TCMapFlCtNew
	}
	_, err := tables.Convertible(spec, pinned)
	if err != nil {
		d.cfg.Log.Info("table cannot be converted and will start empty", "table", name, "err", err)
	}
	return err == nil
}

// programs lists the directories of pinned programs.
func (d *downgrade) programs() ([]string, error) {
	entries, err := os.ReadDir(d.cfg.BPFDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for programs: %w", err)
	}
	var all []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), bpffs.ProgsPrefix) {
			all = append(all, e.Name())
		}
	}
	return all, nil
}

// await copies from time to time until the other build has loaded its programs and is about to
// attach them. From then until release, this build's programs refuse new TCP connections.
func (d *downgrade) await(ctx context.Context) (release func() error, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	loaded := make(chan error, 1)
	go func() { // copying takes longer than the other build waits
		err := d.awaitPrograms(ctx)
		if err == nil {
			release, err = d.hold()
		}
		loaded <- err
	}()
	for pause := time.Duration(0); ; {
		select {
		case err := <-loaded:
			if ctx.Err() != nil {
				err = errors.Join(fmt.Errorf("%q did not start; the tables are as they were: %w", d.cfg.To, context.Cause(ctx)), d.restore())
			}
			return release, err
		case <-time.After(pause):
			start := time.Now()
			if _, _, err := d.tables.Copy(false); err != nil {
				stop()
				<-loaded
				return release, errors.Join(err, d.restore())
			}
			pause = copyShare * max(time.Since(start), pollEvery)
		}
	}
}

// awaitPrograms returns when programs of another build are pinned.
func (d *downgrade) awaitPrograms(ctx context.Context) error {
	for {
		programs, err := d.programs()
		if err != nil || slices.ContainsFunc(programs, func(name string) bool { return !slices.Contains(d.before, name) }) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

// handOver copies until the other build has replaced all programs, which takes it moments. It
// returns how many entries did not fit.
func (d *downgrade) handOver(ctx context.Context) (lost int, err error) {
	if _, _, err := d.tables.Copy(false); err != nil {
		return 0, err
	}
	for {
		programs, err := d.programs()
		if err != nil {
			return 0, err
		}
		if _, lost, err = d.tables.Copy(true); err != nil { // also after the last program was replaced
			return lost, err
		}
		if !slices.ContainsFunc(programs, func(name string) bool { return slices.Contains(d.before, name) }) {
			return lost, nil
		}
		select {
		case <-ctx.Done():
			return lost, fmt.Errorf("%q has not replaced all programs (its log says why): %w", d.cfg.To, context.Cause(ctx))
		case <-time.After(pollEvery):
		}
	}
}

// hold has this build's programs refuse new TCP connections until release.
func (d *downgrade) hold() (release func() error, err error) {
	used, err := ebpf.LoadPinnedMap(filepath.Join(d.dir, bpf.TCMapFlCtUsed), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned map %s: %w", bpf.TCMapFlCtUsed, err)
	}
	flows := d.tables.Replaced()[bpf.TCMapFlCt]
	if flows == nil {
		return used.Close, nil
	}
	count := maps.FlowCount{Flows: flows, Used: used}
	if err := count.Hold(); err != nil {
		return nil, errors.Join(err, used.Close())
	}
	return func() error { return errors.Join(count.Recount(), used.Close()) }, nil
}

// restore pins the previous tables again.
func (d *downgrade) restore() error {
	var errs []error
	for name, m := range d.tables.Replaced() {
		c, err := m.Clone() // m itself counts as pinned at this path
		if err == nil {
			err = errors.Join(bpffs.Replace(c, filepath.Join(d.dir, name)), c.Close())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// removeUnknown removes the tables that the other build does not know and would leave behind.
// It returns an error if a different build took over.
func (d *downgrade) removeUnknown(ctx context.Context, specs map[string]*ebpf.MapSpec) error {
	for name := range d.tables.Replaced() {
		now, err := ebpf.LoadPinnedMap(filepath.Join(d.dir, name), nil)
		if err != nil {
			return fmt.Errorf("open pinned map %s: %w", name, err)
		}
		fits := specs[name].Copy()
		fits.MaxEntries = now.MaxEntries()
		if err := errors.Join(fits.Compatible(now), now.Close()); err != nil {
			return fmt.Errorf("a build other than %q took over (start that one after: fairlead downgrade): %w", d.cfg.To, err)
		}
	}
	if d.cfg.Wait != nil {
		if err := d.cfg.Wait(ctx); err != nil {
			return err
		}
	}
	var errs []error
	for _, name := range maps.Names() {
		if specs[name] == nil {
			errs = append(errs, bpffs.Remove(filepath.Join(d.dir, name)))
		}
	}
	return errors.Join(errs...)
}
