// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/loader/probe"
)

func TestDiagnosis(t *testing.T) {
	kernel := probe.Feature{Name: "kernel", OK: true, Required: true, Why: "Linux 6.1.0"}
	tcx := probe.Feature{Name: "tcx", Why: "tried", Consequence: "clsact instead."}
	bpffs := probe.Feature{Name: "bpffs", Required: true, Why: "not found", Consequence: "Mount it."}
	for _, test := range []struct {
		name string
		list []probe.Feature
		want string
	}{
		{"all available", []probe.Feature{kernel}, `Fairlead can work here. (Linux 6.1.0)

Available
  kernel: Linux 6.1.0
`},
		{"optional missing", []probe.Feature{kernel, tcx}, `Fairlead can work here; some optional features are missing. (Linux 6.1.0)

Optional, missing
  tcx: tried
    clsact instead.

Available
  kernel: Linux 6.1.0
`},
		{"required missing", []probe.Feature{kernel, tcx, bpffs}, `Fairlead cannot work here. (Linux 6.1.0)

Required, missing
  bpffs: not found
    Mount it.

Optional, missing
  tcx: tried
    clsact instead.

Available
  kernel: Linux 6.1.0
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := diagnosis(probe.Features{Release: "6.1.0", List: test.list})
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDoctorWithoutDaemon(t *testing.T) {
	var out bytes.Buffer
	if _, err := Report(t.Context(), &out, "unix://"+filepath.Join(t.TempDir(), "api.sock")); err != nil {
		t.Fatal(err)
	}
	for _, section := range []string{"\nDaemon\n  ", "\n  shaping: "} {
		if !strings.Contains(out.String(), section) {
			t.Errorf("no %q in:\n%s", section, &out)
		}
	}
}

func TestShaping(t *testing.T) {
	for _, tt := range []struct {
		err  error
		ok   bool
		text string
	}{
		{nil, true, "it works"},
		{&model.Refusal{Kind: model.ErrNotSupported, Text: "no"}, false, "sch_tbf"},
		{errors.New("EPERM"), false, "could not be tried (EPERM)"},
	} {
		got := shaping(tt.err)
		if got.OK != tt.ok || got.Required || !strings.Contains(got.Why, tt.text) || (got.Consequence == "") != tt.ok {
			t.Errorf("%v: %+v", tt.err, got)
		}
	}
}

func TestDoctorNamesBypassedRules(t *testing.T) {
	if got := bypassed(nil, nil); got != "" {
		t.Errorf("no rules: %q", got)
	}
	if got := bypassed([]string{"nft table ip filter, chain DOCKER-USER"}, nil); !strings.Contains(got, "\n  nft table ip filter, chain DOCKER-USER\n") {
		t.Errorf("a rule: %q", got)
	}
	if got := bypassed(nil, errors.New("no netlink")); !strings.Contains(got, "published ports: no netlink") {
		t.Errorf("an error: %q", got)
	}
}
