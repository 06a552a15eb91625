// SPDX-License-Identifier: Apache-2.0

package schema

// The conversion between schemas 3 and 4, in which a network may have a router, the member by which
// alone the others reach what is outside. A build of schema 3 would let them out by the host, so the
// network becomes internal for it.

func routersUp(*conversion) error { return nil }

func routersDown(c *conversion) error {
	return c.each(PrefixNetwork, func(_ string, n object) error {
		router := ""
		if err := n.take("router", &router); err != nil || router == "" {
			return err
		}
		n.setTrue("internal", true)
		options := map[string]string{}
		if err := n.get("options", &options); err != nil {
			return err
		}
		delete(options, "fairlead.gateway")
		n.setValue("options", options)
		return nil
	})
}
