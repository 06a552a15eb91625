// SPDX-License-Identifier: Apache-2.0

package offload_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/offload"
)

// Features are off that ethtool shows as on before, and no others.
func TestOff(t *testing.T) {
	err := rtnl.InNewNetNS(func() error {
		run := func(name string, args ...string) string {
			out, err := exec.Command(name, args...).CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v: %s", name, err, out)
			}
			return string(out)
		}
		run("ip", "link", "add", "one", "type", "veth", "peer", "two")
		before := run("ethtool", "-k", "one")
		if err := offload.Off("one", append(offload.Tunnels(), "unknown")...); err != nil {
			t.Error(err)
		}
		for _, f := range offload.Tunnels() {
			if !strings.Contains(before, f+": on") {
				t.Errorf("%s was not on", f)
			}
			before = strings.Replace(before, f+": on", f+": off", 1)
		}
		if after := run("ethtool", "-k", "one"); after != before {
			t.Errorf("features are\n%s\nwant\n%s", after, before)
		}
		if err := offload.Off("none", "tx-gre-segmentation"); err == nil || !strings.Contains(err.Error(), `"none"`) {
			t.Errorf("a device that does not exist: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
