// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"strings"

	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
)

// checkLinks refuses links that cannot be. In a network with a name server the target may be created later; in the
// default network a link is a line of /etc/hosts, as in Docker.
func checkLinks(t *txn.Tx, n *model.Network, links []model.Link) error {
	for _, l := range links {
		if l.Target == "" || !model.ValidDomain(l.Alias) || strings.HasSuffix(l.Alias, ".") {
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
