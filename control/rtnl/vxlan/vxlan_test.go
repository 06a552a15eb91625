// SPDX-License-Identifier: Apache-2.0

package vxlan

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

// newDevices returns the devices of a new host, whose devices are listed by the handle.
func newDevices(t *testing.T) (*Devices, *rtnl.Handle) {
	h := rtnltest.New(t)
	d := New(h, 4789, filepath.Join(t.TempDir(), "ns"))
	t.Cleanup(func() {
		if err := d.Ensure(nil); err != nil {
			t.Error(err)
		}
	})
	return d, h
}

// inside runs fn in the devices' namespace.
func (d *Devices) inside(t *testing.T, fn func(h *rtnl.Handle) error) {
	t.Helper()
	ns, err := rtnl.OpenNetNS(d.path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	err = ns.Do(func() error {
		h, err := rtnl.New()
		if err != nil {
			return err
		}
		defer h.Close()
		return fn(h)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDevices makes and removes devices, repeats both, and keeps what it made. The host has none of them.
func TestDevices(t *testing.T) {
	d, h := newDevices(t)
	ensure := func(families ...model.Family) map[string]rtnl.Link {
		t.Helper()
		if err := d.Ensure(families); err != nil {
			t.Fatal(err)
		}
		found := map[string]rtnl.Link{}
		if len(families) > 0 {
			d.inside(t, func(h *rtnl.Handle) error {
				links, err := h.Links()
				for _, l := range links {
					if l.Kind == kind {
						found[l.Name] = l
					}
				}
				addrs, addrsErr := h.Addrs()
				if len(addrs) > 0 {
					t.Errorf("there are addresses: %v", addrs)
				}
				return errors.Join(err, addrsErr)
			})
		}
		if len(found) != len(families) {
			t.Errorf("for %v there are %v", families, found)
		}
		links, err := h.Links()
		if err != nil || len(links) > 1 {
			t.Errorf("devices of the host: %v, %v", links, err)
		}
		return found
	}
	four := ensure(model.V4)["flvx4"]
	if !four.Up {
		t.Errorf("the device is %+v", four)
	}
	both := ensure(model.V4, model.V6)
	if both["flvx4"].Index != four.Index || !both["flvx6"].Up {
		t.Errorf("with both families: %+v", both)
	}
	// A plain device on the same port, such as an engine's, works beside it.
	if err := rtnltest.IP("link add other type vxlan id 7 dstport 4789", "link set other up", "link del other"); err != nil {
		t.Errorf("another VXLAN device: %v", err)
	}
	if again := ensure(model.V4)["flvx4"]; !again.Up || again.Index != four.Index {
		t.Errorf("the device that stays: %+v", again)
	}
	ensure()
	if _, err := os.Stat(d.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a device there is %s: %v", d.path, err)
	}
	ensure(model.V4) // at once: nothing of the device before is left
	ensure()
	ensure()
}

// TestTaken refuses where the port or the VNI is another's, leaves nothing, and works once they are free.
func TestTaken(t *testing.T) {
	for _, c := range []struct{ others, want string }{
		{"link add other type vxlan external dstport 4789", "UDP port 4789 is in use"},
		{"link add other type vxlan id 16777215 dstport 4789", "another VXLAN device has the VNI 16777215 at UDP port 4789"},
	} {
		t.Run(c.others, func(t *testing.T) {
			d, _ := newDevices(t)
			if err := rtnltest.IP(c.others, "link set other up"); err != nil {
				t.Fatal(err)
			}
			if err := d.Ensure([]model.Family{model.V4}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want %q", err, c.want)
			}
			d.inside(t, func(h *rtnl.Handle) error {
				if _, err := h.LinkByName("flvx4"); !errors.Is(err, rtnl.ErrNoDevice) {
					t.Errorf("a device is left: %v", err)
				}
				return nil
			})
			if err := rtnltest.IP("link del other"); err != nil {
				t.Fatal(err)
			}
			if err := d.Ensure([]model.Family{model.V4}); err != nil {
				t.Error(err)
			}
		})
	}
}
