// SPDX-License-Identifier: Apache-2.0

package logonce

import (
	"errors"
	"testing"
)

func TestError(t *testing.T) {
	var e Error
	full, gone := errors.New("full"), errors.New("gone")
	for i, step := range []struct {
		err  error
		want bool
	}{{nil, false}, {full, true}, {errors.New("full"), false}, {gone, true}, {full, true}, {nil, false}, {full, true}} {
		if got := e.IsNew(step.err); got != step.want {
			t.Errorf("step %d, %v: new is %t", i, step.err, got)
		}
	}
}
