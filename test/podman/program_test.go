// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// The program says what it is, and refuses in the form that netavark reads.
func TestProgram(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args        []string
		stdin, want string
		code        int
	}{
		{[]string{"info"}, "", `"api_version":"1.0.0"`, 0},
		{nil, "", "want create, setup NETNS", 1},
		{[]string{"setup"}, "{}", "want create, setup NETNS", 1},
		{[]string{"create"}, "", "network configuration: ", 1},
		{[]string{"setup", "/nowhere"}, "[]", "request: ", 1},
		{[]string{"teardown", ""}, "{}", "without container_id", 1},
	} {
		cmd := exec.Command(plugin(t), tt.args...)
		cmd.Stdin = strings.NewReader(tt.stdin)
		out, _ := cmd.Output() // the status tells
		var answer map[string]string
		err := json.Unmarshal(out, &answer)
		if _, failed := answer["error"]; err != nil || cmd.ProcessState.ExitCode() != tt.code || failed != (tt.code != 0) || !strings.Contains(string(out), tt.want) {
			t.Errorf("%q: status %d, %q (%v), want %d and %q", tt.args, cmd.ProcessState.ExitCode(), out, err, tt.code, tt.want)
		}
	}
}
