// SPDX-License-Identifier: Apache-2.0

package api

import (
	"regexp"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/model"
)

// sysctlRule is the form of a setting of an interface, as in Docker. IFNAME stands for the name of the interface.
var sysctlRule = regexp.MustCompile(`^net\.(ipv4|ipv6|mpls)\.([a-z0-9_]+)\.(?:IFNAME|ifname)\.([a-zA-Z0-9_-]+)=(.+)$`)

// parseSysctls parses a list of settings, separated by commas.
func parseSysctls(text string) (list []model.Sysctl, err error) {
	for item := range strings.SplitSeq(text, ",") {
		m := sysctlRule.FindStringSubmatch(strings.TrimSpace(item))
		if m == nil {
			return nil, model.Refuse(model.ErrInvalid, "invalid sysctl %q of an interface (want net.X.Y.IFNAME.Z=VALUE, as in net.ipv4.conf.IFNAME.log_martians=1, and X one of ipv4, ipv6, mpls)", item)
		}
		s := model.Sysctl{Family: m[1], Table: m[2], Key: m[3], Value: strings.Join(strings.Fields(m[4]), " ")}
		if slices.ContainsFunc(list, s.Sets) {
			return nil, model.Refuse(model.ErrInvalid, "sysctl %s is given twice (leave one out)", s.Name())
		}
		list = append(list, s)
	}
	return list, nil
}

// sysctlsText returns settings in the form that parseSysctls parses.
func sysctlsText(list []model.Sysctl) string {
	texts := make([]string, len(list))
	for i, s := range list {
		texts[i] = s.Name() + "=" + s.Value
	}
	return strings.Join(texts, ",")
}
