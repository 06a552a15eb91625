// SPDX-License-Identifier: Apache-2.0

package model

import (
	"errors"
	"testing"
)

func TestParseLimit(t *testing.T) {
	for text, want := range map[string]Limit{
		"none":     {},
		"20000000": {Rate: 20e6, Burst: leastBurst},
		"500kbit":  {Rate: 500e3, Burst: leastBurst},
		"100Mbit":  {Rate: 100e6, Burst: 2e6},
		"2gbit":    {Rate: 2e9, Burst: 40e6},
		"900tbit":  {Rate: 900e12, Burst: MaxBurst},
	} {
		if got, err := ParseLimit(text); err != nil || got != want {
			t.Errorf("%q is %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "0mbit", "mbit", "-1", "1.5gbit", "10mbps", "10m", " 1mbit", "1 mbit", "99999999tbit", "None"} {
		if got, err := ParseLimit(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q is %+v, %v, want a refusal", text, got, err)
		}
	}
}
