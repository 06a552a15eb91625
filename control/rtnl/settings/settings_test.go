// SPDX-License-Identifier: Apache-2.0

package settings_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
	"github.com/fairlead-net/fairlead/control/rtnl/settings"
)

// A namespace has its settings as soon as it has a path, and keeps what a program changes. Another namespace does not
// have them.
func TestSettings(t *testing.T) {
	rtnltest.New(t)
	chosen := map[string]string{
		"net.ipv4.conf.all.send_redirects": "0", // ip_forward resets it
		"net.ipv4.ip_forward":              "1",
		"net.ipv4.ip_local_port_range":     "20000 30000",
		"net.ipv6.conf.all.disable_ipv6":   "1",
	}
	write := func() error { return settings.Write(chosen) }
	path := filepath.Join(t.TempDir(), "ns")
	if err := rtnl.CreateNetNS(path, write); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rtnl.RemoveNetNS(path) }()
	ns, err := rtnl.OpenNetNS(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	read := func(name string) string {
		b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
		if err != nil {
			t.Error(err)
		}
		return strings.Join(strings.Fields(string(b)), " ")
	}
	if err := ns.Do(func() error {
		for name, want := range chosen {
			if got := read(name); got != want {
				t.Errorf("%s is %s, want %s", name, got, want)
			}
		}
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	if err := rtnl.CreateNetNS(path, write); err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error {
		if got := read("net.ipv4.ip_forward"); got != "0" {
			t.Errorf("an existing namespace got its settings again")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := rtnl.InNewNetNS(func() error {
		if got := read("net.ipv4.ip_local_port_range"); got == "20000 30000" {
			t.Error("another namespace has the settings too")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// The kernel's refusals are of one line that names the setting. A namespace whose settings are refused has no path.
func TestSettingsRefused(t *testing.T) {
	rtnltest.New(t)
	for text, want := range map[string]string{
		"net.ipv4.bogus=1":              "sysctl net.ipv4.bogus is not one of a network namespace",
		"net.ipv4=1":                    "sysctl net.ipv4 is not one of a network namespace",
		"net.core.netdev_max_backlog=1": "sysctl net.core.netdev_max_backlog is not one of a network namespace",
		"net.ipv4.ip_forward=x":         `sysctl net.ipv4.ip_forward cannot be "x": invalid argument (choose another value)`,
		"net.ipv4.ip_default_ttl=1000":  `sysctl net.ipv4.ip_default_ttl cannot be "1000": invalid argument`,
	} {
		name, value, _ := strings.Cut(text, "=")
		chosen := map[string]string{name: value}
		if err := settings.Try(chosen); err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
		path := filepath.Join(t.TempDir(), "ns")
		if err := rtnl.CreateNetNS(path, func() error { return settings.Write(chosen) }); err == nil {
			t.Errorf("%s: a namespace was created with it", text)
		}
		if _, err := rtnl.OpenNetNS(path); err == nil {
			t.Errorf("%s: the namespace has a path", text)
		}
	}
	if err := settings.Try(map[string]string{"net.ipv4.ip_forward": "1"}); err != nil {
		t.Error(err)
	}
}
