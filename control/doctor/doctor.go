// SPDX-License-Identifier: Apache-2.0

// Package doctor reports in plain words whether Fairlead can work on a host.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/netfilter"
	"github.com/fairlead-net/fairlead/control/rtnl/tc"
	"github.com/fairlead-net/fairlead/control/rtnl/uplink"
	"github.com/fairlead-net/fairlead/control/rtnl/wireguard"
	"github.com/fairlead-net/fairlead/loader/probe"
)

// Report writes a report in plain words: what this kernel offers, what is missing and with which
// consequences, and the state of the daemon at host (unix:///PATH). It reports whether Fairlead
// can work here, whether or not the daemon runs.
func Report(ctx context.Context, w io.Writer, host string) (bool, error) {
	found := probe.All(ctx)
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("probe the kernel: %w", err)
	}
	found.List = append(found.List, shaping(tc.ProbeShaping()), encryption(wireguard.Probe()))
	health, status := daemonHealth(ctx, host)
	report := diagnosis(found) + uplinkProblems(status) + clusterProblems(ctx, host, status) + uncarried(ctx, host, status) + leaseProblems(status) + gatewayProblems(status) + bypassed(netfilter.BypassedRules()) + "\nDaemon\n  " + health + "\n"
	if _, err := io.WriteString(w, report); err != nil {
		return false, fmt.Errorf("write the report: %w", err)
	}
	return found.OK(), nil
}

// bypassed lists the host's firewall rules that an operator might wrongly rely on.
func bypassed(chains []string, err error) string {
	if err != nil {
		return fmt.Sprintf("\nCannot check for firewall rules that do not apply to published ports: %v\n", err)
	}
	if len(chains) == 0 {
		return ""
	}
	return "\nFirewall rules that do not apply to packets that Fairlead forwards, including those of published ports\n  " + strings.Join(chains, "\n  ") +
		"\n    These packets never reach the rules. Publish at fewer addresses (-p IP:PORT:PORT), or make networks internal.\n"
}

// clusterProblems returns the section about the cluster: a store that does not answer, and hosts that
// cannot be reached.
func clusterProblems(ctx context.Context, host string, status *api.Status) string {
	if status == nil || status.Cluster == nil {
		return ""
	}
	c, err := client.New(host)
	if err != nil {
		return ""
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return "\nCluster\n  cannot list the hosts: " + err.Error() + "\n"
	}
	problems := append(describeCluster(status.Cluster, nodes), withoutEthernet(nodes)...)
	if len(problems) == 0 {
		problems = []string{fmt.Sprintf("store %s answers; other hosts: %d", status.Cluster.Store, status.Cluster.Nodes)}
	}
	return section("Cluster", problems)
}

// uncarried returns the sections about networks whose packets no program of Fairlead sees, and about parents of others.
func uncarried(ctx context.Context, host string, status *api.Status) string {
	if status == nil {
		return ""
	}
	c, err := client.New(host)
	if err != nil {
		return ""
	}
	networks, err := c.Networks(ctx, nil)
	if err != nil {
		return "\nNetworks\n  cannot list them: " + err.Error() + "\n"
	}
	h, err := rtnl.New()
	if err != nil {
		return ""
	}
	defer h.Close()
	trouble := func(parent string) string {
		switch l, err := h.LinkByName(parent); {
		case errors.Is(err, rtnl.ErrNoDevice):
			return "; that does not exist, so nothing reaches its members (create it, or rename it back)"
		case err == nil && !l.Up:
			return "; that is down, so nothing reaches its members (ip link set " + parent + " up)"
		}
		return ""
	}
	return describeUncarried(networks, trouble) + section("Networks on the link of a device", linkProblems(networks, trouble))
}

// linkProblems lists what is wrong with the parents of networks of driver lan.
func linkProblems(networks []api.Network, trouble func(parent string) string) (problems []string) {
	for _, n := range networks {
		parent := n.Options[model.OptParent]
		if n.Driver != model.DriverLAN || parent == "" {
			continue
		}
		if what := trouble(parent); what != "" {
			problems = append(problems, n.Name+": on "+parent+what)
		}
	}
	return problems
}

