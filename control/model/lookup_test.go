// SPDX-License-Identifier: Apache-2.0

package model

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckAliases(t *testing.T) {
	for alias, want := range map[string]string{
		"web": "", "a": "", "_x.Y-z.1": "", "*.app": "", "*.x.app": "", strings.Repeat("a", 253): "",
		"": "is not a name", ".a": "is not a name", "-a": "is not a name", "a b": "is not a name", "ä": "is not a name", strings.Repeat("a", 254): "is not a name",
		"*": "write *.NAME", "*.": "write *.NAME", "*app": "write *.NAME", "x.*": "write *.NAME", "x.*.app": "write *.NAME", "*.*.app": "write *.NAME",
		"*.-app": "write *.NAME", "x*.app": "write *.NAME", "*.." + "app": "write *.NAME",
	} {
		err := CheckAliases([]string{"ok", alias})
		if (err == nil) != (want == "") || err != nil && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want)) {
			t.Errorf("alias %q: %v, want %q", alias, err, want)
		}
	}
}
