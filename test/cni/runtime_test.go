// SPDX-License-Identifier: Apache-2.0

// Package cni tries the CNI plugin as container runtimes drive it: with libcni, in
// namespaces, against the real daemon.
package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// debianPlugins is where Debian's containernetworking-plugins are.
const debianPlugins = "/usr/lib/cni"

// binaries is a directory with the programs as they ship, without the race detector.
// What is in TMPDIR goes with the tests.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "bin")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", dir, "github.com/fairlead-net/fairlead/cmd/fairlead", "github.com/fairlead-net/fairlead/cmd/fairlead-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return dir, nil
})

// runtime is a container runtime on the lab's host.
type runtime struct {
	*lab.Lab
	*libcni.CNIConfig
	plugins string
}

// newRuntime makes a lab with a runtime.
func newRuntime(t *testing.T, cfg lab.Config) *runtime {
	t.Helper()
	dir, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	r := &runtime{Lab: lab.New(t, cfg), plugins: dir}
	r.CNIConfig = libcni.NewCNIConfigWithCacheDir([]string{dir, debianPlugins}, r.Dir("cache"), onHost{r.Host, new(version.PluginDecoder)})
	return r
}

// onHost starts plugins in the host's namespaces.
type onHost struct {
	host *world.Host
	*version.PluginDecoder
}

// ExecPlugin implements [invoke.Exec].
func (e onHost) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdin, cmd.Env = bytes.NewReader(stdin), env
	r, err := e.host.RunCommand(cmd)
	if err != nil {
		return nil, err
	}
	if r.Code == 0 {
		return []byte(r.Stdout), nil
	}
	refusal := &types.Error{}
	if err := json.Unmarshal([]byte(r.Stdout), refusal); err != nil {
		return nil, fmt.Errorf("%s ended with status %d and no error of CNI's: %s", path, r.Code, r.Output())
	}
	return nil, refusal
}

// FindInPath implements [invoke.Exec].
func (e onHost) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// config is a part of a configuration.
type config map[string]any

// list makes the configuration of a network: the plugin with these keys, and then
// others.
func (r *runtime) list(version, name string, keys config, more ...config) *libcni.NetworkConfigList {
	r.Helper()
	own := config{"type": "fairlead-cni", "host": "unix://" + r.Socket(), "capabilities": config{
		"portMappings": true, "ips": true, "mac": true, "aliases": true,
	}}
	maps.Copy(own, keys)
	b, err := json.Marshal(config{"cniVersion": version, "name": name, "plugins": append([]config{own}, more...)})
	if err != nil {
		r.Fatal(err)
	}
	l, err := libcni.NetworkConfFromBytes(b)
	if err != nil {
		r.Fatal(err)
	}
	return l
}

// container is a namespace that a runtime made.
type container struct {
	*world.Host
	r    *runtime
	conf *libcni.RuntimeConf
	end  func() // takes the namespace away
}

// container makes one, with these capability arguments.
func (r *runtime) container(id string, capabilities config) *container {
	r.Helper()
	h, err := world.New(id)
	if err != nil {
		r.Fatal(err)
	}
	end := sync.OnceFunc(h.Close)
	r.Cleanup(end)
	return &container{h, r, &libcni.RuntimeConf{
		ContainerID: id, NetNS: h.NetNS(), IfName: "eth0", CapabilityArgs: capabilities,
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "pod-" + id}},
	}, end}
}

// as is the container with another interface.
func (c *container) as(ifName string) *container {
	conf := *c.conf
	conf.IfName = ifName
	return &container{c.Host, c.r, &conf, c.end}
}

func timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}

func (c *container) tryAdd(l *libcni.NetworkConfigList) (*current.Result, error) {
	ctx, cancel := timeout()
	defer cancel()
	r, err := c.r.AddNetworkList(ctx, l, c.conf)
	if err != nil {
		return nil, err
	}
	return current.NewResultFromResult(r)
}

// add joins the container to the network and returns the result.
func (c *container) add(l *libcni.NetworkConfigList) *current.Result {
	c.r.Helper()
	res, err := c.tryAdd(l)
	if err != nil {
		c.r.Fatalf("ADD %s %s to %s: %v", c.conf.ContainerID, c.conf.IfName, l.Name, err)
	}
	return res
}

// ip joins the container and returns its IPv4 address.
func (c *container) ip(l *libcni.NetworkConfigList) string {
	c.r.Helper()
	return c.add(l).IPs[0].Address.IP.String()
}

func (c *container) tryDel(l *libcni.NetworkConfigList) error {
	ctx, cancel := timeout()
	defer cancel()
	return c.r.DelNetworkList(ctx, l, c.conf)
}

func (c *container) del(l *libcni.NetworkConfigList) {
	c.r.Helper()
	if err := c.tryDel(l); err != nil {
		c.r.Errorf("DEL %s %s from %s: %v", c.conf.ContainerID, c.conf.IfName, l.Name, err)
	}
}

func (c *container) check(l *libcni.NetworkConfigList) error {
	ctx, cancel := timeout()
	defer cancel()
	return c.r.CheckNetworkList(ctx, l, c.conf)
}

// wantCode wants an error of the plugin's with a code.
func (r *runtime) wantCode(what string, err error, code uint) {
	r.Helper()
	var e *types.Error
	if !errors.As(err, &e) || e.Code != code {
		r.Errorf("%s: %v (%+v), want code %d", what, err, e, code)
	}
}

// sandboxes are the names of all there are.
func (r *runtime) sandboxes() string {
	r.Helper()
	return r.Fairlead("ps", "--all", "--format", "{{.Names}} {{.Networks}}")
}

// wantSandboxes wants these and no more, and as many endpoints.
func (r *runtime) wantSandboxes(want string, endpoints int) {
	r.Helper()
	if got := r.sandboxes(); got != want {
		r.Errorf("sandboxes:\n%s\nwant:\n%s", got, want)
	}
	if got := r.Devices("fairlead:endpoint:"); len(got) != endpoints {
		r.Errorf("devices %v, want %d", got, endpoints)
	}
}

// forget removes libcni's cache, as a host does that lost it.
func (r *runtime) forget() error { return os.RemoveAll(r.Dir("cache")) }

// NoError wants none.
func (r *runtime) NoError(what string, err error) {
	r.Helper()
	if err != nil {
		r.Errorf("%s: %v", what, err)
	}
}
