// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// filters are the filters of a list or of prune.
type filters api.Filters

func parseFilters(r *http.Request, known ...string) (filters, error) {
	f, err := api.ParseFilters(r.URL.Query(), known...)
	return filters(f), err
}

// any reports whether a key is absent or one of its values satisfies ok.
func (f filters) any(key string, ok func(value string) bool) bool {
	values, given := f[key]
	return !given || slices.ContainsFunc(values, ok)
}

func (f filters) is(key, want string) bool {
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

func (f filters) labels(labels map[string]string) bool {
	// All labels must be present: this is the only key whose values Docker joins with AND.
	return !slices.ContainsFunc(f["label"], func(want string) bool { return !hasLabel(labels, want) })
}

func (f filters) identity(id, name string, labels map[string]string) bool {
	return f.labels(labels) &&
		f.any("id", func(v string) bool { return match(v, id) }) &&
		f.any("name", func(v string) bool { return match(v, name) })
}

func (f filters) network(n *model.Network, used bool) bool {
	kind := "custom"
	if predefined(n.Name) {
		kind = "builtin"
	}
	return f.identity(n.ID, n.Name, n.Labels) && f.is("driver", n.Driver) && f.is("scope", api.ScopeOf(n)) && f.is("type", kind) &&
		f.any("dangling", func(v string) bool {
			want, _ := strconv.ParseBool(v) // checked by ParseFilters
			return want == (!used && kind == "custom")
		})
}

func (f filters) sandbox(v *view, sb *model.Sandbox, row api.SandboxSummary) bool {
	return f.is("status", row.State.Status) && f.ports(sb, row.Ports) && f.any("network", func(want string) bool {
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

// ports tests published ports by their host ports, and exposed ones by those of the sandbox. As
// with Docker, a published port is also exposed.
func (f filters) ports(sb *model.Sandbox, published []api.PortSummary) bool {
	return f.any("publish", func(v string) bool {
		return slices.ContainsFunc(published, func(p api.PortSummary) bool { return overlaps(v, p.Type, p.PublicPort, p.Count) })
	}) && f.any("expose", func(v string) bool {
		return slices.ContainsFunc(published, func(p api.PortSummary) bool { return overlaps(v, p.Type, p.PrivatePort, p.Count) }) ||
			slices.ContainsFunc(sb.Expose, func(p model.PortProto) bool { return overlaps(v, p.Proto.String(), p.Port, p.Count) })
	})
}

// overlaps reports whether PORT[-PORT][/PROTO] has a port of count ones from first on.
func overlaps(value, proto string, first, count uint16) bool {
	p, err := api.ParseExpose(value)
	return err == nil && p.Proto.String() == proto && // ParseFilters has checked it
		uint32(p.Port) < uint32(first)+uint32(count) && uint32(first) < uint32(p.Port)+uint32(p.Count)
}

// pruned reports whether the label filters of prune match an object's labels.
func (f filters) pruned(labels map[string]string) bool {
	if not, given := f["label!"]; given && !slices.ContainsFunc(not, func(v string) bool { return !hasLabel(labels, v) }) {
		return false // as in Docker, an object is spared that has all of them
	}
	return f.labels(labels)
}

// until returns the time before which prune removes objects. Zero means any time.
func (f filters) until(now time.Time) (time.Time, error) {
	values := f["until"]
	if len(values) == 0 {
		return time.Time{}, nil
	}
	if len(values) > 1 {
		return time.Time{}, model.Refuse(model.ErrInvalid, "filter until may be given only once")
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
	return time.Time{}, model.Refuse(model.ErrInvalid, "filter until must be a duration (24h), a date (2006-01-02) or a time (RFC 3339), not %q", v)
}

func predefined(name string) bool {
	return name == model.NetworkBridge || name == model.NetworkHost || name == model.NetworkNone
}
