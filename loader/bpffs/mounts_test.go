// SPDX-License-Identifier: Apache-2.0

package bpffs

import (
	"slices"
	"testing"
)

func TestMounts(t *testing.T) {
	const text = `25 30 0:23 / /sys rw,nosuid shared:7 - sysfs sysfs rw
37 25 0:32 / /sys/fs/cgroup/with\040space rw shared:9 - cgroup2 cgroup2 rw,nsdelegate
nonsense
`
	want := []Mount{{"/", "/sys", "sysfs", "sysfs"}, {"/", "/sys/fs/cgroup/with space", "cgroup2", "cgroup2"}}
	if got := parseMounts(text); !slices.Equal(got, want) {
		t.Errorf("mounts %+v, want %+v", got, want)
	}
}
