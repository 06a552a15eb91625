// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"strings"
	"testing"
)

func TestAddrRange(t *testing.T) {
	for _, tc := range []struct{ text, want, in, out string }{
		{"10.0.0.0/24", "10.0.0.0/24", "10.0.0.255", "10.0.1.0"},
		{"10.0.0.0-10.0.0.255", "10.0.0.0/24", "10.0.0.0", "9.255.255.255"},
		{"10.0.0.1-10.0.0.255", "10.0.0.1-10.0.0.255", "10.0.0.1", "10.0.0.0"},
		{"10.0.0.7-10.0.0.7", "10.0.0.7/32", "10.0.0.7", "10.0.0.8"},
		{"::ffff:10.0.0.7-10.0.0.9", "10.0.0.7-10.0.0.9", "10.0.0.8", "::a00:8"},
		{"0.0.0.0/0", "0.0.0.0/0", "255.255.255.255", "::1"},
		{"fd00::10-fd00::1f", "fd00::10/124", "fd00::1f", "fd00::20"},
		{"fd00::-fd00::1:0", "fd00::-fd00::1:0", "fd00::1:0", "fd00::1:1"},
	} {
		r, err := ParseAddrRange(tc.text)
		if err != nil || r.String() != tc.want || !r.Contains(netip.MustParseAddr(tc.in)) || r.Contains(netip.MustParseAddr(tc.out)) {
			t.Errorf("%s: %v, %v; want %s with %s and without %s", tc.text, r, err, tc.want, tc.in, tc.out)
		}
		var again AddrRange
		text, _ := r.MarshalText()
		if err := again.UnmarshalText(text); err != nil || again != r {
			t.Errorf("%s becomes %v, %v", r, again, err)
		}
	}
	for text, want := range map[string]string{
		"10.0.0.1/24": "should be 10.0.0.0/24", "10.0.0.9-10.0.0.1": "ends before it begins", "10.0.0.1": "want ADDRESS/LENGTH or FIRST-LAST",
		"10.0.0.1-fd00::1": "want", "x-10.0.0.1": "want", "10.0.0.1-": "want", "fe80::1%a-fe80::2%a": "want",
	} {
		if r, err := ParseAddrRange(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %q", text, r, err, want)
		}
	}
	if (AddrRange{}).Contains(netip.Addr{}) || (AddrRange{}).String() != "" {
		t.Error("the zero range contains an address, or has a text")
	}
}
