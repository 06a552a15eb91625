// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
)

// The manager of a stored sandbox follows from its record, and is stored as it was.
func TestStoredManager(t *testing.T) {
	for text, want := range map[string]model.Manager{
		`{"network_mode":"bridge","netns":"/n","owned":true,"labels":{"fairlead.cni.container":"c"}}`: model.ByFairlead,
		`{"network_mode":"host"}`:                                                        model.ByFairlead,
		`{"network_mode":"container:1","netns":"/n"}`:                                    model.ByFairlead,
		`{"network_mode":"bridge","netns":"/n"}`:                                         model.ByUser,
		`{"network_mode":"n","netns":"/n","labels":{"fairlead.cni.container":"c"}}`:      model.ByRuntime,
		`{"network_mode":"n","netns":"/n","labels":{"fairlead.netavark.container":"c"}}`: model.ByRuntime,
		`{"network_mode":"n","netns":"/n","labels":{"fairlead.cni.network":"c"}}`:        model.ByUser,
		`{"network_mode":"n","netns":"/n","foreign":true}`:                               model.ByEngine,
	} {
		sb, err := readSandbox([]byte(text))
		if err != nil || sb.ManagedBy != want {
			t.Errorf("%s: managed by %v, %v, want %v", text, sb.ManagedBy, err, want)
		}
		var was, is map[string]any
		again, err := json.Marshal(sandboxRecordOf(sb))
		for _, err := range []error{err, json.Unmarshal([]byte(text), &was), json.Unmarshal(again, &is)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, key := range []string{"owned", "foreign", "managed_by"} {
			if was[key] != is[key] {
				t.Errorf("%s: stored again as %s", text, again)
			}
		}
	}
}

// An endpoint's default routes follow from its record, and are stored as they were.
func TestStoredDefaultRoute(t *testing.T) {
	for text, want := range map[string][2]bool{
		`{"order":1}`:                             {false, false},
		`{"order":1,"gateway":true}`:              {true, true},
		`{"order":1,"gateway":true,"only4":true}`: {true, false},
	} {
		ep, err := readEndpoint([]byte(text))
		if err != nil || ep.DefaultRoute(model.V4) != want[0] || ep.DefaultRoute(model.V6) != want[1] {
			t.Errorf("%s: default routes %t, %t, %v, want %t", text, ep.DefaultRoute4, ep.DefaultRoute6, err, want)
		}
		again, err := json.Marshal(endpointRecordOf(ep))
		if err != nil || !strings.HasSuffix(string(again), text[1:]) {
			t.Errorf("%s: stored again as %s, %v", text, again, err)
		}
	}
}
