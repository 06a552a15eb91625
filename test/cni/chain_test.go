// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// A plugin that comes later may add to the interface. What it changes is changed back,
// and CHECK says so.
func TestChainedAfter(t *testing.T) {
	t.Parallel()
	r := newRuntime(t, lab.Config{})
	for _, tt := range []struct {
		plugin config
		check  string // its error; "": none
	}{
		{config{"type": "tuning", "promisc": true}, ""},
		{config{"type": "tuning", "mac": "02:00:00:00:00:09"}, "not 02:00:00:00:00:09 (later plugins must not change it"},
		{config{"type": "tuning", "mtu": 1400}, "MTU of eth0 is 1400, current value is 1500"},
	} {
		pods := r.list("1.0.0", "pods", nil, tt.plugin)
		c := r.container("anna", nil)
		c.add(pods)
		err := c.check(pods)
		if ok := err == nil; ok != (tt.check == "") || !ok && !strings.Contains(err.Error(), tt.check) {
			t.Errorf("CHECK with %v: %v, want %q", tt.plugin, err, tt.check)
		}
		r.Eventually(5*time.Second, func() error { // CHECK may refuse before the repair
			if ping := r.Run(c.Host, "ping", "-c", "1", "-W", "1", lab.Internet4); ping.Code != 0 {
				return errors.New(ping.Output())
			}
			return nil
		})
		c.del(pods)
		c.end()
		r.wantSandboxes("", 0)
	}
}
