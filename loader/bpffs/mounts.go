// SPDX-License-Identifier: Apache-2.0

package bpffs

import (
	"fmt"
	"os"
	"strings"
)

// Mount is one line of /proc/self/mountinfo.
type Mount struct {
	Root, Point, Type, Source string
}

// Mounts reads the mounts of this mount namespace.
func Mounts() ([]Mount, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return parseMounts(string(b)), nil
}

// parseMounts parses the format of proc_pid_mountinfo(5).
func parseMounts(s string) []Mount {
	var all []Mount
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(s) {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 2 {
			continue
		}
		all = append(all, Mount{
			Root: unescape.Replace(l[3]), Point: unescape.Replace(l[4]),
			Type: r[0], Source: unescape.Replace(r[1]),
		})
	}
	return all
}
