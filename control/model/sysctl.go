// SPDX-License-Identifier: Apache-2.0

package model

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Sysctl is a setting of an endpoint's interface in the sandbox.
type Sysctl struct {
	Family string `json:"family"` // ipv4, ipv6 or mpls
	Table  string `json:"table"`  // conf, neigh
	Key    string `json:"key"`
	Value  string `json:"value"`
}

// Name returns the name of the setting, with IFNAME for that of the interface.
func (s Sysctl) Name() string { return "net." + s.Family + "." + s.Table + ".IFNAME." + s.Key }

// Sets reports whether another setting is of the same name.
func (s Sysctl) Sets(o Sysctl) bool { o.Value = s.Value; return s == o }

// nameRule is the form of the name of a setting of a network namespace.
var nameRule = regexp.MustCompile(`^net(\.[a-zA-Z0-9_-]+)+$`)

// deviceRule matches those of one interface.
var deviceRule = regexp.MustCompile(`^net\.(?:ipv4|ipv6|mpls)\.(?:conf|neigh)\.([^.]+)\.`)

// CheckSysctls refuses names that cannot be those of settings of a whole network namespace. Which of them exist, only
// the kernel knows.
func CheckSysctls(settings map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		device := deviceRule.FindStringSubmatch(name)
		switch {
		case !nameRule.MatchString(name):
			return Refuse(ErrInvalid, "sysctl '%s' is not allowed (only those of the network namespace are: net.…)", name)
		case device != nil && device[1] != "all" && device[1] != "default" && device[1] != "lo":
			return Refuse(ErrInvalid, "interface specific sysctl setting %q must be supplied using driver option 'com.docker.network.endpoint.sysctls' (as in --network name=NET,driver-opt=com.docker.network.endpoint.sysctls=%s=…)",
				name, strings.Replace(name, "."+device[1]+".", ".IFNAME.", 1))
		case settings[name] == "" || strings.ContainsAny(settings[name], "\n\x00"):
			return Refuse(ErrInvalid, "sysctl %s has the value %q (give one: NAME=VALUE)", name, settings[name])
		}
	}
	return nil
}
