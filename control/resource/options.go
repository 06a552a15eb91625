// SPDX-License-Identifier: Apache-2.0

package resource

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
	OptHostBinding = "com.docker.network.bridge.host_binding_ipv4"
	OptIfPrefix    = "com.docker.network.container_iface_prefix"
	OptGateMode4   = "com.docker.network.bridge.gateway_mode_ipv4"
	OptGateMode6   = "com.docker.network.bridge.gateway_mode_ipv6"
	OptAntiSpoof   = "fairlead.antispoof"
	OptIPv4        = "com.docker.network.enable_ipv4"
	OptIPv6        = "com.docker.network.enable_ipv6"

	// These have no effect when they are false.
	OptInhibit4      = "com.docker.network.bridge.inhibit_ipv4"
	OptDefaultBridge = "com.docker.network.bridge.default_bridge"
)

// Limits of the MTU in bytes: the minimum that IPv4 (RFC 791) and IPv6 (RFC 8200)
// require, and the maximum that the length field of a packet can express.
const (
	minMTU4 = 68
	minMTU6 = 1280
	maxMTU  = 65535
)

// knownOptions are the options that have an effect.
var knownOptions = []string{model.OptICC, model.OptMasquerade, OptHostBinding, model.OptMTU, OptIfPrefix, OptGateMode4, OptGateMode6, OptIPv4, OptIPv6, OptAntiSpoof, model.OptDNS, model.OptUntracked}

// refusedOptions are the other options of Docker's bridge driver, with the reason
// and the remedy.
var refusedOptions = map[string]string{
	"com.docker.network.bridge.name": "there is no bridge, and Fairlead chooses the name of the host device; leave it out",
	OptInhibit4:                      "the host always has the gateway's address; for another default route add an auxiliary address " + model.AuxDefaultGateway4,
	OptDefaultBridge:                 "that is Docker's own docker0; leave it out",
	"com.docker.network.bridge.trusted_host_interfaces": "only published ports are reachable from outside; leave it out and publish them",
	"com.docker.network.host_ipv4":                      "masquerading uses the preferred source of the host's route; leave it out and set that with: ip route … src",
	"com.docker.network.host_ipv6":                      "masquerading uses the preferred source of the host's route; leave it out and set that with: ip -6 route … src",
	"com.docker.network.advertise_addr_nmsgs":           "neighbours need no advertisement, because the datapath answers for all addresses; leave it out",
	"com.docker.network.advertise_addr_ms":              "neighbours need no advertisement, because the datapath answers for all addresses; leave it out",
}

// applyOptions applies the user's options to the network.
func applyOptions(n *model.Network, options map[string]string) error {
	n.ICC, n.Masquerade, n.AntiSpoof, n.MTU = true, true, true, model.DefaultMTU
	for _, k := range slices.Sorted(maps.Keys(options)) {
		v := options[k]
		var err error
		switch k {
		case model.OptICC:
			n.ICC, err = boolOption(k, v)
		case model.OptMasquerade:
			n.Masquerade, err = boolOption(k, v)
		case OptAntiSpoof:
			n.AntiSpoof, err = boolOption(k, v)
		case model.OptDNS:
			if n.DNS, err = boolOption(k, v); n.DNS && n.ManagedBy == model.ByEngine {
				err = model.Refuse(model.ErrNotSupported, "option %s: the container engine serves the names of its networks itself (leave it out)", k)
			}
		case model.OptUntracked:
			n.Untracked, err = boolOption(k, v)
		case OptHostBinding:
			if n.HostBindingIPv4, err = addrOption(k, v); n.HostBindingIPv4 == netip.IPv4Unspecified() {
				n.HostBindingIPv4 = netip.Addr{} // same as unset: all addresses, also of IPv6
			}
		case model.OptMTU:
			n.MTU, err = mtuOption(v, n.EnableIPv6)
		case OptIfPrefix:
			n.IfPrefix, err = prefixOption(v)
		case OptInhibit4, OptDefaultBridge:
			var set bool
			if set, err = boolOption(k, v); set {
				err = unknownOption(k)
			}
		case OptGateMode4, OptGateMode6:
			err = gatewayMode(k, v)
		case OptIPv4, OptIPv6: // handled by chooseFamilies, or by the engine in its networks
			_, err = boolOption(k, v)
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
		return false, model.Refuse(model.ErrInvalid, "invalid value %q of option %s (want true or false)", v, k)
	}
	return b, nil
}

func addrOption(k, v string) (netip.Addr, error) {
	a, err := netip.ParseAddr(v)
	if err != nil || a.Zone() != "" || a.IsMulticast() {
		return a, model.Refuse(model.ErrInvalid, "invalid value %q of option %s (want an address of this host)", v, k)
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
		return 0, model.Refuse(model.ErrInvalid, "invalid value %q of option %s (want %d to %d bytes)", v, model.OptMTU, low, maxMTU)
	}
	return mtu, nil
}

// prefixOption checks that the prefix of an interface name leaves room for a number.
func prefixOption(v string) (string, error) {
	const room = 4
	if !ifNameRule.MatchString(v) || len(v) > 15-room || strings.HasPrefix(v, ".") {
		return "", model.Refuse(model.ErrInvalid, "invalid value %q of option %s (want up to %d letters, digits, and _ . -)", v, OptIfPrefix, 15-room)
	}
	return v, nil
}

// gatewayMode accepts nat, the only mode that is supported.
func gatewayMode(k, v string) error {
	switch v {
	case "", "nat":
		return nil
	case "routed", "nat-unprotected", "isolated":
		return model.Refuse(model.ErrNotSupported, "value %s of option %s is not available yet (leave it out, or use nat)", v, k)
	}
	return model.Refuse(model.ErrInvalid, "invalid value %q of option %s (want nat)", v, k)
}

func unknownOption(k string) error {
	if why, ok := refusedOptions[k]; ok {
		return model.Refuse(model.ErrNotSupported, "option %s is not supported (%s)", k, why)
	}
	return model.Refuse(model.ErrInvalid, "unknown option %s of driver bridge (known are %s)", k, strings.Join(knownOptions, ", "))
}
