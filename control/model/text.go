// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"strings"
)

// ShortIDLen is the number of digits of the short form of an ID.
const ShortIDLen = 12

// ShortID returns the form of an ID that is shown to people.
func ShortID(id string) string { return id[:min(ShortIDLen, len(id))] }

// AddrText returns an address as text, or "" for the zero Addr.
func AddrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// OneLine returns the text of an error, which may be joined from several, without line breaks.
func OneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
