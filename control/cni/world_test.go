// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/fairlead-net/fairlead/test/attachtest"
)

var update = flag.Bool("update", false, "update the golden files")

// world is a plugin and its daemon.
type world struct {
	*testing.T
	Plugin
	*attachtest.Daemon
	stderr bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, Daemon: attachtest.New(t)}
	w.Plugin = Plugin{Dial: attachtest.Dial, Stderr: &w.stderr}
	return w
}

// keys are parts of a configuration.
type keys map[string]any

// conf returns the configuration of network "pods".
func (w *world) conf(more keys) []byte {
	w.Helper()
	all := keys{"cniVersion": "1.1.0", "name": "pods", "type": "fairlead-cni", "host": "unix://" + w.Socket}
	maps.Copy(all, more)
	b, err := json.Marshal(all)
	if err != nil {
		w.Fatal(err)
	}
	return b
}

// namespace returns the path of a namespace, which can be removed.
func (w *world) namespace(name string) string {
	w.Helper()
	return attachtest.Namespace(w.T, name)
}

// at returns an attachment as eth0.
func at(id, netns string) Attachment {
	return Attachment{ContainerID: id, NetNS: netns, IfName: "eth0"}
}

// add must succeed. It returns the result in the form for the runtime.
func (w *world) add(a Attachment, conf []byte) string {
	w.Helper()
	res, err := w.Add(w.Context(), a, conf)
	if err != nil {
		w.Fatalf("ADD: %v", err)
	}
	var b bytes.Buffer
	if err := res.PrintTo(&b); err != nil {
		w.Fatal(err)
	}
	return b.String()
}

// refused expects an error with a code and a text.
func (w *world) refused(err error, code uint, text string) {
	w.Helper()
	var e *types.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Msg, text) {
		w.Errorf("error %v (%+v)\nwant code %d and %q", err, e, code, text)
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}
