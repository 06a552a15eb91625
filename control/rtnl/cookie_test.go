// SPDX-License-Identifier: Apache-2.0

package rtnl

import "testing"

func TestNetNSCookieIsTheNamespaces(t *testing.T) {
	first, err := NetNSCookie()
	if err != nil {
		t.Fatal(err)
	}
	second, err := NetNSCookie()
	if err != nil {
		t.Fatal(err)
	}
	if first != second || first == 0 {
		t.Errorf("cookies %d and %d of one namespace", first, second)
	}
}
