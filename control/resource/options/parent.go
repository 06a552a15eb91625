// SPDX-License-Identifier: Apache-2.0

package options

import (
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/model"
)

// parentOptions are the options of networks whose endpoints' devices are on top of a device of the host.
var parentOptions = map[string]func(n *model.Network, k, v string) error{
	model.OptParent:      parentOption,
	model.OptMacvlanMode: modeOption(model.DriverMacvlan, model.ModeBridge, model.ModePrivate, model.ModeVEPA, model.ModePassthru),
	model.OptIPvlanMode:  modeOption(model.DriverIPvlan, model.ModeL2, model.ModeL3, model.ModeL3S),
	model.OptIPvlanFlag:  flagOfIPvlan,
	model.OptHostAccess:  flagOption(func(n *model.Network) *bool { return &n.HostAccess }),
	model.OptMTU:         mtuOption,
	model.OptIfPrefix:    prefixOption,
	model.OptIPv4:        familyOption,
	model.OptIPv6:        familyOption,
}

// linkOptions are those of networks whose members the datapath carries on the link of a device of the host.
var linkOptions = map[string]func(n *model.Network, k, v string) error{
	model.OptParent:    parentOption,
	model.OptICC:       knownOptions[model.OptICC],
	model.OptAntiSpoof: alwaysChecked,
	model.OptIngress:   knownOptions[model.OptIngress],
	model.OptEgress:    knownOptions[model.OptEgress],
	model.OptUntracked: knownOptions[model.OptUntracked],
	model.OptMTU:       mtuOption,
	model.OptIfPrefix:  prefixOption,
	model.OptIPv4:      familyOption,
	model.OptIPv6:      familyOption,
}

// optionsOf returns the options that a network has, with the functions that apply a value.
func optionsOf(n *model.Network) map[string]func(n *model.Network, k, v string) error {
	switch {
	case n.OnLink():
		return linkOptions
	case n.Has().Entries:
		return knownOptions
	}
	return parentOptions
}

// Defaults returns the values of options that a network of the driver of n is created without. The MTU of members on a
// link is by default that of the link.
func Defaults(n *model.Network) map[string]string {
	defaults := make(map[string]string)
	for k, v := range model.OptionDefaults {
		if _, ok := optionsOf(n)[k]; ok && n.Has().Entries {
			defaults[k] = v
		}
	}
	if n.OnLink() {
		delete(defaults, model.OptMTU)
	}
	return defaults
}

// parentOption checks the name of a device. That it exists is found out when it is used.
func parentOption(n *model.Network, k, v string) error {
	switch {
	case v == "lo":
		return model.Refuse(model.ErrInvalid, "loopback interface is not a valid %s parent link (choose another)", n.Driver)
	case v != "" && (!model.IsIfName(v) || slices.Contains(model.ReservedIfNames, v)):
		return model.Refuse(model.ErrInvalid, "invalid value %q of option %s (want the name of a device of this host, or one like eth0.50 for a VLAN of it)", v, k)
	}
	n.Parent = v
	return nil
}

// alwaysChecked refuses members whose sources are not checked: the link has their MACs from Fairlead, and no others.
func alwaysChecked(n *model.Network, k, v string) error {
	if err := knownOptions[k](n, k, v); err != nil || n.AntiSpoof {
		return err
	}
	return model.Refuse(model.ErrInvalid, "option %s of a network of driver %s is always true: the parent accepts no other MACs than its members' (leave it out)", k, n.Driver)
}

func modeOption(driver string, modes ...string) func(n *model.Network, k, v string) error {
	return func(n *model.Network, k, v string) error {
		switch {
		case n.Driver != driver:
			return model.Refuse(model.ErrInvalid, "option %s is for networks of driver %s (leave it out)", k, driver)
		case v != "" && !slices.Contains(modes, v):
			return model.Refuse(model.ErrInvalid, "requested %s mode '%s' is not valid (want %s)", driver, v, strings.Join(modes, ", "))
		case v != "":
			n.Mode = v
		}
		return nil
	}
}

func flagOfIPvlan(n *model.Network, k, v string) error {
	flags := []string{model.ModeBridge, model.ModePrivate, model.ModeVEPA}
	switch {
	case n.Driver != model.DriverIPvlan:
		return model.Refuse(model.ErrInvalid, "option %s is for networks of driver %s (leave it out)", k, model.DriverIPvlan)
	case v != "" && !slices.Contains(flags, v):
		return model.Refuse(model.ErrInvalid, "requested ipvlan flag '%s' is not valid (want %s)", v, strings.Join(flags, ", "))
	case v != "":
		n.Flag = v
	}
	return nil
}

// refuseOfBridge refuses an option of bridge networks in one of another driver.
func refuseOfBridge(n *model.Network, k string) error {
	_, ok := knownOptions[k]
	switch {
	case ok && n.OnLink():
		return model.Refuse(model.ErrInvalid, "option %s has no effect in a network of driver %s: its members are on the link of the parent, and the host neither translates, publishes nor routes for them (leave it out)", k, n.Driver)
	case !ok || n.Has().Entries:
		return nil
	}
	return model.Refuse(model.ErrInvalid, "option %s has no effect in a network of driver %s: no program of Fairlead sees its packets (leave it out)", k, n.Driver)
}
