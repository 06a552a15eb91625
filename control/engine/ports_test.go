// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/test/verbtest"

	"github.com/fairlead-net/fairlead/control/model"
)

// An engine may use one endpoint for the IPv4 default route and another for IPv6. Each
// serves the ports at the host's addresses of its family.
func TestEnginePortsParted(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	dual := verbtest.EngineNetwork("dual", "10.9.0.0/24")
	dual.Subnets = append(dual.Subnets, model.SubnetSpec{Prefix: verbtest.Prefix("fd00:9::/64"), Gateway: verbtest.Addr("fd00:9::1")})
	w.MakeNetwork(verbtest.EngineNetwork("four", "10.8.0.0/24"))
	w.MakeNetwork(dual)
	for _, name := range []string{"four", "dual"} {
		spec := model.EndpointSpec{EngineID: verbtest.EngineID("in " + name)}
		if _, err := w.ReserveEndpoint(ctx, verbtest.EngineID(name), spec); err != nil {
			t.Fatal(err)
		}
		if _, err := w.JoinEndpoint(ctx, spec.EngineID, "docker-1", "/run/x/1"); err != nil {
			t.Fatal(err)
		}
	}
	four, dual6 := verbtest.EngineID("in four"), verbtest.EngineID("in dual")
	ports := []model.PortSpec{verbtest.TCP("", 80, 1, 8080, 1), verbtest.TCP("", 0, 0, 81, 1), verbtest.TCP("127.0.0.1", 82, 1, 82, 1), verbtest.TCP("::1", 83, 1, 83, 1)}
	serves := func(want string) {
		t.Helper()
		w.Check()
		var got []string
		for p := range w.Snapshot().Publishes() {
			network := "dual"
			if p.EndpointID == four {
				network = "four"
			}
			got = append(got, fmt.Sprintf("%s:%d@%s", hostText(p), p.Port, network))
		}
		slices.Sort(got)
		if text := strings.Join(got, " "); text != want {
			t.Errorf("served:\n%s, want\n%s", text, want)
		}
		if sb, _ := w.Sandbox("docker-1"); len(sb.Ports) != len(got) {
			t.Errorf("ports shown: %v", sb.Ports)
		}
	}
	publish := func(id string, ipv4Only bool) {
		t.Helper()
		if err := w.PublishEndpoint(ctx, id, ports, ipv4Only); err != nil {
			t.Fatal(err)
		}
		rev := w.Snapshot().Rev
		if err := w.PublishEndpoint(ctx, id, ports, ipv4Only); err != nil || w.Snapshot().Rev != rev {
			t.Errorf("a repeated request changes something: %v", err)
		}
	}
	unpublish := func(id string) {
		t.Helper()
		for range 2 {
			if err := w.UnpublishEndpoint(ctx, id); err != nil {
				t.Fatal(err)
			}
		}
	}
	const (
		whole  = "*:80:8080@dual *:auto:81@dual 127.0.0.1:82:82@dual ::1:83:83@dual"
		half4  = "0.0.0.0:80:8080@four 0.0.0.0:auto:81@four 127.0.0.1:82:82@four"
		half6  = "::1:83:83@dual :::80:8080@dual :::auto:81@dual"
		parted = half4 + " " + half6
	)
	publish(dual6, false)
	serves(whole)
	publish(four, true) // it becomes the gateway for IPv4
	serves(parted)
	byPort := map[uint16]uint16{}
	for p := range w.Snapshot().Publishes() {
		if p.Port == 81 && byPort[p.Port] != 0 && byPort[p.Port] != p.HostPort {
			t.Errorf("host ports %d and %d were chosen for one port", p.HostPort, byPort[p.Port])
		}
		byPort[p.Port] = p.HostPort
	}
	w.Restart()
	serves(parted)
	publish(dual6, false) // unchanged, for IPv6
	serves(parted)
	unpublish(four)
	serves(half6)
	publish(dual6, false)
	serves(whole)
	unpublish(dual6)
	serves("")
	publish(four, true) // another driver serves IPv6
	serves(half4)
	unpublish(four)

	publish(four, false)
	serves(strings.ReplaceAll(whole, "dual", "four")) // IPv6 clients too
	publish(dual6, false)                             // and the first is not revoked
	serves(parted)
	unpublish(dual6)
	serves(half4)
	publish(dual6, false)
	if err := w.ReleaseEndpoint(ctx, dual6); err != nil {
		t.Fatal(err)
	}
	serves(half4)
}

// hostText returns the host address and port of a publish as text.
func hostText(p *model.Publish) string {
	host, port := "*", "auto"
	if p.HostIP.IsValid() {
		host = p.HostIP.String()
	}
	if p.HostPort < 32768 {
		port = fmt.Sprint(p.HostPort)
	}
	return host + ":" + port
}
