// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-net/fairlead/control/model"
)

// Filters work as in Docker: the values of one key are alternatives, and all keys must
// match.
type Filters map[string][]string

// ParseFilters parses the query parameter filters: {"key":["value"]} or, from
// older clients, {"key":{"value":true}}.
func ParseFilters(q url.Values, known ...string) (Filters, error) {
	return parseFilters(q, checkFilter, known)
}

// ParseEventFilters does so for events.
func ParseEventFilters(q url.Values) (Filters, error) {
	return parseFilters(q, checkEventFilter, []string{"container", "event", "network", "sandbox", "type"})
}

func parseFilters(q url.Values, check func(key, value string) error, known []string) (Filters, error) {
	text := q.Get("filters")
	if text == "" {
		return nil, nil
	}
	f := Filters{}
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		var old map[string]map[string]bool
		if json.Unmarshal([]byte(text), &old) != nil {
			return nil, model.Refuse(model.ErrInvalid, "filters must be a JSON object of lists: %v", err)
		}
		f = Filters{}
		for key, values := range old {
			for v := range values {
				f[key] = append(f[key], v)
			}
		}
	}
	for key, values := range f {
		if !slices.Contains(known, key) {
			return nil, model.Refuse(model.ErrInvalid, "unknown filter %q (known: %s)", key, strings.Join(known, ", "))
		}
		for _, v := range values {
			if err := check(key, v); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

// checkFilter refuses values that cannot match.
func checkFilter(key, value string) error {
	allowed := map[string][]string{
		"scope":  {"local", "swarm", "global"},
		"type":   {"builtin", "custom"},
		"status": {StatusCreated, StatusRunning, StatusExited},
	}[key]
	if key == "dangling" {
		if _, err := strconv.ParseBool(value); err != nil {
			return model.Refuse(model.ErrInvalid, "filter dangling must be true or false, not %q", value)
		}
	}
	if key == "publish" || key == "expose" {
		if _, err := parseTarget(value); err != nil {
			return model.Refuse(model.ErrInvalid, "filter %s must be PORT[-PORT][/PROTO], as in 8080/tcp, not %q", key, value)
		}
	}
	return checkOneOf(key, value, allowed)
}

func checkEventFilter(key, value string) error {
	return checkOneOf(key, value, map[string][]string{"type": eventTypes, "event": eventActions}[key])
}

// checkOneOf refuses a value that is not allowed; nil allows all.
func checkOneOf(key, value string, allowed []string) error {
	if allowed != nil && !slices.Contains(allowed, value) {
		return model.Refuse(model.ErrInvalid, "filter %s must be one of %s, not %q", key, strings.Join(allowed, ", "), value)
	}
	return nil
}

// Query returns the query of a request with these filters.
func (f Filters) Query() url.Values {
	if len(f) == 0 {
		return nil
	}
	b, err := json.Marshal(f)
	if err != nil { // lists of strings can always be encoded
		panic(err)
	}
	return url.Values{"filters": {string(b)}}
}

// Query returns the query of a request with this filter.
func (f FlowFilter) Query() url.Values {
	q := url.Values{}
	set := func(key, value string) {
		if value != "" && value != "0" {
			q.Set(key, value)
		}
	}
	set("protocol", f.Protocol)
	set("state", f.State)
	set("address", f.Address)
	set("network", f.Network)
	set("port", strconv.Itoa(int(f.Port)))
	set("limit", strconv.Itoa(f.Limit))
	return q
}

// parseAddrOrPrefix converts an address or prefix to its canonical form. "" matches all.
func parseAddrOrPrefix(text string) (string, error) {
	if !strings.Contains(text, "/") {
		addr, err := parseAddr("address", text)
		return model.AddrText(addr), err
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return "", model.Refuse(model.ErrInvalid, "address %q is malformed (want the form 192.0.2.1 or 2001:db8::/64)", text)
	}
	return prefix.Masked().String(), nil
}

// ParseFlowFilter is the inverse of FlowFilter.Query.
func ParseFlowFilter(q url.Values) (FlowFilter, error) {
	f := FlowFilter{
		Protocol: strings.ToLower(q.Get("protocol")), State: strings.ToLower(q.Get("state")), Network: q.Get("network"),
	}
	var err error
	if f.Address, err = parseAddrOrPrefix(q.Get("address")); err != nil {
		return f, err
	}
	if p := q.Get("port"); p != "" {
		if f.Port, err = parsePort(p); err != nil {
			return f, model.Refuse(model.ErrInvalid, "%v", err)
		}
	}
	if l := q.Get("limit"); l != "" {
		if f.Limit, err = strconv.Atoi(l); err != nil || f.Limit < 0 {
			return f, model.Refuse(model.ErrInvalid, "limit must be a number of 0 or more, not %q", l)
		}
	}
	for key := range q {
		switch key {
		case "protocol", "state", "network", "address", "port", "limit":
		default:
			return f, model.Refuse(model.ErrInvalid, "unknown query parameter %q", key)
		}
	}
	return f, nil
}

// Query returns the query of a request with this expectation.
func (e Expected) Query() url.Values {
	q := url.Values{}
	if e.EndpointID != "" {
		q.Set("endpoint", e.EndpointID)
	}
	for _, gateway := range e.Gateways {
		q.Add("gateway", gateway.String())
	}
	return q
}

// ParseExpected is the inverse of Expected.Query.
func ParseExpected(q url.Values) (Expected, error) {
	e := Expected{EndpointID: q.Get("endpoint")}
	for _, v := range q["gateway"] {
		gateway, err := netip.ParseAddr(v)
		if err != nil {
			return e, model.Refuse(model.ErrInvalid, "gateway %q is not an IP address", v)
		}
		e.Gateways = append(e.Gateways, gateway)
	}
	return e, nil
}
