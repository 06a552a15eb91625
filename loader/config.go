// SPDX-License-Identifier: Apache-2.0

// Package loader loads the datapath into the kernel: it writes the configuration to
// read-only data, probes for kernel features, attaches programs, replaces them
// without a gap, and defines the layout of the bpffs directory.
//
// Everything that must survive the daemon is pinned:
//
//	maps/<map>               tables, reused for as long as they are compatible
//	progs-<hash>/<program>   the programs of one version and configuration
//	links/<hook>-<ifindex>   tcx attachments
//	links/cgroup-<program>   attachments to the cgroup
//	filters/<hook>-<ifindex> the program of a clsact filter (kernels before 6.6)
//
// So a restarted daemon needs no other state to find its objects, and adopts them
// unchanged if they are what it would have loaded itself.
package loader

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/bpf"
)

// Config is the configuration of the datapath.
type Config struct {
	// BPFDir is the directory of this datapath's pins, for example
	// /sys/fs/bpf/fairlead. Required, absolute. It is created if it does not exist.
	BPFDir string
	// CgroupRoot is the cgroup whose processes can reach published ports through
	// the host's addresses. Empty: the root cgroup.
	CgroupRoot string
	// ForceClsact attaches with clsact filters even if the kernel has tcx.
	ForceClsact bool
	// NetnsCookie identifies the network namespace of the datapath, whose sockets its programs
	// serve. Required.
	NetnsCookie uint64
	// SNATPorts are the source ports that a masqueraded flow gets if its own is in use.
	// The zero PortRange: 32768 to 60999.
	SNATPorts PortRange
	// CTMax is the number of entries for confirmed flows, two per flow; unconfirmed
	// flows get a quarter of it. Zero: 524288.
	CTMax uint32
	// MaxEndpoints is the maximum number of endpoints, including host ports. Zero: 16384.
	MaxEndpoints uint32
	// MaxPublishes is the maximum number of published ports. Zero: 131072.
	MaxPublishes uint32
	// VXLANPort is the UDP port of the tunnels to other nodes. Zero: there is no overlay, and
	// other traffic does not pay for one.
	VXLANPort uint16
	// MaxPeers is the maximum number of members of networks on other nodes. Zero: 131072.
	MaxPeers uint32
	// CacheAfter is the datagram of a direction of a UDP flow from which on its decision is cached
	// (docs/datapath.md). Zero: 4. Negative: nothing is cached.
	CacheAfter int
	// Timeouts is when idle flows expire.
	Timeouts Timeouts
	// Log receives what was adopted, loaded or lost. Nil: discard.
	Log *slog.Logger
}

// PortRange is a range of ports that is not empty, or the zero PortRange.
type PortRange struct {
	min, max uint16 // both inclusive
}

// ParsePortRange parses a range of the form A-B.
func ParsePortRange(text string) (PortRange, error) {
	lo, hi, _ := strings.Cut(text, "-")
	from, errFrom := strconv.ParseUint(lo, 10, 16)
	to, errTo := strconv.ParseUint(hi, 10, 16)
	if errFrom != nil || errTo != nil || from == 0 || to < from {
		return PortRange{}, errors.New("want A-B, from 1 to 65535")
	}
	return PortRange{uint16(from), uint16(to)}, nil
}

// String returns the form that ParsePortRange parses.
func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.min, r.max) }

// Timeouts is the idle time after which a flow of each state expires, in full
// seconds. Zero: the default of nf_conntrack.
type Timeouts struct {
	synSent, synRecv, established, finWait, lastAck, timeWait, close time.Duration // TCP

	udpNew     time.Duration // no reply yet
	udpReplied time.Duration // both directions seen
	udpStream  time.Duration // for longer than two seconds
	icmp       time.Duration
	other      time.Duration // any other protocol
}

// Set sets the timeout of a state, given by its name in listings of flows
// (established, udp_stream, …).
func (t *Timeouts) Set(state string, d time.Duration) error {
	fields := map[string]*time.Duration{
		"syn_sent": &t.synSent, "syn_recv": &t.synRecv, "established": &t.established, "fin_wait": &t.finWait,
		"last_ack": &t.lastAck, "time_wait": &t.timeWait, "close": &t.close,
		"udp_new": &t.udpNew, "udp_replied": &t.udpReplied, "udp_stream": &t.udpStream, "icmp": &t.icmp, "other": &t.other,
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
		bpf.TCCtStateCT_SYN_SENT:    t.synSent,
		bpf.TCCtStateCT_SYN_RECV:    t.synRecv,
		bpf.TCCtStateCT_ESTABLISHED: t.established,
		bpf.TCCtStateCT_FIN_WAIT:    t.finWait,
		bpf.TCCtStateCT_LAST_ACK:    t.lastAck,
		bpf.TCCtStateCT_TIME_WAIT:   t.timeWait,
		bpf.TCCtStateCT_CLOSE:       t.close,
		bpf.TCCtStateCT_UDP_NEW:     t.udpNew,
		bpf.TCCtStateCT_UDP_REPLIED: t.udpReplied,
		bpf.TCCtStateCT_UDP_STREAM:  t.udpStream,
		bpf.TCCtStateCT_ICMP:        t.icmp,
		bpf.TCCtStateCT_OTHER:       t.other,
	}
}

func (c *Config) validate() error {
	if !filepath.IsAbs(c.BPFDir) || filepath.Clean(c.BPFDir) == "/" {
		return fmt.Errorf("bpf directory %q is not an absolute path of a directory of its own (give one below /sys/fs/bpf)", c.BPFDir)
	}
	c.BPFDir = filepath.Clean(c.BPFDir)
	if c.NetnsCookie == 0 {
		return errors.New("the network namespace of the datapath is not given")
	}
	if c.CTMax != 0 && c.CTMax < 16 {
		return fmt.Errorf("a conntrack table of %d entries is too small (want 16 or more)", c.CTMax)
	}
	if c.CacheAfter > math.MaxUint8 {
		return fmt.Errorf("cannot cache after %d packets (want at most %d)", c.CacheAfter, math.MaxUint8)
	}
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	return nil
}
