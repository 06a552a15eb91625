// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/test/machine"
)

// Metrics holds the samples of one scrape: name with labels, as written, to value.
type Metrics map[string]float64

// Metrics scrapes the daemon.
func (l *Lab) Metrics() Metrics {
	l.Helper()
	m, err := l.scrape()
	l.must(err)
	return m
}

func (l *Lab) scrape() (Metrics, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives:  true,
		DisableCompression: true, // the daemon would spend more time on it than on the rest
		DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			return l.Host.Dial(net.Dialer{Timeout: 5 * time.Second}, network, address)
		},
	}}
	resp, err := client.Get("http://" + metricsAddress + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics: %s", resp.Status)
	}
	return parseMetrics(resp.Body)
}

// parseMetrics reads Prometheus' text format.
func parseMetrics(r io.Reader) (Metrics, error) {
	m := Metrics{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		if i < 0 {
			continue
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics line %q: %w", line, err)
		}
		m[line[:i]] = v
	}
	return m, lines.Err()
}

// Drops returns the dropped packets by reason.
func (m Metrics) Drops() map[string]float64 {
	return m.labelled("fairlead_dropped_packets_total", "reason")
}

// Paths returns the forwarded packets by path.
func (m Metrics) Paths() map[string]float64 {
	return m.labelled("fairlead_forwarded_packets_total", "path")
}

func (m Metrics) labelled(name, label string) map[string]float64 {
	found := map[string]float64{}
	for sample, v := range m {
		value, ok := strings.CutPrefix(sample, fmt.Sprintf("%s{%s=\"", name, label))
		if value, isLabel := strings.CutSuffix(value, `"}`); ok && isLabel {
			found[value] = v
		}
	}
	return found
}

// droppedWithin is how long it may take to count a packet in flight.
const droppedWithin = 5 * time.Second

// Dropped runs f and expects at least n packets to be dropped for the reason, and none for
// another reason, except those in others.
func (l *Lab) Dropped(reason string, n float64, f func(), others ...string) {
	l.Helper()
	before := l.Metrics().Drops()
	f()
	var moved map[string]float64
	watch := machine.Start()
	defer watch.Stop()
	for ; ; time.Sleep(50 * time.Millisecond) {
		moved = moves(before, l.Metrics().Drops())
		if moved[reason] >= n || watch.Over(droppedWithin) {
			break
		}
	}
	got := moved[reason]
	if got < n {
		l.Errorf("%v packets dropped as %s, want at least %v (all drops: %v)", got, reason, n, moved)
	}
	rest := maps.Clone(moved)
	for _, r := range append(others, reason) {
		delete(rest, r)
	}
	if len(rest) > 0 {
		l.Errorf("packets dropped for other reasons than %s: %v", reason, rest)
	}
}

// moves returns the differences between two sets of counters.
func moves(before, after map[string]float64) map[string]float64 {
	moved := map[string]float64{}
	for name, v := range after {
		if v != before[name] {
			moved[name] = v - before[name]
		}
	}
	return moved
}
