// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// What a runtime hears before the plugin asks a daemon.
func TestProtocol(t *testing.T) {
	t.Parallel()
	dir, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	call := func(stdin string, env ...string) (stdout, stderr string) {
		cmd := exec.Command(filepath.Join(dir, "fairlead-cni"))
		var out, errs strings.Builder
		cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = strings.NewReader(stdin), &out, &errs, env
		_ = cmd.Run() // the output tells
		return out.String(), errs.String()
	}
	if out, _ := call("", "CNI_COMMAND=VERSION"); !strings.Contains(out, `"cniVersion":"1.1.0"`) || !strings.Contains(out, `"0.3.1"`) {
		t.Errorf("VERSION: %s", out)
	}
	if _, about := call(""); !strings.HasPrefix(about, "CNI fairlead-cni plugin ") {
		t.Errorf("without a command: %q", about)
	}
	add := []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_NETNS=/proc/self/ns/net", "CNI_IFNAME=eth0", "CNI_PATH=/"}
	for _, tt := range []struct {
		name, stdin string
		env         []string
		code        uint
	}{
		{"version", `{"cniVersion":"9.0.0","name":"pods"}`, add, types.ErrIncompatibleCNIVersion},
		{"no-gc-before-1.1", `{"cniVersion":"1.0.0","name":"pods"}`, []string{"CNI_COMMAND=GC", "CNI_PATH=/"}, types.ErrIncompatibleCNIVersion},
		{"no-environment", `{"cniVersion":"1.0.0","name":"pods"}`, []string{"CNI_COMMAND=ADD"}, types.ErrInvalidEnvironmentVariables},
		{"no-json", `{`, add, types.ErrDecodingFailure},
		{"no-name", `{"cniVersion":"1.0.0"}`, add, types.ErrInvalidNetworkConfig},
		{"host's-namespace", `{"cniVersion":"1.0.0","name":"pods"}`, add, types.ErrInvalidNetNS},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, _ := call(tt.stdin, tt.env...)
			var e types.Error
			if err := json.Unmarshal([]byte(out), &e); err != nil || e.Code != tt.code {
				t.Errorf("%s, want code %d", out, tt.code)
			}
		})
	}
}
