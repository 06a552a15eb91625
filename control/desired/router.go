// SPDX-License-Identifier: Apache-2.0

package desired

import "github.com/fairlead-net/fairlead/control/model"

// RouterError says why members of a network reach nothing outside by way of the sandbox that is their router, and how to
// change that. It returns "" if they do, or have the host for it.
func (s *Snapshot) RouterError(n *model.Network) string {
	if n.Router == "" {
		return ""
	}
	for sb := range s.SandboxesNamed(n.Router) {
		if !n.IsRouter(sb) {
			continue
		}
		for ep := range s.EndpointsOf(sb.ID) {
			switch {
			case ep.NetworkID != n.ID:
				continue
			case !sb.Serves():
				return "its program does not run (start it again)"
			}
			return ""
		}
		return "it is not connected (fairlead network connect " + n.Name + " " + sb.Name + ")"
	}
	return "it does not exist (create it in the network)"
}

// IsRelied reports whether others in its networks depend on a sandbox's program: it is a backend of a service, or their router.
func (s *Snapshot) IsRelied(sandboxID string) bool {
	for ep := range s.EndpointsOf(sandboxID) {
		if n := s.Network(ep.NetworkID); n != nil && n.IsRouter(s.Sandbox(sandboxID)) {
			return true
		}
		if First(s.ServicesOfEndpoint(ep)) != nil {
			return true
		}
	}
	return false
}
