// SPDX-License-Identifier: Apache-2.0

package model

import "testing"

// Drivers with endpoints have addresses for them, and predefined networks have no device.
func TestDrivers(t *testing.T) {
	for name, d := range drivers {
		if d.Endpoint != NoDevice && !d.Pools {
			t.Errorf("driver %s has endpoints without addresses", name)
		}
		if d.Predefined && d != (Driver{Predefined: true}) {
			t.Errorf("the network of driver %s exists on every host and has devices: %+v", name, d)
		}
		if n := (&Network{Driver: name}); n.Has() != d {
			t.Errorf("a network of driver %s has %+v", name, n.Has())
		}
	}
	if _, ok := DriverNamed("none"); ok || (&Network{Driver: "none"}).Has() != (Driver{}) {
		t.Error("an unknown driver has a row")
	}
}
