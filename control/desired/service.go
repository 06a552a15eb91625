// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/model"
)

func serviceKeys(svc *model.Service) []string {
	keys := []string{
		keyNetwork(svc.NetworkID), keyAlias(svc.NetworkID, svc.Name), keyName(strings.ToLower(svc.Name)),
		keyNumber(svc.Number), keyMAC(svc.NetworkID, svc.MAC),
	}
	for _, f := range model.Families {
		if a := svc.Addr(f); a.IsValid() {
			keys = append(keys, keyAddr(svc.NetworkID, a))
		}
	}
	return keys
}

func keyAlias(network, name string) string {
	return "alias\x00" + network + "\x00" + strings.ToLower(name)
}

func keyNumber(n uint32) string { return fmt.Sprintf("number\x00%08x", n) }

// Service returns a service by ID; nil if there is none.
func (s *Snapshot) Service(id string) *model.Service { return s.services.get(id) }

// Services yields the services in the order of their IDs.
func (s *Snapshot) Services() iter.Seq[*model.Service] { return s.services.rows.Values() }

// ServicesOf yields a network's services.
func (s *Snapshot) ServicesOf(networkID string) iter.Seq[*model.Service] {
	return s.services.with(keyNetwork(networkID))
}

// HasServices reports whether a network has a service.
func (s *Snapshot) HasServices(networkID string) bool {
	return First(s.ServicesOf(networkID)) != nil
}

// ServiceIn returns the service that has a name in a network; nil if there is none.
func (s *Snapshot) ServiceIn(networkID, name string) *model.Service {
	return First(s.services.with(keyAlias(networkID, name)))
}

// ServiceNumbered returns the service that has a number in the datapath; nil if there is none.
func (s *Snapshot) ServiceNumbered(n uint32) *model.Service {
	return First(s.services.with(keyNumber(n)))
}

// ServiceWithAddr returns the service that has a virtual address in a network; nil if there is none.
func (s *Snapshot) ServiceWithAddr(networkID string, addr netip.Addr) *model.Service {
	return First(s.services.with(keyAddr(networkID, addr)))
}

// ServiceWithMAC returns the service that has a MAC in a network; nil if there is none.
func (s *Snapshot) ServiceWithMAC(networkID string, mac model.MAC) *model.Service {
	return First(s.services.with(keyMAC(networkID, mac)))
}

// ServicesOfEndpoint yields the services that an endpoint, which may be nil, is a backend of.
func (s *Snapshot) ServicesOfEndpoint(ep *model.Endpoint) iter.Seq[*model.Service] {
	return func(yield func(*model.Service) bool) {
		if ep == nil || s.services.rows.Len() == 0 {
			return
		}
		for i, alias := range ep.Aliases {
			if containsFold(ep.Aliases[:i], alias) {
				continue
			}
			if svc := s.ServiceIn(ep.NetworkID, alias); svc != nil && !yield(svc) {
				return
			}
		}
	}
}

func containsFold(list []string, name string) bool {
	for _, s := range list {
		if strings.EqualFold(s, name) {
			return true
		}
	}
	return false
}

// Backends yields the endpoints that are backends of a service, in the order of their IDs.
func (s *Snapshot) Backends(svc *model.Service) iter.Seq[*model.Endpoint] {
	return func(yield func(*model.Endpoint) bool) {
		for ep := range s.endpoints.with(keyAlias(svc.NetworkID, svc.Name)) {
			if svc.HasBackend(ep) && !yield(ep) {
				return
			}
		}
	}
}

// FindService finds a service by full ID, by name, by name and network as NAME.NETWORK, or by a
// unique prefix of its ID, in this order.
func (s *Snapshot) FindService(ref string) (*model.Service, error) {
	if svc := s.Service(ref); svc != nil {
		return svc, nil
	}
	if svc, matches := byPrefix(s.services.with(keyName(strings.ToLower(ref)))); svc != nil {
		return svc, nil
	} else if matches > 1 {
		return nil, model.Refuse(model.ErrInvalid, "service %s is ambiguous (%d networks have one of this name; give %s.NETWORK)", ref, matches, ref)
	}
	for i := range len(ref) {
		if ref[i] != '.' {
			continue
		}
		for n := range s.NetworksNamed(ref[i+1:]) {
			if svc := s.ServiceIn(n.ID, ref[:i]); svc != nil {
				return svc, nil
			}
		}
	}
	svc, matches := byPrefix(s.services.byPrefix(ref))
	switch {
	case ref == "":
	case svc != nil:
		return svc, nil
	case matches > 1:
		return nil, model.Refuse(model.ErrInvalid, "service %s is ambiguous (%d matches found on ID prefix; give more digits or the name)", ref, matches)
	}
	return nil, model.NoService(ref)
}

// ServicesByPrefix yields the services whose ID begins with prefix.
func (s *Snapshot) ServicesByPrefix(prefix string) iter.Seq[*model.Service] {
	return s.services.byPrefix(prefix)
}

// PutService sets or deletes a service.
func (e *Edit) PutService(id string, svc *model.Service) { e.services.put(id, svc, serviceKeys) }

// DiffServices yields the services that differ.
func DiffServices(from, to *Snapshot) iter.Seq[Change[string, model.Service]] {
	return diff(from.services.rows, to.services.rows)
}

// Announced returns the addresses that services have announced, and which this host has published.
func (s *Snapshot) Announced() (list []netip.Addr) {
	for svc := range s.Services() {
		if !svc.Announce {
			continue
		}
		for _, b := range svc.Ports {
			if b.HostIP.IsValid() && !slices.Contains(list, b.HostIP) {
				list = append(list, b.HostIP)
			}
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}