// leaseProblems returns the section about endpoints that no DHCP server serves.
func leaseProblems(status *api.Status) string {
	if status == nil {
		return ""
	}
	return section("DHCP leases", status.Leases)
}

// gatewayProblems returns the section about networks whose members reach nothing outside, because their gateway does not serve.
func gatewayProblems(status *api.Status) string {
	if status == nil {
		return ""
	}
	return section("Gateways", status.Gateways)
}

// describeUncarried lists the networks whose packets no program of Fairlead sees. trouble says what is wrong with a parent.
func describeUncarried(networks []api.Network, trouble func(parent string) string) string {
	text := ""
	for _, n := range networks {
		if !n.Uncarried {
			continue
		}
		parent := "a parent of its own"
		if p := n.Options[model.OptParent]; p != "" {
			parent = p + trouble(p)
		}
		text += fmt.Sprintf("  %s: %s on %s\n", n.Name, n.Driver, parent)
	}
	if text == "" {
		return ""
	}
	return "\nNetworks whose packets no program of Fairlead sees, counts, checks or publishes\n" + text
}

// describeCluster lists what does not work in a cluster, one line each.
func describeCluster(c *api.ClusterStatus, nodes []api.Node) (problems []string) {
	if !c.Reachable {
		problems = append(problems, fmt.Sprintf("the store %s does not answer since %s: %s (what runs goes on; sandboxes cannot join shared networks)", c.Store, c.Since.Format(time.DateTime), c.Error))
	}
	if c.Number == 0 {
		problems = append(problems, "this host is not registered since the daemon's start (see its log)")
	}
	if c.Waiting > 0 {
		problems = append(problems, fmt.Sprintf("other hosts do not know the sandboxes here of %d networks yet", c.Waiting))
	}
	if c.EncryptionError != "" {
		problems = append(problems, "encrypted networks do not reach other hosts: "+c.EncryptionError)
	}
	for _, n := range nodes {
		switch {
		case n.Self:
		case n.Device == "":
			problems = append(problems, fmt.Sprintf("there is no route to host %s at %s (add one, or correct its --advertise)", n.Name, n.Address))
		case n.Status == api.NodeDown:
			problems = append(problems, fmt.Sprintf("host %s at %s is down since %s (if it does not come back: fairlead node rm %[1]s)", n.Name, n.Address, n.LastSeen.Format(time.DateTime)))
		default:
			problems = append(problems, describePaths(n)...)
		}
	}
	return problems
}

// withoutEthernet lists the hosts to which tunnels cannot go, because of the device on the way.
func withoutEthernet(nodes []api.Node) (problems []string) {
	h, err := rtnl.New()
	if err != nil {
		return []string{"cannot check the devices to other hosts: " + err.Error()}
	}
	defer h.Close()
	for _, n := range nodes {
		if n.Self || n.Device == "" {
			continue
		}
		if l, err := h.LinkByName(n.Device); err == nil && !l.Ethernet() {
			problems = append(problems, fmt.Sprintf("host %s at %s is reached by device %s, whose packets have no Ethernet header: networks do not extend to it unless they are encrypted (use addresses of other devices as --advertise on both hosts, or create networks with -o encrypted)",
				n.Name, n.Address, n.Device))
		}
	}
	return problems
}

