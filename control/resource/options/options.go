// SPDX-License-Identifier: Apache-2.0

// Package options checks and applies the options of networks: the user's, and the defaults of the others.
package options

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-net/fairlead/control/model"
)

// Limits of the MTU in bytes: the minimum that IPv4 (RFC 791) and IPv6 (RFC 8200)
// require, and the maximum that the length field of a packet can express.
const (
	minMTU4 = 68
	minMTU6 = 1280
	maxMTU  = 65535
)

// knownOptions are the options that have an effect, with the functions that apply a value.
var knownOptions = map[string]func(n *model.Network, k, v string) error{
	model.OptICC:         flagOption(func(n *model.Network) *bool { return &n.ICC }),
	model.OptMasquerade:  flagOption(func(n *model.Network) *bool { return &n.Masquerade }),
	model.OptAntiSpoof:   flagOption(func(n *model.Network) *bool { return &n.AntiSpoof }),
	model.OptIngress:     limitOption(func(b *model.Bandwidth) *model.Limit { return &b.Ingress }),
	model.OptEgress:      limitOption(func(b *model.Bandwidth) *model.Limit { return &b.Egress }),
	model.OptUntracked:   flagOption(func(n *model.Network) *bool { return &n.Untracked }),
	model.OptPublish:     publishOption,
	model.OptDNS:         dnsOption,
	model.OptMTU:         mtuOption,
	model.OptHostBinding: bindingOption,
	model.OptIfPrefix:    prefixOption,
	model.OptHostIPv4:    egressOption(model.V4, func(n *model.Network) *netip.Addr { return &n.EgressIPv4 }),
	model.OptHostIPv6:    egressOption(model.V6, func(n *model.Network) *netip.Addr { return &n.EgressIPv6 }),
	model.OptGateway:     gatewayOption,
	model.OptGateMode4:   gatewayMode,
	model.OptGateMode6:   gatewayMode,
	model.OptIPv4:        familyOption,
	model.OptIPv6:        familyOption,
	model.OptVNI:         vniOption,
	model.OptEncrypted:   encryptedOption,
}

// refusedOptions are the other options of Docker's bridge driver, with the reason
// and the remedy.
var refusedOptions = map[string]string{
	"com.docker.network.bridge.name":                    "there is no bridge, and Fairlead chooses the name of the host device; leave it out",
	model.OptInhibit4:                                   "the host always has the gateway's address; for another default route add an auxiliary address " + model.AuxDefaultGateway4,
	model.OptDefaultBridge:                              "that is Docker's own docker0; leave it out",
	"com.docker.network.bridge.trusted_host_interfaces": "members are reached through all interfaces of the host or none; leave it out, and publish ports or use gateway mode nat-unprotected or routed",
	"com.docker.network.advertise_addr_nmsgs":           "neighbours need no advertisement, because the datapath answers for all addresses; leave it out",
	"com.docker.network.advertise_addr_ms":              "neighbours need no advertisement, because the datapath answers for all addresses; leave it out",
}

// Apply applies the user's options to the network, and the defaults of the others.
func Apply(n *model.Network, options, defaults map[string]string) error {
	all := maps.Clone(defaults)
	maps.Copy(all, options)
	for _, k := range slices.Sorted(maps.Keys(all)) {
		apply, ok := optionsOf(n)[k]
		if !ok {
			apply = unknownOption
		}
		if err := apply(n, k, all[k]); err != nil {
			return err
		}
	}
	n.Options = maps.Clone(options)
	for _, f := range model.Families {
		if mode := model.GatewayMode(n.Options, f); n.PublishInternal && mode != model.GatewayNAT {
			return model.Refuse(model.ErrInvalid, "option %s publishes ports of the host, but %s is in gateway mode %s (leave out the option, or the mode)", model.OptPublish, f, mode)
		}
	}
	return cmp.Or(n.CheckBandwidth(n.Bandwidth), checkGateway(n), checkEgress(n, model.V4, model.OptHostIPv4, n.EgressIPv4), checkEgress(n, model.V6, model.OptHostIPv6, n.EgressIPv6))
}

// Validate checks the options of a spec alone.
func Validate(spec model.NetworkSpec) error {
	return Apply(&model.Network{Driver: spec.Driver, EnableIPv4: true, EnableIPv6: spec.EnableIPv6, Masquerade: true}, spec.Options, map[string]string{})
}

// Check refuses options that a network does not have already.
func Check(n *model.Network, options map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(options)) {
		apply, ok := optionsOf(n)[k]
		if !ok {
			apply = unknownOption
		}
		now := *n
		if err := apply(&now, k, options[k]); err != nil {
			return err
		}
		if !reflect.DeepEqual(&now, n) {
			return model.Refuse(model.ErrInvalid, "network %s was created without option %s=%s, and one host cannot change it (leave the option out, or create the network with it)", n.Name, k, options[k])
		}
	}
	return nil
}

