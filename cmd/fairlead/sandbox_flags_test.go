// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Former names of flags, which Docker has too, add to what the others say, and are not in the help.
func TestFormerNames(t *testing.T) {
	var o sandboxFlags
	cmd := &cobra.Command{Use: "create"}
	o.register(cmd)
	args := "--net a --network b --net-alias c --network-alias d --dns-opt ndots:2 --dns-option rotate --sysctl net.ipv4.ip_forward=1 --sysctl net.ipv4.ping_group_range=0=1"
	if err := cmd.ParseFlags(strings.Fields(args)); err != nil {
		t.Fatal(err)
	}
	spec, joins, err := o.spec(cmd)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(spec.NetworkMode, joins[0].network, spec.Endpoint.Aliases, spec.Lookup.Options, spec.Sysctls)
	if want := "ab[c d] [ndots:2 rotate] map[net.ipv4.ip_forward:1 net.ipv4.ping_group_range:0=1]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if help := cmd.UsageString(); strings.Contains(help, "--net ") || strings.Contains(help, "--net-alias") || strings.Contains(help, "--dns-opt ") || !strings.Contains(help, "--sysctl ") {
		t.Errorf("the help is\n%s", help)
	}
}
