// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	socket := filepath.Join(t.TempDir(), "silent")
	silent, err := net.Listen("unix", socket) // for the kernel accepts what nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	start := time.Now()
	status, _ := call(`{"cniVersion":"1.1.0","name":"pods","host":"unix://`+socket+`"}`, "CNI_COMMAND=STATUS", "CNI_PATH=/")
	if took := time.Since(start); took > 20*time.Second || !strings.Contains(status, `"code": 50`) || !strings.Contains(status, socket+" does not answer within 3s") {
		t.Errorf("STATUS of a daemon that says nothing, after %v: %s", took, status)
	}
	add := []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_NETNS=/proc/self/ns/net", "CNI_IFNAME=eth0", "CNI_PATH=/"}
	for _, tt := range []struct {
		name, stdin string
		env         []string
		code        uint
		version     string // of the answer
	}{
		{"version", `{"cniVersion":"9.0.0","name":"pods"}`, add, types.ErrIncompatibleCNIVersion, "1.1.0"},
		{"no-gc-before-1.1", `{"cniVersion":"1.0.0","name":"pods"}`, []string{"CNI_COMMAND=GC", "CNI_PATH=/"}, types.ErrIncompatibleCNIVersion, "1.0.0"},
		{"no-environment", `{"cniVersion":"1.0.0","name":"pods"}`, []string{"CNI_COMMAND=ADD"}, types.ErrInvalidEnvironmentVariables, "1.0.0"},
		{"no-json", `{`, add, types.ErrDecodingFailure, "1.1.0"},
		{"no-name", `{"cniVersion":"1.0.0"}`, add, types.ErrInvalidNetworkConfig, "1.0.0"},
		{"host's-namespace", `{"cniVersion":"1.0.0","name":"pods"}`, add, types.ErrInvalidNetNS, "1.0.0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, _ := call(tt.stdin, tt.env...)
			var e struct {
				types.Error
				Version string `json:"cniVersion"`
			}
			if err := json.Unmarshal([]byte(out), &e); err != nil || e.Code != tt.code || e.Version != tt.version {
				t.Errorf("%s, want code %d and version %s", out, tt.code, tt.version)
			}
		})
	}
}
