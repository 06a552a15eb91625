// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os/exec"
	"strings"
)

// checkDoctor checks that doctor's verdict fits this kernel: Fairlead can work, and tcx is
// listed as available, or as missing with the consequence. The qdisc tbf is still missing.
func checkDoctor(r *report, tcx bool) error {
	out, err := exec.Command("fairlead", "doctor").CombinedOutput()
	text := string(out)
	r.note("%s", text)
	if err != nil {
		return fmt.Errorf("fairlead doctor: %w", err)
	}
	if !strings.HasPrefix(text, "Fairlead can work here") {
		return fmt.Errorf("fairlead doctor begins with %q", firstLine(text))
	}
	if line, _ := entry(text, "Optional, missing", "shaping"); !strings.Contains(line, "sch_tbf") {
		return fmt.Errorf("fairlead doctor does not say that tbf is missing")
	}
	if line, _ := entry(text, "Optional, missing", "wireguard"); !strings.Contains(line, "CONFIG_WIREGUARD") {
		return fmt.Errorf("fairlead doctor does not say that WireGuard is missing")
	}
	if tcx {
		if line, _ := entry(text, "Available", "tcx"); line == "" {
			return fmt.Errorf("fairlead doctor does not list tcx as available")
		}
		return nil
	}
	line, consequence := entry(text, "Optional, missing", "tcx")
	if !strings.Contains(line, "6.6") || !strings.Contains(consequence, "clsact") {
		return fmt.Errorf("fairlead doctor does not say that tcx is missing (new in 6.6) and clsact used instead: %q, %q", line, consequence)
	}
	return nil
}

// checkConntrack checks that doctor lists the kernel's connection tracking in a section.
func checkConntrack(section string) error {
	out, err := exec.Command("fairlead", "doctor").CombinedOutput()
	if err != nil {
		return fmt.Errorf("fairlead doctor: %w", err)
	}
	if line, _ := entry(string(out), section, "conntrack"); line == "" {
		return fmt.Errorf("fairlead doctor does not list conntrack under %q:\n%s", section, out)
	}
	return nil
}

// entry finds an item in a section of doctor's report: its line, and the line below it.
// Sections are separated by empty lines and begin with their title.
func entry(text, section, thing string) (line, below string) {
	for part := range strings.SplitSeq(text, "\n\n") {
		lines := strings.Split(part, "\n")
		if lines[0] != section {
			continue
		}
		for i, l := range lines {
			if strings.HasPrefix(l, "  "+thing+":") {
				return l, strings.Join(lines[i+1:min(i+2, len(lines))], "")
			}
		}
	}
	return "", ""
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
