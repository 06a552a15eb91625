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

// Addresses of two hosts that [Route] connects.
const (
	RoutedA, RoutedB = "10.98.1.1", "10.98.2.1"
	routed           = "10.98.0.0/16"
)

// Route connects the hosts of two labs by one more device each, eth1, and a router between them.
//
//	a 10.98.1.1 ── router ── 10.98.2.1 b
func Route(a, b *Lab) (router *world.Host) {
	a.Helper()
	router = a.NewHost("router")
	for i, l := range []*Lab{a, b} {
		subnet := fmt.Sprintf("10.98.%d.", i+1)
		a.must(world.Cable(
			world.End{Host: l.Host, Device: "eth1", Addresses: []string{subnet + "1/24"}},
			world.End{Host: router, Device: fmt.Sprint("eth", i), Addresses: []string{subnet + "254/24"}},
		))
		l.IP(l.Host, "route add "+routed+" via "+subnet+"254")
	}
	a.Sysctl(router, "ipv4/ip_forward", "1")
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