// Bool returns the value of an option that is true or false.
func Bool(k, v string) (bool, error) {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, model.Refuse(model.ErrInvalid, "invalid value %q of option %s (want true or false)", v, k)
	}
	return b, nil
}

// flagOption returns the function that applies an option to a field of the network.
func flagOption(field func(*model.Network) *bool) func(n *model.Network, k, v string) error {
	return func(n *model.Network, k, v string) (err error) {
		*field(n), err = Bool(k, v)
		return err
	}
}

// limitOption sets a default limit of a network's endpoints. An engine moves the inner end of a pair itself, which removes
// the qdisc that would limit what its container sends.
func limitOption(field func(*model.Bandwidth) *model.Limit) func(n *model.Network, k, v string) error {
	return func(n *model.Network, k, v string) error {
		limit, err := model.ParseLimit(v)
		if err != nil {
			return model.Refuse(model.ErrInvalid, "option %s: %v", k, err)
		}
		if *field(&n.Bandwidth) = limit; n.ManagedBy == model.ByEngine && !n.Bandwidth.Egress.IsZero() {
			return model.Refuse(model.ErrNotSupported, "option %s: Fairlead limits only what containers of an engine receive (leave it out, or use %s)", k, model.OptIngress)
		}
		return nil
	}
}

// publishOption lets an internal network publish ports. Other networks do that in any case.
func publishOption(n *model.Network, k, v string) (err error) {
	if n.PublishInternal, err = Bool(k, v); err != nil || !n.PublishInternal {
		return err
	}
	switch {
	case n.ManagedBy == model.ByEngine:
		return model.Refuse(model.ErrNotSupported, "option %s: a container engine does not pass on the ports of an internal network (leave it out, or create the network with: fairlead network create)", k)
	case n.Driver != model.DriverBridge:
		return model.Refuse(model.ErrInvalid, "option %s=%s is for networks of driver bridge (leave it out)", k, v)
	case !n.Internal:
		return model.Refuse(model.ErrInvalid, "option %s is for internal networks: others publish ports in any case (leave it out, or add --internal)", k)
	}
	return nil
}

func dnsOption(n *model.Network, k, v string) (err error) {
	if n.DNS, err = Bool(k, v); n.DNS && n.ManagedBy == model.ByEngine {
		return model.Refuse(model.ErrNotSupported, "option %s: the container engine serves the names of its networks itself (leave it out)", k)
	}
	return err
}

// familyOption checks an option that chooseFamilies handles, or the engine in its networks.
func familyOption(_ *model.Network, k, v string) error {
	_, err := Bool(k, v)
	return err
}

func bindingOption(n *model.Network, k, v string) error {
	a, err := netip.ParseAddr(v)
	if err != nil || a.Zone() != "" || a.IsMulticast() {
		return model.Refuse(model.ErrInvalid, "invalid value %q of option %s (want an address of this host)", v, k)
	}
	if n.HostBindingIPv4 = a.Unmap(); n.HostBindingIPv4 == netip.IPv4Unspecified() {
		n.HostBindingIPv4 = netip.Addr{} // same as unset: all addresses, also of IPv6
	}
	return nil
}

// egressOption sets the address that a family is masqueraded with.
func egressOption(f model.Family, field func(*model.Network) *netip.Addr) func(n *model.Network, k, v string) error {
	return func(n *model.Network, k, v string) error {
		a, err := netip.ParseAddr(v)
		if err != nil || a.Zone() != "" || a.Is4In6() || model.FamilyOf(a) != f || !a.IsGlobalUnicast() {
			return model.Refuse(model.ErrInvalid, "invalid value %q of option %s (want an %s address at which others reach this host)", v, k, f)
		}
		*field(n) = a
		return nil
	}
}

// checkEgress refuses an address that a network would never masquerade with.
func checkEgress(n *model.Network, f model.Family, k string, a netip.Addr) error {
	why := ""
	switch {
	case !a.IsValid():
		return nil
	case n.Driver != model.DriverBridge:
		why = "is for networks of driver bridge (leave it out)"
	case n.Internal:
		why = "has no effect in an internal network, whose members reach nothing outside (leave it out)"
	case !n.Masquerade:
		why = "has no effect without masquerading (leave out " + model.OptMasquerade + "=false)"
	case n.Routed(f):
		why = "has no effect in gateway mode routed, in which members keep their own addresses (leave one of them out)"
	case f == model.V4 && !n.EnableIPv4 || f == model.V6 && !n.EnableIPv6:
		why = "is for a family that the network does not have (leave it out)"
	default:
		return nil
	}
	return model.Refuse(model.ErrInvalid, "option %s=%s %s", k, a, why)
}

// gatewayOption names the sandbox that is the router of the other members. It may not exist yet.
func gatewayOption(n *model.Network, k, v string) error {
	if !model.ValidName(v) {
		return model.Refuse(model.ErrInvalid, "invalid value %q of option %s (want the name of a sandbox: [a-zA-Z0-9][a-zA-Z0-9_.-]+)", v, k)
	}
	n.Router = v
	return nil
}

