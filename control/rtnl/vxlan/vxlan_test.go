// SPDX-License-Identifier: Apache-2.0

package vxlan

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

// TestDevices makes and removes devices, repeats both, keeps what it made, and does not touch what others made.
func TestDevices(t *testing.T) {
	h := rtnltest.New(t)
	d := New(h, 4789)
	ensure := func(families ...model.Family) map[string]rtnl.Link {
		t.Helper()
		if err := d.Ensure(families); err != nil {
			t.Fatal(err)
		}
		links, err := h.Links()
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]rtnl.Link{}
		for _, l := range links {
			if l.Kind == kind {
				found[l.Name] = l
			}
		}
		if len(found) != len(families) {
			t.Errorf("for %v there are %v", families, found)
		}
		return found
	}
	four := ensure(model.V4)["flvx4"]
	if !four.Up || !four.Ours() || four.Alias != alias(model.V4) {
		t.Errorf("the device is %+v", four)
	}
	both := ensure(model.V4, model.V6)
	if both["flvx4"].Index != four.Index || !both["flvx6"].Up {
		t.Errorf("with both families: %+v", both)
	}
	out, err := exec.Command("ip", "-o", "addr", "show", "dev", "flvx6").CombinedOutput()
	if err != nil || strings.Contains(string(out), "inet") {
		t.Errorf("the device has addresses: %v %s", err, out)
	}
	// A plain device on the same port, such as an engine's, works beside it.
	if err := rtnltest.IP("link add other type vxlan id 7 dstport 4789", "link set other up", "link del other"); err != nil {
		t.Errorf("another VXLAN device: %v", err)
	}
	if err := rtnltest.IP("link set flvx4 down"); err != nil {
		t.Fatal(err)
	}
	if again := ensure(model.V4)["flvx4"]; !again.Up || again.Index != four.Index {
		t.Errorf("a device that was down: %+v", again)
	}
	ensure()
	ensure()
}

// TestTaken refuses where the name or the port is another's, and leaves nothing.
func TestTaken(t *testing.T) {
	for _, c := range []struct{ others, want string }{
		{"link add flvx4 type bridge", "remove or rename it"},
		{"link add flvx4 type vxlan id 7 dstport 4790", "remove or rename it"},
		{"link add other type vxlan external dstport 4789", "UDP port 4789 is in use"},
	} {
		t.Run(c.others, func(t *testing.T) {
			h := rtnltest.New(t)
			name := strings.Fields(c.others)[2]
			if err := rtnltest.IP(c.others, "link set "+name+" up"); err != nil {
				t.Fatal(err)
			}
			d := New(h, 4789)
			if err := d.Ensure([]model.Family{model.V4}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want %q", err, c.want)
			}
			if err := d.Ensure(nil); err != nil {
				t.Error(err)
			}
			if _, err := h.LinkByName(name); err != nil {
				t.Errorf("the other's device: %v", err)
			}
			if _, err := h.LinkByName("flvx4"); name != "flvx4" && !errors.Is(err, rtnl.ErrNoDevice) {
				t.Errorf("a device is left: %v", err)
			}
		})
	}
}
