// SPDX-License-Identifier: Apache-2.0

package knobs_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/fairlead-net/fairlead/cmd/fairlead/knobs"
	"github.com/fairlead-net/fairlead/control/model"
)

func parse(t *testing.T, args ...string) (model.Defaults, error) {
	t.Helper()
	var flags knobs.Flags
	f := pflag.NewFlagSet("daemon", pflag.ContinueOnError)
	flags.Register(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return flags.Defaults()
}

// The flags name the subnets of the default network as dockerd's do.
func TestSubnets(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"", ""},
		{"--bip 192.168.5.9/24", "192.168.5.0/24 192.168.5.9"},
		{"--bip 192.168.5.0/31", "192.168.5.0/31 192.168.5.0"},
		{"--fixed-cidr 192.168.5.64/26", "192.168.5.64/26 invalid IP 192.168.5.64/26"},
		{"--bip 192.168.5.1/24 --fixed-cidr 192.168.5.64/26 --default-gateway 192.168.5.254", "192.168.5.0/24 192.168.5.1 192.168.5.64/26 DefaultGatewayIPv4=192.168.5.254"},
		{"--ipv6 --bip6 fd00:5::1/64", "fd00:5::/64 fd00:5::1"},
		{"--ipv6 --bip 192.168.5.1/24 --fixed-cidr-v6 2001:db8::/80 --default-gateway-v6 2001:db8::9", "192.168.5.0/24 192.168.5.1, 2001:db8::/80 invalid IP 2001:db8::/80 DefaultGatewayIPv6=2001:db8::9"},
	} {
		d, err := parse(t, strings.Fields(tt.args)...)
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
		}
		var got []string
		for _, s := range d.Bridge.Subnets {
			text := fmt.Sprint(s.Prefix, " ", s.Gateway)
			if s.IPRange.IsValid() {
				text += " " + s.IPRange.String()
			}
			for name, a := range s.Aux {
				text += fmt.Sprint(" ", name, "=", a)
			}
			if got = append(got, text); !s.Fixed {
				t.Errorf("%s: subnet %v is not fixed", tt.args, s.Prefix)
			}
		}
		if strings.Join(got, ", ") != tt.want {
			t.Errorf("%s: got %s, want %s", tt.args, strings.Join(got, ", "), tt.want)
		}
	}
}

func TestOptions(t *testing.T) {
	d, err := parse(t, "--ipv6", "--icc=false", "--ip-masq=false", "--ip", "127.0.0.1", "--mtu", "1400",
		"--default-network-opt", "bridge=com.docker.network.driver.mtu=1300", "--default-network-opt", "macvlan=macvlan_mode=vepa", "--default-network-opt", "overlay=encrypted=",
		"--dns", "192.0.2.53", "--dns", "2001:db8::53", "--dns-search", "example.com", "--dns-opt", "ndots:2", "--host-gateway-ip", "192.0.2.9", "--host-gateway-ip", "2001:db8::9")
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(d.Bridge.EnableIPv6, d.Bridge.Options, d.Options, d.Lookup.Servers, d.Lookup.Search, d.Lookup.Options, d.HostGateway)
	want := "true map[com.docker.network.bridge.enable_icc:false com.docker.network.bridge.enable_ip_masquerade:false com.docker.network.bridge.host_binding_ipv4:127.0.0.1 com.docker.network.driver.mtu:1400]" +
		" map[bridge:map[com.docker.network.driver.mtu:1300] macvlan:map[macvlan_mode:vepa] overlay:map[encrypted:]] [192.0.2.53 2001:db8::53] [example.com] [ndots:2] [192.0.2.9 2001:db8::9]"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if d, err := parse(t); err != nil || d.Bridge.Options != nil || d.Bridge.EnableIPv6 || len(d.Options) != 0 || !d.Lookup.IsZero() {
		t.Errorf("without flags: %+v, %v", d, err)
	}
}

// A bad value is refused in one line that names the flag.
func TestRefusals(t *testing.T) {
	for args, want := range map[string]string{
		"--bip 192.168.5.1":                                     `--bip "192.168.5.1": want the IPv4 address of the host and the length of its subnet, as in 192.168.5.1/24`,
		"--bip 192.168.5.0/24":                                  "--bip, --fixed-cidr, --default-gateway: gateway 192.168.5.0: address cannot be assigned to an interface",
		"--bip 192.168.5.255/24":                                "gateway 192.168.5.255: address cannot be assigned to an interface",
		"--bip fd00::1/64":                                      `--bip "fd00::1/64": want the IPv4 address`,
		"--bip ::ffff:192.168.5.1/120":                          "--bip",
		"--bip 127.0.0.1/8":                                     "--bip, --fixed-cidr, --default-gateway: invalid subnet 127.0.0.0/8",
		"--ipv6 --bip6 192.168.5.1/24":                          `--bip6 "192.168.5.1/24": want the IPv6 address`,
		"--bip6 fd00::1/64":                                     "--bip6 and --fixed-cidr-v6 need --ipv6",
		"--fixed-cidr-v6 fd00::/64":                             "--bip6 and --fixed-cidr-v6 need --ipv6",
		"--fixed-cidr x":                                        `--fixed-cidr "x": want IPv4 ADDRESS/LENGTH`,
		"--bip 192.168.5.1/24 --fixed-cidr 192.168.6.0/25":      "--bip, --fixed-cidr, --default-gateway: invalid ip-range",
		"--bip 192.168.5.1/24 --fixed-cidr 192.168.0.0/16":      "--bip, --fixed-cidr, --default-gateway: invalid ip-range",
		"--default-gateway 192.168.5.2":                         "--default-gateway needs the subnet of the default network (give --bip or --fixed-cidr)",
		"--bip 192.168.5.1/24 --default-gateway x":              `--default-gateway "x" is not an IPv4 address`,
		"--bip 192.168.5.1/24 --default-gateway 192.168.5.1":    "--default-gateway is the host's own address of --bip (leave it out)",
		"--bip 192.168.5.1/24 --default-gateway 192.168.6.1":    "invalid auxiliary address 192.168.6.1",
		"--ipv6 --bip6 fd00::1/64 --default-gateway-v6 fe80::1": "invalid auxiliary address fe80::1",
		"--mtu 60":                         `invalid value "60" of option com.docker.network.driver.mtu`,
		"--ipv6 --mtu 1000":                "want 1280 to 65535 bytes",
		"--ip localhost":                   `invalid value "localhost" of option com.docker.network.bridge.host_binding_ipv4`,
		"--default-network-opt bridge":     `--default-network-opt "bridge": want DRIVER=KEY=VALUE`,
		"--default-network-opt bridge=x":   `--default-network-opt "bridge=x": want DRIVER=KEY=VALUE`,
		"--default-network-opt host=a=b":   `"host" is not a driver of networks`,
		"--default-network-opt bridge=a=b": "--default-network-opt: unknown option a of driver bridge",
		"--default-network-opt macvlan=com.docker.network.bridge.enable_icc=false": "has no effect in a network of driver macvlan",
		"--dns x":             `--dns "x" is not the IP address of a name server`,
		"--dns-search a..b":   "a..b is not a valid domain",
		"--dns-opt a#b":       `invalid option "a#b" of resolv.conf`,
		"--host-gateway-ip x": `--host-gateway-ip "x": want an IP address`,
		"--host-gateway-ip 192.0.2.1 --host-gateway-ip 192.0.2.2": "--host-gateway-ip: 192.0.2.2 is the second address of IPv4",
	} {
		_, err := parse(t, strings.Fields(args)...)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %q", args, err, want)
		}
	}
}
