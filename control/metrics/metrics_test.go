// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// full returns Stats with all fields set.
func full() (Stats, error) {
	return Stats{
		Networks: []Network{{
			Name:           "web",
			FromEndpoint:   Counter{Packets: 3, Bytes: 300},
			ToEndpoint:     Counter{Packets: 2, Bytes: 200},
			Endpoints:      4,
			PublishedPorts: 11,
		}},
		Services:  []Service{{Network: "web", Name: "shop", Backends: map[string]int{"active": 3, "drained": 1}}},
		Sandboxes: 5,
		Uplinks:   1,
		Drops:     map[string]Counter{"spoofed_mac": {Packets: 1, Bytes: 60}, "icc": {}},
		Paths:     map[string]Counter{"peer": {Packets: 7, Bytes: 700}},
		Events:    map[string]uint64{"ct_created": 9},
		Conntrack: []Fill{{Table: "confirmed", Entries: 8, Max: 524288}},
		Maps:      []Fill{{Table: "fl_endpoint", Entries: 6, Max: 16384}},
		Repairs:   map[string]uint64{"device": 1},
		Arrived:   Counter{Packets: 40, Bytes: 4000},
		Left:      Counter{Packets: 50, Bytes: 5000},
		Questions: map[string]uint64{"local": 7},
		Announced: map[string]int{"here": 2, "elsewhere": 1}, Taken: 4,
		Leases: map[string]int{"bound": 2}, Asked: map[string]uint64{"acknowledged": 5},
		Unserved: 1,
		Cluster: &Cluster{Up: true, Nodes: 5, Down: 2, Members: 12, Waiting: 1, Paths: []ClusterPath{
			{Node: "b", Works: true, RoundTrip: 0.25}, {Node: "c", Encrypted: true},
		}},
	}, nil
}

func scrape(t *testing.T, stats func() (Stats, error)) string {
	t.Helper()
	m := New(Config{Stats: stats, Version: "1.0", Revision: "abc", GoVersion: "go1", Log: slog.New(slog.DiscardHandler)})
	m.Observe(Apply, 3*time.Millisecond, nil)
	m.Observe(Resync, time.Second, errors.New("no"))
	answer := httptest.NewRecorder()
	m.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	if answer.Code != 200 {
		t.Fatalf("status %d: %s", answer.Code, answer.Body)
	}
	return answer.Body.String()
}

