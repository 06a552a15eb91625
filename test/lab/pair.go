// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/fairlead-net/fairlead/bench/world"
)

// Addresses of the first hosts that [Route] connects.
const (
	RoutedA, RoutedB, RoutedC = "10.98.1.1", "10.98.2.1", "10.98.3.1"
	RoutedA6, RoutedB6        = "fd98:0:0:1::1", "fd98:0:0:2::1"
)

// Route connects the hosts of labs by one more device each, eth1, and a router between them.
//
//	a 10.98.1.1 fd98:0:0:1::1 ── router ── 10.98.2.1 fd98:0:0:2::1 b
func Route(labs ...*Lab) (router *world.Host) {
	a := labs[0]
	a.Helper()
	router = a.NewHost("router")
	for i, l := range labs {
		subnet4, subnet6 := fmt.Sprintf("10.98.%d.", i+1), fmt.Sprintf("fd98:0:0:%d::", i+1)
		a.must(world.Cable(
			world.End{Host: l.Host, Device: "eth1", Addresses: []string{subnet4 + "1/24", subnet6 + "1/64"}},
			world.End{Host: router, Device: fmt.Sprint("eth", i), Addresses: []string{subnet4 + "254/24", subnet6 + "fe/64"}},
		))
		l.IP(l.Host, "route add 10.98.0.0/16 via "+subnet4+"254", "route add fd98::/48 via "+subnet6+"fe")
	}
	a.Sysctl(router, "ipv4/ip_forward", "1")
	a.Sysctl(router, "ipv6/conf/all/forwarding", "1")
	return router
}

// EmbeddedStore builds the program of the embedded store, and puts it where daemons find it.
func EmbeddedStore(tb testing.TB) {
	tb.Helper()
	if err := embeddedStore(); err != nil {
		tb.Fatal(err)
	}
}

var embeddedStore = sync.OnceValue(func() error {
	program, err := Program("fairlead-store")
	if err != nil {
		return err
	}
	return os.Setenv("PATH", filepath.Dir(program)+":"+os.Getenv("PATH"))
})
