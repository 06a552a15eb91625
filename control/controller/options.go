// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-net/fairlead/control/model"
)

// Options of driver bridge.
const (
	optICC         = "com.docker.network.bridge.enable_icc"
	optMasquerade  = "com.docker.network.bridge.enable_ip_masquerade"
	optHostBinding = "com.docker.network.bridge.host_binding_ipv4"
	optMTU         = "com.docker.network.driver.mtu"
	optAntiSpoof   = "fairlead.antispoof"
	optDNS         = "fairlead.dns"
)

// Limits of the MTU: the least that IPv4 (RFC 791) and IPv6 (RFC 8200) demand,
// and the most that a packet's length field holds.
const (
	minMTU4 = 68
	minMTU6 = 1280
	maxMTU  = 65535
)

// laterOptions are those that Docker's bridge has and this one does not yet.
var laterOptions = []string{
	"com.docker.network.bridge.name",
	"com.docker.network.bridge.gateway_mode_ipv4",
	"com.docker.network.bridge.gateway_mode_ipv6",
	"com.docker.network.bridge.inhibit_ipv4",
	"com.docker.network.bridge.default_bridge",
	"com.docker.network.bridge.trusted_host_interfaces",
	"com.docker.network.container_iface_prefix",
	"com.docker.network.host_ipv4",
	"com.docker.network.host_ipv6",
	"com.docker.network.advertise_addr_nmsgs",
	"com.docker.network.advertise_addr_ms",
	"com.docker.network.enable_ipv4",
	"com.docker.network.enable_ipv6",
}

// applyOptions reads the user's options into the network.
func applyOptions(n *model.Network, options map[string]string) error {
	n.ICC, n.Masquerade, n.AntiSpoof, n.MTU = true, true, true, model.DefaultMTU
	for _, k := range slices.Sorted(maps.Keys(options)) {
		v := options[k]
		var err error
		switch k {
		case optICC:
			n.ICC, err = boolOption(k, v)
		case optMasquerade:
			n.Masquerade, err = boolOption(k, v)
		case optAntiSpoof:
			n.AntiSpoof, err = boolOption(k, v)
		case optDNS:
			n.DNS, err = boolOption(k, v)
		case optHostBinding:
			n.HostBindingIPv4, err = addrOption(k, v)
		case optMTU:
			n.MTU, err = mtuOption(v, n.EnableIPv6)
		default:
			err = unknownOption(k)
		}
		if err != nil {
			return err
		}
	}
	n.Options = maps.Clone(options)
	return nil
}

func boolOption(k, v string) (bool, error) {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, refuse(model.ErrInvalid, "invalid value %q of option %s (want true or false)", v, k)
	}
	return b, nil
}

func addrOption(k, v string) (netip.Addr, error) {
	a, err := netip.ParseAddr(v)
	if err != nil || a.Zone() != "" || a.IsMulticast() {
		return a, refuse(model.ErrInvalid, "invalid value %q of option %s (want an address of this host)", v, k)
	}
	return a.Unmap(), nil
}

func mtuOption(v string, ipv6 bool) (int, error) {
	low := minMTU4
	if ipv6 {
		low = minMTU6
	}
	mtu, err := strconv.Atoi(v)
	if err != nil || mtu < low || mtu > maxMTU {
		return 0, refuse(model.ErrInvalid, "invalid value %q of option %s (want %d to %d bytes)", v, optMTU, low, maxMTU)
	}
	return mtu, nil
}

func unknownOption(k string) error {
	if slices.Contains(laterOptions, k) {
		return refuse(model.ErrNotSupported, "option %s is not available yet (leave it out)", k)
	}
	known := []string{optICC, optMasquerade, optHostBinding, optMTU, optAntiSpoof, optDNS}
	return refuse(model.ErrInvalid, "unknown option %s of driver bridge (known are %s)", k, strings.Join(known, ", "))
}