// samples returns the lines of an answer with Fairlead's values, without the many histogram
// buckets.
func samples(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "fairlead_") && !strings.Contains(line, "_bucket{") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func TestSamples(t *testing.T) {
	want := []string{
		`fairlead_announced_addresses{where="elsewhere"} 1`,
		`fairlead_announced_addresses{where="here"} 2`,
		`fairlead_announced_addresses_taken_total 4`,
		`fairlead_build_info{goversion="go1",revision="abc",version="1.0"} 1`,
		`fairlead_cluster_members 12`,
		`fairlead_cluster_nodes{state="down"} 2`,
		`fairlead_cluster_nodes{state="up"} 3`,
		`fairlead_cluster_path_round_trip_seconds{encrypted="false",node="b"} 0.25`,
		`fairlead_cluster_path_works{encrypted="false",node="b"} 1`,
		`fairlead_cluster_path_works{encrypted="true",node="c"} 0`,
		`fairlead_cluster_store_up 1`,
		`fairlead_cluster_unpublished_networks 1`,
		`fairlead_conntrack_entries{table="confirmed"} 8`,
		`fairlead_conntrack_entries_limit{table="confirmed"} 524288`,
		`fairlead_datapath_events_total{event="ct_created"} 9`,
		`fairlead_datapath_up 1`,
		`fairlead_dhcp_leases{state="bound"} 2`,
		`fairlead_dhcp_requests_total{result="acknowledged"} 5`,
		`fairlead_dns_questions_total{result="local"} 7`,
		`fairlead_dns_unserved_addresses 1`,
		`fairlead_dropped_bytes_total{reason="icc"} 0`,
		`fairlead_dropped_bytes_total{reason="spoofed_mac"} 60`,
		`fairlead_dropped_packets_total{reason="icc"} 0`,
		`fairlead_dropped_packets_total{reason="spoofed_mac"} 1`,
		`fairlead_endpoints{network="web"} 4`,
		`fairlead_forwarded_bytes_total{path="peer"} 700`,
		`fairlead_forwarded_packets_total{path="peer"} 7`,
		`fairlead_map_entries{map="fl_endpoint"} 6`,
		`fairlead_map_entries_limit{map="fl_endpoint"} 16384`,
		`fairlead_network_bytes_total{direction="from_endpoint",network="web"} 300`,
		`fairlead_network_bytes_total{direction="to_endpoint",network="web"} 200`,
		`fairlead_network_packets_total{direction="from_endpoint",network="web"} 3`,
		`fairlead_network_packets_total{direction="to_endpoint",network="web"} 2`,
		`fairlead_networks 1`,
		`fairlead_published_ports{network="web"} 11`,
		`fairlead_reconcile_duration_seconds_sum{operation="apply"} 0.003`,
		`fairlead_reconcile_duration_seconds_count{operation="apply"} 1`,
		`fairlead_reconcile_duration_seconds_sum{operation="resync"} 1`,
		`fairlead_reconcile_duration_seconds_count{operation="resync"} 1`,
		`fairlead_reconcile_errors_total{operation="apply"} 0`,
		`fairlead_reconcile_errors_total{operation="resync"} 1`,
		`fairlead_reconcile_repairs_total{kind="device"} 1`,
		`fairlead_sandboxes 5`,
		`fairlead_service_backends{network="web",service="shop",state="active"} 3`,
		`fairlead_service_backends{network="web",service="shop",state="drained"} 1`,
		`fairlead_uplink_bytes_total{direction="arrived"} 4000`,
		`fairlead_uplink_bytes_total{direction="left"} 5000`,
		`fairlead_uplink_packets_total{direction="arrived"} 40`,
		`fairlead_uplink_packets_total{direction="left"} 50`,
		`fairlead_uplinks 1`,
	}
	if diff := cmp.Diff(want, samples(scrape(t, full))); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
}

func TestNothingPartialWhenUnreadable(t *testing.T) {
	unreadable := func() (Stats, error) {
		stats, _ := full()
		return stats, errors.New("no such map")
	}
	got := samples(scrape(t, unreadable))
	if !slices.Contains(got, "fairlead_datapath_up 0") {
		t.Errorf("want fairlead_datapath_up 0 in %q", got)
	}
	for _, line := range got {
		for _, ours := range []string{"fairlead_network", "fairlead_dropped", "fairlead_map", "fairlead_endpoints"} {
			if strings.HasPrefix(line, ours) {
				t.Errorf("%q after a failed read", line)
			}
		}
	}
}

var (
	typeLine = regexp.MustCompile(`(?m)^# TYPE (fairlead_\w+) `)
	named    = regexp.MustCompile(`\bfairlead_\w+`)
)

// Every metric that the documents name exists in a scrape.
func TestDocumentedNames(t *testing.T) {
	exist := map[string]bool{}
	for _, match := range typeLine.FindAllStringSubmatch(scrape(t, full), -1) {
		exist[match[1]] = true
	}
	documents := []string{"../../README.md"}
	for _, pattern := range []string{"../../docs/*.md", "../../docs/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("no documents at %s: %v", pattern, err)
		}
		documents = append(documents, found...)
	}
	for _, path := range documents {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range named.FindAllString(string(text), -1) {
			if !exist[name] {
				t.Errorf("%s names the metric %s, which does not exist", path, name)
			}
		}
	}
}

// TestPromtool checks every name, unit and help text against the rules of the Prometheus project,
// with its own checker (Debian: package prometheus).
func TestPromtool(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(scrape(t, full))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, &out)
	}
	if out.Len() > 0 {
		t.Errorf("promtool check metrics has remarks:\n%s", &out)
	}
}
