// SPDX-License-Identifier: Apache-2.0

package stacked

import (
	"errors"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

// The kinds that a kernel has are found without creating a device.
func TestProbe(t *testing.T) {
	h := rtnltest.New(t)
	if err := Probe(h, model.DriverMacvlan); err != nil {
		t.Errorf("macvlan: %v", err)
	}
	for _, kind := range []string{model.DriverIPvlan, "vlan", "none such"} {
		lacks := rtnltest.IP("link add flprobe type "+kind) != nil && rtnltest.IP("link add flprobe link lo type "+kind+" id 7") != nil
		_ = rtnltest.IP("link del flprobe")
		if err := Probe(h, kind); kind == "none such" && !errors.Is(err, model.ErrNotSupported) || !lacks && err != nil {
			t.Errorf("%s: %v; this kernel lacks it: %t", kind, err, lacks)
		}
	}
	if _, err := h.LinkByName("flprobe"); !errors.Is(err, rtnl.ErrNoDevice) {
		t.Errorf("a device is left: %v", err)
	}
}
