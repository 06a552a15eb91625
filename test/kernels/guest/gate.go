// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/loader/probe"
)

// budget is how many instructions the verifier may process in one program: half of its limit,
// so that growth is noticed before a kernel refuses a program.
const budget = 500_000

// settingsSection holds the settings, which are constants for the verifier.
const settingsSection = ".rodata"

// setting is a value of one of the programs' settings.
type setting struct {
	name  string
	value any
}

func (s setting) String() string { return fmt.Sprintf("%s=%d", s.name, s.value) }

func toggle(name string, on bool) setting {
	if on {
		return setting{name, uint8(1)}
	}
	return setting{name, uint8(0)}
}

// verifyAll loads every program with every combination of settings that a daemon chooses on this kernel, with maps of the
// shipped size, and reports how many instructions the verifier processed. conntrack says whether nf_conntrack is loaded.
// test/datapath verifies all combinations, whichever kernel has them, on the machine's own.
func verifyAll(r *report, conntrack bool) error {
	tc, err := bpf.LoadTC()
	if err != nil {
		return fmt.Errorf("read object tc: %w", err)
	}
	settings := combinations(probe.TryFlags(tc), conntrack)
	verified := make(map[string]bool)
	for _, object := range []struct {
		name string
		load func() (*ebpf.CollectionSpec, error)
	}{{"tc", bpf.LoadTC}, {"sock", bpf.LoadSock}, {"gc", bpf.LoadGC}} {
		spec, err := object.load()
		if err != nil {
			return fmt.Errorf("read object %s: %w", object.name, err)
		}
		if conntrack && spec.Variables[bpf.TCVarCfgConntrack] == nil {
			continue // verified before
		}
		for _, list := range settings {
			if err := verify(r, verified, object.name, spec.Copy(), list); err != nil {
				return err
			}
		}
	}
	return nil
}

// combinations lists the settings that a daemon chooses by the kernel's features, and those for when the JIT or the cache of decisions is off,
// each with an overlay and without. Where the kernel is newer than 6.6, those of 6.3 to 6.6 are among them, of which the matrix
// has none.
func combinations(have probe.Flags, conntrack bool) (all [][]setting) {
	for _, port := range []uint16{0, 4789} {
		own := []setting{
			{bpf.TCVarCfgVxlanPort, port}, toggle(bpf.TCVarCfgConntrack, conntrack), toggle(bpf.TCVarCfgFibSrc, have.FIBSrc),
			toggle(bpf.TCVarCfgDecapL3, have.DecapL3), toggle(bpf.TCVarCfgKernCtx, have.KernCtx),
		}
		all = append(all, own, with(own, toggle(bpf.TCVarCfgCache, false)))
		if have.KernCtx && !conntrack { // without the JIT there is neither
			all = append(all, with(own, toggle(bpf.TCVarCfgKernCtx, false)))
		}
		if have.FIBSrc {
			all = append(all, with(own, toggle(bpf.TCVarCfgFibSrc, false)))
		}
	}
	return all
}

// with returns settings of which one has another value, or is added.
func with(settings []setting, s setting) []setting {
	rest := slices.DeleteFunc(slices.Clone(settings), func(o setting) bool { return o.name == s.name })
	return append(rest, s)
}

// verify loads one object with settings. It omits the programs that were verified
// with the same values of all settings that they read.
func verify(r *report, verified map[string]bool, title string, spec *ebpf.CollectionSpec, settings []setting) error {
	for _, s := range settings {
		v := spec.Variables[s.name]
		if v == nil {
			continue
		}
		if err := v.Set(s.value); err != nil {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
		title += " " + s.String()
	}
	for name, p := range spec.Programs {
		key, err := whatIsVerified(spec, p)
		if err != nil {
			return err
		}
		if verified[key] {
			delete(spec.Programs, name)
		}
		verified[key] = true
	}
	if len(spec.Programs) == 0 {
		return nil
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return fmt.Errorf("load %s: %w", title, whole(err))
	}
	defer coll.Close()
	var counts []string
	for _, name := range slices.Sorted(maps.Keys(coll.Programs)) {
		info, err := coll.Programs[name].Info()
		if err != nil {
			return fmt.Errorf("ask about program %s: %w", name, err)
		}
		n, ok := info.VerifiedInstructions()
		if !ok || n > budget {
			return fmt.Errorf("load %s: program %s took %d instructions to verify, want at most %d", title, name, n, budget)
		}
		counts = append(counts, fmt.Sprintf("%s %d", name, n))
	}
	r.note("%s: %s", title, strings.Join(counts, ", "))
	return nil
}

// whatIsVerified identifies a program with the settings that it and its functions read: all else of an object is the
// same in every combination.
func whatIsVerified(spec *ebpf.CollectionSpec, p *ebpf.ProgramSpec) (string, error) {
	read := map[string]string{}
	for _, ins := range p.Instructions {
		if !ins.IsLoadFromMap() || ins.Reference() != settingsSection {
			continue
		}
		at, name := uint32(uint64(ins.Constant)>>32), ""
		for candidate, v := range spec.Variables {
			if v.SectionName == settingsSection && v.Offset <= at && at < v.Offset+v.Size() {
				name = candidate
			}
		}
		if name == "" {
			return "", fmt.Errorf("program %s reads %s at %d, where no setting is", p.Name, settingsSection, at)
		}
		read[name] = fmt.Sprintf("%x", spec.Variables[name].Value)
	}
	return fmt.Sprint(p.Name, read), nil // fmt sorts the names
}

// whole returns an error with the end of the verifier's log.
func whole(err error) error {
	var refused *ebpf.VerifierError
	if !errors.As(err, &refused) {
		return err
	}
	const lines = 40
	log := refused.Log[max(0, len(refused.Log)-lines):]
	return fmt.Errorf("%w\n%s", err, strings.Join(log, "\n"))
}
