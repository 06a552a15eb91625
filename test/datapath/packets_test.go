// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"
	"testing"
)

// subject is a group of cases that belong together.
type subject struct {
	name  string
	cases func() []testCase
}

// packets lists the subjects whose cases check single packets.
func packets() []subject {
	return []subject{
		{"Fragments", fragmentCases},
		{"Headers", headerCases},
		{"Truncated", truncatedCases},
		{"OwnErrors", ownErrorCases},
		{"ForeignErrors", foreignErrorCases},
		{"Bridge", bridgeCases},
		{"Shaped", shapedCases},
		{"Ethertypes", ethertypeCases},
		{"ARP", arpCases},
		{"ND", ndCases},
		{"Isolation", isolationCases},
		{"Gateway", gatewayCases},
		{"Outside", outsideCases},
		{"Direct", directCases},
		{"Masquerade", masqueradeCases},
		{"FixedPorts", fixedPortCases},
		{"OwnPorts", ownPortCases},
		{"PublishOutside", publishOutsideCases},
		{"PublishMembers", publishMembersCases},
		{"Sources", sourceCases},
		{"Router", routerCases},
		{"Tuples", tupleCases},
		{"ICMPFlows", icmpFlowCases},
		{"HostAddresses", hostAddressCases},
		{"Xlat", xlatCases},
		{"Decisions", decisionCases},
	}
}

// flows lists the subjects that check the flow tables, or need what only this kernel has.
func flows() []subject {
	return []subject{
		{"ChecksumComplete", checksumCompleteCases},
		{"Expiry", expiryCases},
		{"Recycled", recycledCases},
		{"HostSockets", hostSocketCases},
		{"AddressReused", addressReusedCases},
		{"Drills", drillCases},
	}
}

// TestPackets runs the cases with the programs exactly as they ship, configured for this
// kernel, and with programs that record where they redirect to, configured for an old one.
// One world serves all cases of a variant: loading it takes longer than the cases.
func TestPackets(t *testing.T) {
	t.Run("shipped", func(t *testing.T) {
		runSubjects(t, newWorld(t, config{vars: featureVars()}), slices.Concat(packets(), flows()))
	})
	t.Run("noting", func(t *testing.T) {
		runSubjects(t, newWorld(t, config{vars: cachedAtOnce(), noteRedirects: true}), packets())
	})
}

func runSubjects(t *testing.T, w *world, subjects []subject) {
	t.Helper()
	for _, s := range subjects {
		t.Run(s.name, func(t *testing.T) { runIn(t, w, s.cases()) })
	}
}
