// SPDX-License-Identifier: Apache-2.0

package load

import (
	"slices"
	"testing"
	"time"
)

// The last ones take eight times as long, and a stall among them does not count.
func TestKept(t *testing.T) {
	us := func(list ...time.Duration) (l Latencies) {
		for _, d := range list {
			l = append(l, d*time.Microsecond)
		}
		return l
	}
	times := us(10, 12, 11, 500, 20, 90_000, 88, 80)
	before := slices.Clone(times)
	if got := times.kept(3); got != 11.0/88 {
		t.Errorf("kept %v, want %v", got, 11.0/88)
	}
	if !slices.Equal(times, before) {
		t.Errorf("the times are %v now", times)
	}
}
