// SPDX-License-Identifier: Apache-2.0

package schema

// The conversion between schemas 2 and 3, in which published ports may have from, the clients that
// reach them. A build of schema 2 would publish such a port for everybody, so it is withdrawn.

func sourcesUp(*conversion) error { return nil }

func sourcesDown(c *conversion) error {
	for key, list := range c.lists {
		c.lists[key] = unlimited(list)
	}
	return c.each(PrefixSandbox, func(_ string, sb object) error {
		var ports []object
		if err := sb.get("ports", &ports); err != nil {
			return err
		}
		if left := unlimited(ports); len(left) == 0 {
			delete(sb, "ports")
		} else if len(left) < len(ports) {
			sb.setValue("ports", left)
		}
		return nil
	})
}

// unlimited returns the ports that all clients reach.
func unlimited(ports []object) (left []object) {
	for _, p := range ports {
		if _, limited := p["from"]; !limited {
			left = append(left, p)
		}
	}
	return left
}
