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

const conntrackSwitch = "cfg_conntrack"

// Settings that are not combined with all others: the kernel must have what cfg_kern_ctx stands for,
// and cfg_cache is a number.
const (
	kernCtxSwitch = "cfg_kern_ctx"
	cacheSetting  = "cfg_cache"
)

// verifyAll loads every program with every combination of the switches that it reads, with maps of the
// shipped size, and reports how many instructions the verifier processed. The exceptions are
// cfg_conntrack, which needs the module and is set to whether that is loaded, cfg_kern_ctx and cfg_cache,
// which are set and then cleared in one combination.
func verifyAll(r *report, conntrack uint8) error {
	verified := make(map[string]bool)
	for _, object := range []struct {
		name string
		load func() (*ebpf.CollectionSpec, error)
	}{{"tc", bpf.LoadTC}, {"sock", bpf.LoadSock}, {"gc", bpf.LoadGC}} {
		spec, err := object.load()
		if err != nil {
			return fmt.Errorf("read object %s: %w", object.name, err)
		}
		if v := spec.Variables[conntrackSwitch]; v != nil {
			if err := v.Set(conntrack); err != nil {
				return fmt.Errorf("set %s: %w", conntrackSwitch, err)
			}
		} else if conntrack != 0 {
			continue // verified before
		}
		if v := spec.Variables[kernCtxSwitch]; v != nil && probe.TryFlags(spec).KernCtx {
			if err := v.Set(uint8(1)); err != nil {
				return fmt.Errorf("set %s: %w", kernCtxSwitch, err)
			}
		}
		names := switches(spec)
		for _, port := range overlayPorts(spec) {
			all := 1<<len(names) - 1
			for setting := range all + 1 {
				if err := verify(r, verified, object.name, spec.Copy(), port, names, setting); err != nil {
					return err
				}
			}
			for _, name := range exceptions(spec) {
				without := spec.Copy()
				if err := without.Variables[name].Set(uint8(0)); err != nil {
					return fmt.Errorf("clear %s: %w", name, err)
				}
				if err := verify(r, verified, object.name+" "+name+"=0", without, port, names, all); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

const overlayPort = "cfg_vxlan_port"

// overlayPorts returns the ports to verify an object with: without an overlay, and with one.
func overlayPorts(spec *ebpf.CollectionSpec) []uint16 {
	if spec.Variables[overlayPort] == nil {
		return []uint16{0}
	}
	return []uint16{0, 4789}
}

// switches returns the object's other one-byte settings: kernel features. They decide which
// code is reachable.
func switches(spec *ebpf.CollectionSpec) []string {
	var names []string
	for name, v := range spec.Variables {
		if strings.HasPrefix(name, "cfg_") && v.Size() == 1 && name != conntrackSwitch && name != kernCtxSwitch && name != cacheSetting {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// exceptions returns the settings that are not among the switches, if the object has them and they are set.
func exceptions(spec *ebpf.CollectionSpec) []string {
	return slices.DeleteFunc([]string{kernCtxSwitch, cacheSetting}, func(name string) bool {
		var set uint8
		v := spec.Variables[name]
		return v == nil || v.Get(&set) != nil || set == 0
	})
}

// verify loads one object with one combination: a bit for each switch. It omits the programs that were verified
// with the same values of all settings that they read.
func verify(r *report, verified map[string]bool, object string, spec *ebpf.CollectionSpec, port uint16, names []string, setting int) error {
	title := object
	if port != 0 {
		if err := spec.Variables[overlayPort].Set(port); err != nil {
			return fmt.Errorf("set %s: %w", overlayPort, err)
		}
		title += fmt.Sprintf(" %s=%d", overlayPort, port)
	}
	for i, name := range names {
		value := uint8(setting >> i & 1)
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
		title += fmt.Sprintf(" %s=%d", name, value)
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
