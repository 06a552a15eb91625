// SPDX-License-Identifier: Apache-2.0

package faces

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// face is one way to have containers in networks.
type face interface {
	createNetwork(n network) error
	removeNetwork(name string) error
	// run makes a container and starts it.
	run(c container) error
	restart(name string) error
	remove(name string) error
	connect(network, name string) error
	disconnect(network, name string) error
	// exec runs a program in the container, in its file system.
	exec(name string, args ...string) (string, error)
	// netns is the path of a container's network namespace as the host sees it.
	netns(name string) (string, error)
	id(name string) (string, error)
	// ports are what the face shows of a container's published ports, in the form of
	// docker port; published are those that there are.
	ports(name string) (string, error)
	published(name string) (string, error)
	// kill kills the daemon that looks after the network.
	kill()
}

// errLacks is what a face answers to what it has no words for.
var errLacks = errors.New("n/a")

// column is a face with its name in the table.
type column struct {
	name  string
	start func(t *testing.T) (*lab.Lab, face)
}

// columns are all faces; the first is the reference.
var columns = []column{
	{"docker", engine20.bridge},
	{"docker + fairlead", engine20.fairlead},
	{"docker 29", engine29.bridge},
	{"docker 29 + fairlead", engine29.fairlead},
	{"podman 4", startPodman4},
	{"podman 5", startPodman5},
	{"CNI", startLibcni},
	{"CRI", startCRI},
	{"fairlead", startCLI},
}

// network says what one is to be like. Its gateway is the first address.
type network struct {
	name             string
	subnet4, subnet6 string
	internal, apart  bool // apart: its members do not reach each other
	mtu              int
}

// flags are those of docker's and fairlead's network create.
func (n network) flags() []string {
	args := []string{"--subnet", n.subnet4, "--ipv6", "--subnet", n.subnet6}
	if n.internal {
		args = append(args, "--internal")
	}
	if n.apart {
		args = append(args, "-o", "com.docker.network.bridge.enable_icc=false")
	}
	if n.mtu > 0 {
		args = append(args, "-o", fmt.Sprint("com.docker.network.driver.mtu=", n.mtu))
	}
	return append(args, n.name)
}

// container says what one is to be like. It serves on its ports.
type container struct {
	name, network, ip, mac string
	aliases, publish       []string
	ports                  []string
}

// flags are those of docker's, podman's and fairlead's run.
func (c container) flags() []string {
	args := []string{"-d", "--name", c.name, "--network", c.network}
	if c.ip != "" {
		args = append(args, "--ip", c.ip)
	}
	if c.mac != "" {
		args = append(args, "--mac-address", c.mac)
	}
	for _, a := range c.aliases {
		args = append(args, "--network-alias", a)
	}
	for _, p := range c.publish {
		args = append(args, "-p", p)
	}
	return args
}

// serve is the command of the container; peer is the program's path there.
func (c container) serve(peer string) []string {
	ports := c.ports
	if len(ports) == 0 {
		ports = []string{"80"}
	}
	return append([]string{peer, "serve", c.name}, ports...)
}

// made are the containers that a face made which does not remember them itself.
type made struct {
	mu     sync.Mutex
	byName map[string]container
}

func newMade() *made { return &made{byName: map[string]container{}} }

func (m *made) put(c container) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byName[c.name] = c
}

func (m *made) get(name string) container {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.byName[name]
}

// must ends the test with an error.
func must[T any](l *lab.Lab) func(T, error) T {
	return func(v T, err error) T {
		l.Helper()
		if err != nil {
			l.Fatal(err)
		}
		return v
	}
}

// patience is for one command.
const patience = time.Minute

// command runs a program on a host and returns what it wrote to stdout, without the
// last newline; an error holds all its output.
func command(h *world.Host, prepare func(context.Context, string, ...string) *exec.Cmd, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := h.RunCommand(prepare(ctx, name, args...))
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%s %s: status %d: %s", filepath.Base(name), strings.Join(args, " "), r.Code, strings.TrimSpace(r.Output()))
	}
	return strings.TrimSuffix(r.Stdout, "\n"), err
}
