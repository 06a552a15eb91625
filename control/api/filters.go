// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
)

// Filters are Docker's: a key's values are alternatives, different keys must
// all hold.
type Filters map[string][]string

// parseFilters reads the query parameter filters: {"key":["value"]} or, as
// older clients send it, {"key":{"value":true}}.
func parseFilters(r *http.Request, known ...string) (Filters, error) {
	text := r.URL.Query().Get("filters")
	if text == "" {
		return nil, nil
	}
	f := Filters{}
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		var old map[string]map[string]bool
		if json.Unmarshal([]byte(text), &old) != nil {
			return nil, refuse(model.ErrInvalid, "filters must be a JSON object of lists: %v", err)
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
			return nil, refuse(model.ErrInvalid, "unknown filter %q (known: %s)", key, strings.Join(known, ", "))
		}
		for _, v := range values {
			if err := checkFilter(key, v); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

// checkFilter refuses values that can never match.
func checkFilter(key, value string) error {
	allowed := map[string][]string{
		"scope":  {"local", "swarm", "global"},
		"type":   {"builtin", "custom"},
		"status": {StatusCreated, StatusRunning, StatusExited},
	}[key]
	if key == "dangling" {
		if _, err := strconv.ParseBool(value); err != nil {
			return refuse(model.ErrInvalid, "filter dangling wants true or false, not %q", value)
		}
	}
	if allowed != nil && !slices.Contains(allowed, value) {
		return refuse(model.ErrInvalid, "filter %s wants one of %s, not %q", key, strings.Join(allowed, ", "), value)
	}
	return nil
}

// any reports whether a key is absent or one of its values satisfies ok.
func (f Filters) any(key string, ok func(value string) bool) bool {
	values, given := f[key]
	return !given || slices.ContainsFunc(values, ok)
}

func (f Filters) is(key, want string) bool {
	return f.any(key, func(v string) bool { return v == want })
}

// match is by regular expression, or by substring when the value is none.
func match(value, s string) bool {
	re, err := regexp.Compile(value)
	return strings.Contains(s, value) || err == nil && re.MatchString(s)
}

// hasLabel tests "key" or "key=value".
func hasLabel(labels map[string]string, want string) bool {
	key, value, withValue := strings.Cut(want, "=")
	got, ok := labels[key]
	return ok && (!withValue || got == value)
}

func (f Filters) labels(labels map[string]string) bool {
	// Several labels must all be there: the one key Docker joins with AND.
	return !slices.ContainsFunc(f["label"], func(want string) bool { return !hasLabel(labels, want) })
}

func (f Filters) identity(id, name string, labels map[string]string) bool {
	return f.labels(labels) &&
		f.any("id", func(v string) bool { return match(v, id) }) &&
		f.any("name", func(v string) bool { return match(v, name) })
}

func (f Filters) network(n *model.Network, used bool) bool {
	kind := "custom"
	if predefined(n.Name) {
		kind = "builtin"
	}
	return f.identity(n.ID, n.Name, n.Labels) && f.is("driver", n.Driver) && f.is("scope", "local") && f.is("type", kind) &&
		f.any("dangling", func(v string) bool {
			want, _ := strconv.ParseBool(v) // checked by checkFilter
			return want == (!used && kind == "custom")
		})
}

func (f Filters) sandbox(v *view, sb *model.Sandbox, status string) bool {
	return f.is("status", status) && f.any("network", func(want string) bool {
		if sb.NetworkMode == want {
			return true
		}
		return slices.ContainsFunc(v.endpointsOf(sb.ID), func(e *model.Endpoint) bool {
			n := v.snap.Networks[e.NetworkID]
			return n != nil && (n.Name == want || strings.HasPrefix(n.ID, want))
		})
	})
}

// pruned reports whether prune's label filters take an object with labels.
func (f Filters) pruned(labels map[string]string) bool {
	return f.labels(labels) &&
		!slices.ContainsFunc(f["label!"], func(not string) bool { return hasLabel(labels, not) })
}

// until is the time before which prune takes objects; zero: any time.
func (f Filters) until(now time.Time) (time.Time, error) {
	values := f["until"]
	if len(values) == 0 {
		return time.Time{}, nil
	}
	if len(values) > 1 {
		return time.Time{}, refuse(model.ErrInvalid, "filter until may be given once")
	}
	v := values[0]
	if d, err := time.ParseDuration(v); err == nil {
		return now.Add(-d), nil
	}
	if s, err := strconv.ParseInt(v, 10, 64); err == nil {
		return time.Unix(s, 0), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, refuse(model.ErrInvalid, "filter until wants a duration (24h), a date (2006-01-02) or a time (RFC 3339), not %q", v)
}

func predefined(name string) bool {
	return name == model.NetworkBridge || name == model.NetworkHost || name == model.NetworkNone
}
