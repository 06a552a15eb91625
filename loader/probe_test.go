// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

func TestParseVersion(t *testing.T) {
	for release, want := range map[string]version{
		"6.1.0-18-cloud-amd64": {6, 1},
		"6.18.44":              {6, 18},
		"6.6-rc3":              {6, 6},
		"7.0":                  {7, 0},
		"unknown":              {},
		"":                     {},
	} {
		if got := parseVersion(release); got != want {
			t.Errorf("%q is %s, want %s", release, got, want)
		}
	}
}

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		have version
		want bool
		why  string
	}{
		{"tried-yes", nil, version{6, 1}, true, "it works"}, // backported
		{"tried-no", fmt.Errorf("x: %w", ebpf.ErrNotSupported), version{6, 1}, false, "does not have it (new in Linux 6.6)"},
		{"tried-off", fmt.Errorf("x: %w", ebpf.ErrNotSupported), version{6, 18}, false, "was built without it"},
		{"untried-new", errors.New("not permitted"), version{6, 6}, true, "could not be tried (not permitted), but Linux 6.6"},
		{"untried-old", errors.New("not permitted"), version{6, 1}, false, "Linux 6.1 is older than 6.6"},
		{"untried-next-major", errors.New("not permitted"), version{7, 0}, true, ""},
	} {
		got, why := judge(tt.err, tt.have, version{6, 6})
		if got != tt.want || !strings.Contains(why, tt.why) {
			t.Errorf("%s: %v because %q, want %v because %q", tt.name, got, why, tt.want, tt.why)
		}
	}
}

// On a kernel that is new enough a probe must succeed. On an older one it may succeed, too,
// because of a backport.
func TestProbe(t *testing.T) {
	newWorld(t)
	f := Probe(t.Context())
	got := make(map[string]Feature)
	for _, x := range f.List {
		got[x.Name] = x
		t.Logf("%s: %v, %s. %s", x.Name, x.OK, x.Why, x.Consequence)
		if x.OK == (x.Consequence != "") || x.Why == "" {
			t.Errorf("%s: %+v", x.Name, x)
		}
		if strings.Contains(x.Why, "could not be tried") {
			t.Errorf("%s was not tried: %s", x.Name, x.Why)
		}
	}
	v := parseVersion(f.Release)
	for name, since := range map[string]version{
		"tcx": {6, 6}, "fib_src": {6, 7}, "redirect_peer": {5, 10},
		"socket programs": {5, 7}, "syscall programs": {5, 14}, "batch operations": {5, 6}, "kernel": {6, 1},
	} {
		if !got[name].OK && v.atLeast(since) {
			t.Errorf("Linux %s has %s, and the probe says: %s", v, name, got[name].Why)
		}
	}
	if !f.OK() {
		t.Errorf("something required is missing: %+v", f.List)
	}
}

func TestMounts(t *testing.T) {
	const text = `25 30 0:23 / /sys rw,nosuid shared:7 - sysfs sysfs rw
37 25 0:32 / /sys/fs/cgroup/with\040space rw shared:9 - cgroup2 cgroup2 rw,nsdelegate
nonsense
`
	want := []mount{{"/", "/sys", "sysfs", "sysfs"}, {"/", "/sys/fs/cgroup/with space", "cgroup2", "cgroup2"}}
	if got := parseMounts(text); !slices.Equal(got, want) {
		t.Errorf("mounts %+v, want %+v", got, want)
	}
}

// The root cgroup is found: not at a mount that another mount hides, in preference to a partial
// mount, and by file handle from a cgroup namespace that sees only a part.
func TestPickCgroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a cgroup")
	}
	root, err := findCgroup()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	part, err := os.MkdirTemp(root.Name(), "fl-loader-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(part)
	at := func(points ...string) (mounts []mount) {
		for _, p := range points {
			mounts = append(mounts, mount{"/", p, "cgroup2", "cgroup2"})
		}
		return mounts
	}
	hidden := t.TempDir() // not a cgroup2
	for name, mounts := range map[string][]mount{
		"root": at(root.Name()), "hidden": at("/no/such", hidden, root.Name()), "part first": at(part, root.Name()),
		"root first": at(root.Name(), part), "part alone": at(hidden, part),
	} {
		f, err := pickCgroup(mounts)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if info, err := f.Stat(); err != nil || info.Sys().(*syscall.Stat_t).Ino != rootCgroup {
			t.Errorf("%s: %s is not the root, or %v", name, f.Name(), err)
		}
		f.Close()
	}
	// Without the capability to open handles only the part is found, and recognised as such.
	without := make(chan string)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		without <- pickWithout(at(part))
	}()
	if got := <-without; got != part {
		t.Errorf("without CAP_DAC_READ_SEARCH: %s, want %s", got, part)
	}
	for name, mounts := range map[string][]mount{"none": nil, "hidden": at(hidden), "other": {{"/", root.Name(), "cgroup", "cgroup"}}} {
		if f, err := pickCgroup(mounts); !errors.Is(err, ErrNoCgroup) {
			t.Errorf("%s: %v, %v, want no cgroup", name, f, err)
		}
	}
}

// pickWithout calls pickCgroup on a thread that drops a capability. It returns the path of the
// cgroup, which is not the root, or a description of the error.
func pickWithout(mounts []mount) string {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err.Error()
	}
	data[0].Effective &^= 1 << unix.CAP_DAC_READ_SEARCH
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return err.Error()
	}
	f, err := pickCgroup(mounts)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Sys().(*syscall.Stat_t).Ino == rootCgroup {
		return fmt.Sprint("the root, or ", err)
	}
	return f.Name()
}
