// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/attach"
	"github.com/fairlead-net/fairlead/control/controller"
	"github.com/fairlead-net/fairlead/control/controller/controllertest"
	"github.com/fairlead-net/fairlead/control/store"
)

var update = flag.Bool("update", false, "write the golden files anew")

// world is a plugin and the daemon it talks to: a controller without a kernel,
// behind the real API and its socket.
type world struct {
	*testing.T
	Plugin
	*controller.Controller
	socket string
	stderr bytes.Buffer
	broken error // what a check of a sandbox finds
}

func (w *world) Status(context.Context) (api.Status, error)                { return api.Status{}, nil }
func (w *world) CheckSandbox(context.Context, string) error                { return w.broken }
func (w *world) Flows(context.Context, api.FlowFilter) ([]api.Flow, error) { return nil, nil }

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "cni") // short, for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	st, err := store.OpenBolt(store.BoltConfig{Path: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	w := &world{T: t, socket: filepath.Join(dir, "sock")}
	w.Plugin = Plugin{Dial: func(host string) (attach.Daemon, error) { return api.NewClient(host) }, Stderr: &w.stderr}
	if w.Controller, err = controller.New(controller.Config{Store: st, Kernel: controllertest.Kernel{Busy: 22}, RunDir: dir}); err != nil {
		t.Fatal(err)
	}
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- api.NewServer(api.Config{Backend: w, RunDir: dir, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, l)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return w
}

// keys are a part of a configuration.
type keys map[string]any

// conf is the configuration of network "pods".
func (w *world) conf(more keys) []byte {
	w.Helper()
	all := keys{"cniVersion": "1.1.0", "name": "pods", "type": "fairlead-cni", "host": "unix://" + w.socket}
	maps.Copy(all, more)
	b, err := json.Marshal(all)
	if err != nil {
		w.Fatal(err)
	}
	return b
}

// namespace is a path of one, which can be removed.
func (w *world) namespace(name string) string {
	w.Helper()
	path := filepath.Join(w.TempDir(), name)
	if err := os.Symlink("/proc/self/ns/net", path); err != nil {
		w.Fatal(err)
	}
	return path
}

// at is an attachment as eth0.
func at(id, netns string) Attachment {
	return Attachment{ContainerID: id, NetNS: netns, IfName: "eth0"}
}

// add must succeed; it returns the result as the runtime gets it.
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

// refused wants an error with a code and a text.
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

// names are those of the sandboxes.
func (w *world) names() string {
	var names []string
	for _, sb := range w.Snapshot().Sandboxes {
		names = append(names, sb.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
