// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
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
	if os.Getuid() != 0 {
		t.Fatal("loading programs takes root")
	}
	f := All(t.Context())
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
		"tcx": {6, 6}, "fib_src": {6, 7}, "decap": {6, 3}, "redirect_peer": {5, 10},
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