// describePaths lists what probes of the paths to a host say, one line each.
func describePaths(n api.Node) (problems []string) {
	for _, p := range n.Paths {
		what, port := "packets", "the VXLAN port"
		if p.Encrypted {
			what, port = "packets of encrypted networks", "the WireGuard port"
		}
		large := fmt.Sprintf("%s with %d bytes", what, p.LargeSize)
		host := fmt.Sprintf("host %s at %s", n.Name, n.Address)
		raise := "raise the MTU of what lies between, or recreate the network with a smaller one: -o " + model.OptMTU + "=MTU"
		var text string
		switch lost, sent := p.Lost+p.LargeLost, p.Probes+p.LargeProbes; {
		case p.State == model.PathOutbound:
			text = fmt.Sprintf("%s to %s do not arrive, and those from there do (let firewalls pass UDP to %s of that host, and ICMP echo requests in its networks)", what, host, port)
		case p.State == model.PathSilent:
			text = fmt.Sprintf("no %s arrive from %s (let firewalls pass UDP to %s of both hosts, and ICMP echo requests in their networks; doctor on that host says whether those from here arrive)", what, host, port)
		case p.State == model.PathLargeOutbound:
			text = fmt.Sprintf("%s to %s do not arrive, and smaller ones do (%s)", large, host, raise)
		case p.State == model.PathLarge:
			text = fmt.Sprintf("no %s arrive from %s, and smaller ones do (%s)", large, host, raise)
		case lost > 1 && 10*lost >= sent:
			text = fmt.Sprintf("%d of the last %d probes of %s got no answer: %s are lost in one direction or both", lost, sent, host, what)
		}
		if text != "" {
			problems = append(problems, text)
		}
	}
	return problems
}

// shaping returns the feature that describes the result of trying to limit bandwidth.
func shaping(err error) probe.Feature {
	f := probe.Feature{Name: "shaping", OK: err == nil, Why: "tried, and it works"}
	switch {
	case errors.Is(err, model.ErrNotSupported):
		f.Why = "tried, but this kernel lacks the tbf qdisc (module sch_tbf)"
	case err != nil:
		f.Why = fmt.Sprintf("could not be tried (%v)", err)
	}
	if !f.OK {
		f.Consequence = "Bandwidth cannot be limited: a sandbox with limits is refused."
	}
	return f
}

// encryption returns the feature that describes the result of trying to make a WireGuard device.
func encryption(err error) probe.Feature {
	f := probe.Feature{Name: "wireguard", OK: err == nil, Why: "tried, and it works"}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		f.Why = "tried, but this kernel lacks it (CONFIG_WIREGUARD, module wireguard)"
	case err != nil:
		f.Why = fmt.Sprintf("could not be tried (%v)", err)
	}
	if !f.OK {
		f.Consequence = "Sandboxes here are refused in encrypted networks (-o encrypted), unless wireguard-go " + rtnl.WireGuardDevice + " runs."
	}
	return f
}

// diagnosis renders the probed features: a verdict, what is missing with its consequence, and
// what is available.
func diagnosis(found probe.Features) string {
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
		verdict = "Fairlead can work here; some optional features are missing."
	}
	fmt.Fprintf(&report, "%s (Linux %s)\n", verdict, found.Release)
	for _, section := range []struct{ title, text string }{
		{"Required, missing", blockers.String()},
		{"Optional, missing", missing.String()},
		{"Available", present.String()},
	} {
		if section.text != "" {
			fmt.Fprintf(&report, "\n%s\n%s", section.title, section.text)
		}
	}
	return report.String()
}

// uplinkProblems returns the section about uplinks that do not work, from the daemon's status,
// which considers pinned uplinks, or, without a daemon, from this host's state.
func uplinkProblems(status *api.Status) string {
	var problems []string
	if status != nil {
		problems = status.Troubles
	} else {
		found, err := findUplinkProblems()
		if err != nil {
			found = []string{"cannot check: " + err.Error()}
		}
		problems = found
	}
	return section("Uplinks", problems)
}

// section returns a section of the report, "" if it has no lines.
func section(title string, lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return "\n" + title + "\n  " + strings.Join(lines, "\n  ") + "\n"
}

func findUplinkProblems() ([]string, error) {
	h, err := rtnl.New()
	if err != nil {
		return nil, err
	}
	problems, err := uplink.FindProblems(h, nil)
	return problems, errors.Join(err, h.Close())
}

// daemonHealth queries the daemon's status. It returns one line that describes it, and the
// status, or nil if there is none.
func daemonHealth(ctx context.Context, host string) (string, *api.Status) {
	client, err := client.New(host)
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
		health += "; last error: " + status.LastError
	}
	return health, &status
}
