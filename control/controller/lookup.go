// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"regexp"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
)

// domainRule is the rule of RFC 1123 for each label, extended by the underscore.
var domainRule = regexp.MustCompile(`^[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?)*\.?$`)

// maxDomain is the size of a domain in the kernel, and of a name in DNS.
const maxDomain, maxName = 64, 255

func validateLookup(l model.Lookup) error {
	if l.Domainname != "" && (!domainRule.MatchString(l.Domainname) || len(l.Domainname) > maxDomain) {
		return model.Refuse(model.ErrInvalid, "invalid domain name %q (letters, digits, dots and hyphens, at most %d)", l.Domainname, maxDomain)
	}
	for _, domain := range l.Search {
		if domain != "." && (!domainRule.MatchString(domain) || len(domain) > maxName) {
			return model.Refuse(model.ErrInvalid, "%s is not a valid domain (give one to search, or . for none)", domain)
		}
	}
	for _, option := range l.Options {
		if option == "" || strings.ContainsAny(option, " \t\n#;") {
			return model.Refuse(model.ErrInvalid, "invalid option %q of resolv.conf (give one at a time, as in ndots:1)", option)
		}
	}
	return nil
}

// checkLinks refuses links that cannot be. In a network with a name server the target may be created later; in the
// default network a link is a line of /etc/hosts, as in Docker.
func checkLinks(t *txn.Tx, n *model.Network, links []model.Link) error {
	for _, l := range links {
		if l.Target == "" || !domainRule.MatchString(l.Alias) || strings.HasSuffix(l.Alias, ".") {
			return model.Refuse(model.ErrInvalid, "bad format for links: %s:%s (want NAME or NAME:ALIAS, without a dot at the end)", l.Target, l.Alias)
		}
		if n.Resolves() {
			continue
		}
		to, err := t.Next.FindSandbox(l.Target)
		if err != nil {
			return err
		}
		if t.Next.Connection(to.ID, n.ID) == nil {
			return model.Refuse(model.ErrInvalid, "cannot link to sandbox %q, which is not in network %s (connect it, or use a network of your own)", to.Name, n.Name)
		}
	}
	return nil
}