// checkGateway refuses a router where members send nothing outside by themselves, or where it could not work.
func checkGateway(n *model.Network) error {
	why := ""
	switch {
	case n.Router == "":
		return nil
	case n.ManagedBy == model.ByEngine:
		return model.Refuse(model.ErrNotSupported, "option %s=%s: a container engine resolves names outside of the network (leave it out, or create the network with: fairlead network create)", model.OptGateway, n.Router)
	case n.Driver != model.DriverBridge:
		why = "is for networks of driver bridge (leave it out)"
	case n.Internal:
		why = "has no effect in an internal network, whose members reach nothing outside (leave it out)"
	case !n.ICC:
		why = "needs members that reach each other (leave out " + model.OptICC + "=false)"
	case n.Untracked:
		why = "needs connections to be tracked in the gateway (leave out " + model.OptUntracked + "=true)"
	case n.Routed(model.V4) || n.Routed(model.V6):
		why = "has no effect in gateway mode routed, in which packets have the members' own addresses (leave one of them out)"
	default:
		return nil
	}
	return model.Refuse(model.ErrInvalid, "option %s=%s %s", model.OptGateway, n.Router, why)
}

func mtuOption(n *model.Network, k, v string) error {
	low := minMTU4
	if n.EnableIPv6 {
		low = minMTU6
	}
	mtu, err := strconv.Atoi(v)
	if err != nil || mtu < low || mtu > maxMTU {
		return model.Refuse(model.ErrInvalid, "invalid value %q of option %s (want %d to %d bytes)", v, k, low, maxMTU)
	}
	n.MTU = mtu
	return nil
}

// maxVNI is the maximum of the 24 bits of a VXLAN network identifier. The uppermost is reserved.
const maxVNI = 1<<24 - 2

// vniOption sets the VNI of a shared network.
func vniOption(n *model.Network, k, v string) error {
	vni, err := strconv.ParseUint(v, 10, 32)
	if err != nil || vni < 1 || vni > maxVNI {
		return model.Refuse(model.ErrInvalid, "invalid value %q of option %s (want one number from 1 to %d)", v, k, maxVNI)
	}
	if !n.Has().Shared {
		return model.Refuse(model.ErrInvalid, "option %s is for networks that hosts share (leave it out, or use driver overlay)", k)
	}
	n.VNI = uint32(vni)
	return nil
}

// IsEncrypted reports whether options request an encrypted network. Like Docker, the option needs no value.
func IsEncrypted(options map[string]string) (bool, error) {
	v, ok := options[model.OptEncrypted]
	if v == "" {
		return ok, nil
	}
	return Bool(model.OptEncrypted, v)
}

func encryptedOption(n *model.Network, k, v string) (err error) {
	if n.Encrypted, err = IsEncrypted(map[string]string{k: v}); n.Encrypted && !n.Has().Shared {
		return model.Refuse(model.ErrInvalid, "option %s is for networks that hosts share (leave it out, or use driver overlay)", k)
	}
	return err
}

// prefixOption checks that the prefix of an interface name leaves room for a number.
func prefixOption(n *model.Network, k, v string) error {
	const room = 4
	if !model.IsIfName(v) || len(v) > 15-room || strings.HasPrefix(v, ".") {
		return model.Refuse(model.ErrInvalid, "invalid value %q of option %s (want up to %d letters, digits, and _ . -)", v, k, 15-room)
	}
	n.IfPrefix = v
	return nil
}

// gatewayMode checks a mode. The network has it in its options.
func gatewayMode(n *model.Network, k, v string) error {
	switch v {
	case "", model.GatewayNAT:
		return nil
	case model.GatewayUnprotected, model.GatewayRouted, model.GatewayIsolated:
	default:
		return model.Refuse(model.ErrInvalid, "invalid value %q of option %s (want nat, nat-unprotected, routed or isolated)", v, k)
	}
	if n.Driver != model.DriverBridge {
		return model.Refuse(model.ErrInvalid, "option %s=%s is for networks of driver bridge (leave it out)", k, v)
	}
	if v == model.GatewayIsolated && !n.Internal {
		return model.Refuse(model.ErrInvalid, "gateway mode 'isolated' can only be used for an internal network (add --internal)")
	}
	return nil
}

// unknownOption refuses an option, except one that has no effect with this value.
func unknownOption(n *model.Network, k, v string) error {
	if err := refuseOfBridge(n, k); err != nil {
		return err
	}
	if k == model.OptInhibit4 || k == model.OptDefaultBridge {
		if set, err := Bool(k, v); err != nil || !set {
			return err
		}
	}
	if why, ok := refusedOptions[k]; ok {
		return model.Refuse(model.ErrNotSupported, "option %s is not supported (%s)", k, why)
	}
	known := strings.Join(slices.Sorted(maps.Keys(optionsOf(n))), ", ")
	return model.Refuse(model.ErrInvalid, "unknown option %s of driver %s (known are %s)", k, n.Driver, known)
}
