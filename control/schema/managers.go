// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"errors"
	"maps"
	"strings"
)

// The conversion between schemas 1 and 2.
//
// Schema 1 stored foreign (managed by an engine) and owned (Fairlead created the namespace), and a
// label told sandboxes of runtimes from those of users. Of an endpoint it stored gateway, and only4
// if another endpoint is the gateway for IPv6. A network's number and engine were in its record.

// Managers, as schema 2 stores them.
const (
	byFairlead = "fairlead"
	byUser     = "user"
	byRuntime  = "runtime"
	byEngine   = "engine"
)

func managersUp(c *conversion) error {
	locals := map[string]object{}
	err := errors.Join(
		c.each(PrefixNetwork, func(id string, n object) error {
			foreign := false
			if err := n.take("foreign", &foreign); err != nil {
				return err
			}
			n.set("managed_by", byFairlead)
			if foreign {
				n.set("managed_by", byEngine)
			}
			local := object{}
			n.move("index", local)
			n.move("engine", local)
			locals[PrefixLocal+id] = local
			return nil
		}),
		c.each(PrefixSandbox, func(_ string, sb object) error {
			manager, err := takeManager(sb)
			sb.set("managed_by", manager)
			return err
		}),
		c.each(PrefixEndpoint, func(_ string, ep object) error {
			gateway, only4 := false, false
			err := errors.Join(ep.take("gateway", &gateway), ep.take("only4", &only4))
			ep.setTrue("default_route4", gateway)
			ep.setTrue("default_route6", gateway && !only4)
			return err
		}),
	)
	maps.Copy(c.objects, locals)
	return err
}

// takeManager returns the manager of a sandbox of schema 1 and removes the fields that said it.
func takeManager(sb object) (string, error) {
	var s struct {
		owned, foreign bool
		netns, mode    string
		labels         map[string]string
	}
	err := errors.Join(sb.take("owned", &s.owned), sb.take("foreign", &s.foreign),
		sb.get("netns", &s.netns), sb.get("network_mode", &s.mode), sb.get("labels", &s.labels))
	switch {
	case s.foreign:
		return byEngine, err
	case s.owned, s.netns == "", strings.HasPrefix(s.mode, "container:"):
		return byFairlead, err
	}
	for label := range s.labels {
		if strings.HasPrefix(label, "fairlead.") && strings.HasSuffix(label, ".container") {
			return byRuntime, err
		}
	}
	return byUser, err
}

func managersDown(c *conversion) error {
	locals := map[string]bool{}
	err := errors.Join(
		c.each(PrefixNetwork, func(id string, n object) error {
			var manager string
			err := n.take("managed_by", &manager)
			n.setTrue("foreign", manager == byEngine)
			if local := c.objects[PrefixLocal+id]; local != nil {
				local.move("index", n)
				local.move("engine", n)
			}
			return err
		}),
		c.each(PrefixLocal, func(id string, _ object) error {
			locals[PrefixLocal+id] = true
			return nil
		}),
		c.each(PrefixSandbox, func(_ string, sb object) error {
			var manager, netns, mode string
			err := errors.Join(sb.take("managed_by", &manager), sb.get("netns", &netns), sb.get("network_mode", &mode))
			sb.setTrue("foreign", manager == byEngine)
			sb.setTrue("owned", manager == byFairlead && netns != "" && !strings.HasPrefix(mode, "container:"))
			return err
		}),
		c.each(PrefixEndpoint, func(_ string, ep object) error {
			route4, route6 := false, false
			err := errors.Join(ep.take("default_route4", &route4), ep.take("default_route6", &route6))
			ep.setTrue("gateway", route4 || route6)
			ep.setTrue("only4", route4 && !route6)
			return err
		}),
	)
	for key := range locals {
		c.remove(key)
	}
	return err
}
