// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/loader"
)

// Doctor writes in plain words what this kernel offers, what is missing and
// what follows from it, and how the daemon at host (unix:///PATH) is. It
// reports whether Fairlead can work here; a daemon that does not run is no
// hindrance.
func Doctor(ctx context.Context, w io.Writer, host string) (bool, error) {
	found := loader.Probe(ctx)
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("probe the kernel: %w", err)
	}
	found.List = append(found.List, shaping(rtnl.ProbeShaping()))
	health, status := daemonHealth(ctx, host)
	report := diagnosis(found) + uplinkProblems(status) + bypassed(rtnl.BypassedRules()) + "\nDaemon\n  " + health + "\n"
	if _, err := io.WriteString(w, report); err != nil {
		return false, fmt.Errorf("write the report: %w", err)
	}
	return found.OK(), nil
}

// bypassed names the rules of the host's firewall that an operator might count on.
func bypassed(chains []string, err error) string {
	if err != nil {
		return fmt.Sprintf("\nFirewall rules that do not apply to published ports could not be looked for: %v\n", err)
	}
	if len(chains) == 0 {
		return ""
	}
	return "\nFirewall rules that do not apply to what Fairlead forwards, published ports included\n  " + strings.Join(chains, "\n  ") +
		"\n    Its packets never pass there. Publish at fewer addresses (-p IP:PORT:PORT), or make networks internal.\n"
}

// shaping is what a try to limit bandwidth tells.
func shaping(err error) loader.Feature {
	f := loader.Feature{Name: "shaping", OK: err == nil, Why: "tried, and it works"}
	switch {
	case errors.Is(err, model.ErrNotSupported):
		f.Why = "tried, and this kernel has no qdisc tbf (module sch_tbf)"
	case err != nil:
		f.Why = fmt.Sprintf("could not be tried (%v)", err)
	}
	if !f.OK {
		f.Consequence = "Bandwidth cannot be limited: a sandbox with limits is refused."
	}
	return f
}

// diagnosis renders what was found: a verdict, what is missing with its
// consequence, and then what is there.
func diagnosis(found loader.Features) string {
	var blockers, missing, present strings.Builder
	for _, f := range found.List {
		switch {
		case f.OK:
			fmt.Fprintf(&present, "  %s: %s\n", f.Name, f.Why)
		case f.Required:
			fmt.Fprintf(&blockers, "  %s: %s\n    %s\n", f.Name, f.Why, f.Consequence)
		default:
			fmt.Fprintf(&missing, "  %s: %s\n    %s\n", f.Name, f.Why, f.Consequence)
		}
	}
	var report strings.Builder
	verdict := "Fairlead can work here."
	switch {
	case !found.OK():
		verdict = "Fairlead cannot work here."
	case missing.Len() > 0:
		verdict = "Fairlead can work here; some things are missing that it can do without."
	}
	fmt.Fprintf(&report, "%s (Linux %s)\n", verdict, found.Release)
	for _, section := range []struct{ title, text string }{
		{"Needed, and missing", blockers.String()},
		{"Missing", missing.String()},
		{"There", present.String()},
	} {
		if section.text != "" {
			fmt.Fprintf(&report, "\n%s\n%s", section.title, section.text)
		}
	}
	return report.String()
}

// uplinkProblems tells of uplinks that do not work: the daemon's, which knows the pinned
// ones, or, without a daemon, this host's as they would be found.
func uplinkProblems(status *api.Status) string {
	var problems []string
	if status != nil {
		problems = status.Troubles
	} else {
		found, err := findUplinkProblems()
		if err != nil {
			found = []string{"not known: " + err.Error()}
		}
		problems = found
	}
	if len(problems) == 0 {
		return ""
	}
	return "\nUplinks\n  " + strings.Join(problems, "\n  ") + "\n"
}

func findUplinkProblems() ([]string, error) {
	h, err := rtnl.New()
	if err != nil {
		return nil, err
	}
	problems, err := h.FindUplinkProblems(nil)
	return problems, errors.Join(err, h.Close())
}

// daemonHealth asks the daemon how it is; the first result says it in one line, the second
// is its status, nil if it has none.
func daemonHealth(ctx context.Context, host string) (string, *api.Status) {
	client, err := api.NewClient(host)
	if err != nil {
		return err.Error(), nil
	}
	status, err := client.Status(ctx)
	if err != nil {
		return err.Error(), nil
	}
	health := fmt.Sprintf("process %d serves %s: %d networks, %d sandboxes, attached by %s",
		status.Pid, host, status.Networks, status.Sandboxes, status.Attach)
	if status.LastError != "" {
		health += "; not all of it is real: " + status.LastError
	}
	return health, &status
}
