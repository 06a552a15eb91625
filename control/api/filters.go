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

// Filters work as in Docker: the values of one key are alternatives, and all keys must
// match.
type Filters map[string][]string

// parseFilters parses the query parameter filters: {"key":["value"]} or, from
// older clients, {"key":{"value":true}}.
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

// checkFilter refuses values that cannot match.
func checkFilter(key, value string) error {
	allowed := map[string][]string{
		"scope":  {"local", "swarm", "global"},
		"type":   {"builtin", "custom"},
		"status": {StatusCreated, StatusRunning, StatusExited},
	}[key]
	if key == "dangling" {
		if _, err := strconv.ParseBool(value); err != nil {
			return refuse(model.ErrInvalid, "filter dangling must be true or false, not %q", value)
		}
	}
	if allowed != nil && !slices.Contains(allowed, value) {
		return refuse(model.ErrInvalid, "filter %s must be one of %s, not %q", key, strings.Join(allowed, ", "), value)
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

// match reports whether s contains value, or matches it as a regular expression.
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
	// All labels must be present: this is the only key whose values Docker joins with AND.
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
		for e := range v.snap.EndpointsOf(sb.ID) {
			if n := v.snap.Network(e.NetworkID); n != nil && (n.Name == want || strings.HasPrefix(n.ID, want)) {
				return true
			}
		}
		return false
	})
}

// pruned reports whether the label filters of prune match an object's labels.
func (f Filters) pruned(labels map[string]string) bool {
	return f.labels(labels) &&
		!slices.ContainsFunc(f["label!"], func(not string) bool { return hasLabel(labels, not) })
}

// until returns the time before which prune removes objects. Zero means any time.
func (f Filters) until(now time.Time) (time.Time, error) {
	values := f["until"]
	if len(values) == 0 {
		return time.Time{}, nil
	}
	if len(values) > 1 {
		return time.Time{}, refuse(model.ErrInvalid, "filter until may be given only once")
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
	return time.Time{}, refuse(model.ErrInvalid, "filter until must be a duration (24h), a date (2006-01-02) or a time (RFC 3339), not %q", v)
}

func predefined(name string) bool {
	return name == model.NetworkBridge || name == model.NetworkHost || name == model.NetworkNone
}
