// SPDX-License-Identifier: Apache-2.0

package hostports

import (
	"net/netip"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
)

func TestConflict(t *testing.T) {
	bind := func(ip string, port, count uint16, proto model.Proto) model.PortBinding {
		b := model.PortBinding{HostPort: port, Count: count, Proto: proto}
		if ip != "" {
			b.HostIP = netip.MustParseAddr(ip)
		}
		return b
	}
	x := Index{}
	claims := map[uint32]model.PortBinding{
		1: bind("", 80, 1, model.TCP),
		2: bind("192.0.2.1", 90, 3, model.TCP),
		3: bind("0.0.0.0", 100, 1, model.TCP),
		4: bind("::", 100, 1, model.TCP),
	}
	for id, b := range claims {
		x.Claim(id, b)
	}
	for _, tc := range []struct {
		b    model.PortBinding
		port uint16
		id   uint32
	}{
		{bind("", 80, 1, model.TCP), 80, 1},
		{bind("::1", 79, 2, model.TCP), 80, 1},
		{bind("", 80, 1, model.UDP), 0, 0},
		{bind("", 85, 7, model.TCP), 90, 2},
		{bind("192.0.2.2", 90, 3, model.TCP), 0, 0},
		{bind("2001:db8::1", 90, 3, model.TCP), 0, 0},
		{bind("0.0.0.0", 92, 1, model.TCP), 92, 2},
		{bind("192.0.2.1", 93, 1, model.TCP), 0, 0},
		{bind("192.0.2.9", 100, 1, model.TCP), 100, 3},
		{bind("2001:db8::1", 100, 1, model.TCP), 100, 4},
	} {
		port, id, found := x.Conflict(tc.b)
		if port != tc.port || id != tc.id || found != (tc.id != 0) {
			t.Errorf("%+v conflicts at port %d with %d (%v), want port %d, %d", tc.b, port, id, found, tc.port, tc.id)
		}
	}
	for id, b := range claims {
		if at, ok := x.Release(id, b); !ok || at != b.HostIP {
			t.Errorf("release %d: claimed at %v, %v", id, at, ok)
		}
		if _, ok := x.Claimed(id, b); ok {
			t.Errorf("%d is still claimed", id)
		}
	}
	if len(x) != 0 {
		t.Errorf("left: %v", x)
	}
}
