// SPDX-License-Identifier: Apache-2.0

package events

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/model"
)

// What a snapshot changes are events, in an order in which each object exists; what was stored before is none.
func TestLog(t *testing.T) {
	l := New()
	p := desiredtest.New()
	p.Networks["n"] = &model.Network{ID: "n", Name: "web", Driver: model.DriverBridge}
	l.Update(p.Snapshot())
	first := l.After(t.Context(), "", 0)
	if len(first.Events) != 0 || first.Last != 0 || first.Run == "" {
		t.Fatalf("at the beginning: %+v", first)
	}
	p.Sandboxes["s"] = &model.Sandbox{ID: "s", Name: "anna"}
	p.Endpoints["e"] = &model.Endpoint{ID: "e", NetworkID: "n", SandboxID: "s"}
	p.Publishes[1] = &model.Publish{ID: 1, EndpointID: "e", PortBinding: model.PortBinding{HostIP: netip.MustParseAddr("192.0.2.1"), HostPort: 8080, Port: 80, Count: 1, Proto: model.TCP, From: "10.0.0.0/8"}}
	l.Update(p.Snapshot())
	l.Repaired("route", 2)
	p.Sandboxes["s"] = &model.Sandbox{ID: "s", Name: "berta"}
	l.Update(p.Snapshot())
	delete(p.Sandboxes, "s")
	delete(p.Endpoints, "e")
	delete(p.Publishes, 1)
	l.Update(p.Snapshot())
	var got []string
	for _, e := range l.After(t.Context(), first.Run, 0).Events {
		got = append(got, e.Type+" "+e.Action)
		if from := e.Actor.Attributes["from"]; (from == "10.0.0.0/8") != strings.HasSuffix(e.Action, "publish") {
			t.Errorf("%s is for clients from %q", e.Action, from)
		}
	}
	want := "sandbox create, network connect, sandbox publish, datapath repair, sandbox rename, network disconnect, sandbox unpublish, sandbox destroy"
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("events are %s, want %s", text, want)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if rest := l.After(ended, first.Run, 8); len(rest.Events) != 0 || rest.Last != 8 {
		t.Errorf("after the last: %+v", rest)
	}
}
