// SPDX-License-Identifier: Apache-2.0

// Package loader brings the datapath into the kernel and keeps it there:
// loading with the configuration as read-only data, feature probes, attaching,
// replacing without a gap, and the layout of the bpffs directory.
//
// Everything the kernel must keep while no daemon runs is pinned:
//
//	maps/<map>               tables, reused for as long as they are compatible
//	progs-<hash>/<program>   the programs of one version and configuration
//	links/<hook>-<ifindex>   tcx attachments
//	links/cgroup-<program>   attachments to the cgroup
//	filters/<hook>-<ifindex> the program of a clsact filter (kernels before 6.6)
//
// So a daemon with no memory recognises what is its own, and takes it over
// untouched if it is what it would have loaded itself.
package loader

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/bpf"
)

// Config says how to load the datapath.
type Config struct {
	// BPFDir is the directory of this datapath's pins, for example
	// /sys/fs/bpf/fairlead. Required, absolute. It is made if it is missing.
	BPFDir string
	// CgroupRoot is the cgroup whose processes reach published ports through
	// the host's addresses. Empty: where cgroup2 is mounted.
	CgroupRoot string
	// ForceClsact attaches with clsact filters even if the kernel has tcx.
	ForceClsact bool
	// NetnsCookie identifies the network namespace the datapath serves. Zero:
	// that of the calling thread.
	NetnsCookie uint64
	// SNATMin and SNATMax are the ports a masqueraded flow may be moved to when
	// its own is taken, inclusive. Both zero: 32768 to 60999.
	SNATMin, SNATMax uint16
	// CTMax is the number of entries for confirmed flows, two a flow; a quarter
	// of it for unconfirmed ones. Zero: 524288.
	CTMax uint32
	// MaxEndpoints bounds the endpoints, host ports included. Zero: 16384.
	MaxEndpoints uint32
	// MaxPublishes bounds the published ports. Zero: 131072.
	MaxPublishes uint32
	// Timeouts is when idle flows are forgotten.
	Timeouts Timeouts
	// Log is told about what was adopted, loaded or lost. Nil: nobody.
	Log *slog.Logger
}

// Timeouts is the idle time after which a flow of each state is forgotten, in
// full seconds. Zero: the default of the kernel's own nf_conntrack.
type Timeouts struct {
	SynSent, SynRecv, Established, FinWait, LastAck, TimeWait, Close time.Duration // TCP

	UDPNew     time.Duration // no reply yet
	UDPReplied time.Duration // both directions seen
	UDPStream  time.Duration // for longer than two seconds
	ICMP       time.Duration
	Other      time.Duration // any other protocol
}

// Set sets the timeout of a state by its name in listings of flows
// (established, udp_stream, …).
func (t *Timeouts) Set(state string, d time.Duration) error {
	fields := map[string]*time.Duration{
		"syn_sent": &t.SynSent, "syn_recv": &t.SynRecv, "established": &t.Established, "fin_wait": &t.FinWait,
		"last_ack": &t.LastAck, "time_wait": &t.TimeWait, "close": &t.Close,
		"udp_new": &t.UDPNew, "udp_replied": &t.UDPReplied, "udp_stream": &t.UDPStream, "icmp": &t.ICMP, "other": &t.Other,
	}
	field, ok := fields[state]
	if !ok {
		return fmt.Errorf("no flow is ever in state %q (want one of %s)", state, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
	}
	if d < time.Second || d > math.MaxInt32*time.Second {
		return fmt.Errorf("timeout %s of flow state %s is out of range (want 1s or more)", d, state)
	}
	*field = d
	return nil
}

func (t Timeouts) byState() map[bpf.TCCtState]time.Duration {
	return map[bpf.TCCtState]time.Duration{
		bpf.TCCtStateCT_SYN_SENT:    t.SynSent,
		bpf.TCCtStateCT_SYN_RECV:    t.SynRecv,
		bpf.TCCtStateCT_ESTABLISHED: t.Established,
		bpf.TCCtStateCT_FIN_WAIT:    t.FinWait,
		bpf.TCCtStateCT_LAST_ACK:    t.LastAck,
		bpf.TCCtStateCT_TIME_WAIT:   t.TimeWait,
		bpf.TCCtStateCT_CLOSE:       t.Close,
		bpf.TCCtStateCT_UDP_NEW:     t.UDPNew,
		bpf.TCCtStateCT_UDP_REPLIED: t.UDPReplied,
		bpf.TCCtStateCT_UDP_STREAM:  t.UDPStream,
		bpf.TCCtStateCT_ICMP:        t.ICMP,
		bpf.TCCtStateCT_OTHER:       t.Other,
	}
}

func (c *Config) validate() error {
	if !filepath.IsAbs(c.BPFDir) || filepath.Clean(c.BPFDir) == "/" {
		return fmt.Errorf("bpf directory %q is not an absolute path of a directory of its own (give one below /sys/fs/bpf)", c.BPFDir)
	}
	c.BPFDir = filepath.Clean(c.BPFDir)
	if (c.SNATMin == 0) != (c.SNATMax == 0) || c.SNATMin > c.SNATMax {
		return fmt.Errorf("port range %d-%d for masquerading is empty or begins at 0 (want A-B, from 1 to 65535)", c.SNATMin, c.SNATMax)
	}
	for state, d := range c.Timeouts.byState() {
		if d < 0 || (d > 0 && d < time.Second) || d > 1<<31*time.Second {
			return fmt.Errorf("timeout %s of flow state %d is out of range (want 1s or more)", d, state)
		}
	}
	if c.CTMax != 0 && c.CTMax < 16 {
		return fmt.Errorf("a conntrack table of %d entries is too small (want 16 or more)", c.CTMax)
	}
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	return nil
}
