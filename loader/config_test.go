// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bpf"
)

func TestTimeoutsByName(t *testing.T) {
	var all Timeouts
	names := []string{"syn_sent", "syn_recv", "established", "fin_wait", "last_ack", "time_wait", "close",
		"udp_new", "udp_replied", "udp_stream", "icmp", "other"}
	for i, name := range names {
		if err := all.Set(name, time.Duration(i+1)*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[time.Duration]bool{}
	for state, d := range all.byState() {
		if d == 0 || seen[d] {
			t.Errorf("state %d has timeout %v: no name sets it, or two states share one", state, d)
		}
		seen[d] = true
	}
	if len(seen) != int(bpf.TCCtStateCT_STATE_MAX) {
		t.Errorf("%d states have a name, the datapath has %d", len(seen), bpf.TCCtStateCT_STATE_MAX)
	}
	for _, bad := range []struct {
		state string
		d     time.Duration
		want  string
	}{
		{"ESTABLISHED", time.Second, "want one of close, established"},
		{"icmp", time.Millisecond, "out of range"},
		{"icmp", -time.Second, "out of range"},
	} {
		if err := all.Set(bad.state, bad.d); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("Set(%q, %v) = %v, want %q", bad.state, bad.d, err, bad.want)
		}
	}
}

func TestParsePortRange(t *testing.T) {
	for text, ok := range map[string]bool{
		"1-65535": true, "40000-40000": true,
		"5-4": false, "0-4": false, "4": false, "4-": false, "-4": false, "1-65536": false, "1-2-3": false, "": false,
	} {
		r, err := ParsePortRange(text)
		if (err == nil) != ok || ok && r.String() != text {
			t.Errorf("ParsePortRange(%q) = %v, %v", text, r, err)
		}
	}
}
