// SPDX-License-Identifier: Apache-2.0

package faces

import (
	"testing"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// cli is fairlead's own command line.
type cli struct {
	*lab.Lab
	made *made
}

func startCLI(t *testing.T) (*lab.Lab, face) {
	l := newLab(t, lab.Config{})
	l.StartDaemon()
	return l, cli{l, newMade()}
}

func (f cli) do(args ...string) (string, error) {
	return command(f.Host, f.Command, f.Binary, args...)
}

func (f cli) act(args ...string) error {
	_, err := f.do(args...)
	return err
}

func (f cli) createNetwork(n network) error {
	return f.act(append([]string{"network", "create"}, n.flags()...)...)
}

func (f cli) removeNetwork(name string) error { return f.act("network", "rm", name) }

func (f cli) run(c container) error {
	f.made.put(c)
	return f.act(append(append([]string{"run"}, c.flags()...), c.serve(peer)...)...)
}

// restart removes the sandbox and creates it again: there is no other way.
func (f cli) restart(name string) error {
	if err := f.remove(name); err != nil {
		return err
	}
	return f.run(f.made.get(name))
}

func (f cli) remove(name string) error { return f.act("rm", "-f", name) }

func (f cli) connect(network, name string) error {
	return f.act("network", "connect", network, name)
}

func (f cli) disconnect(network, name string) error {
	return f.act("network", "disconnect", network, name)
}

func (f cli) exec(name string, args ...string) (string, error) {
	return f.do(append([]string{"exec", name, peer}, args...)...)
}

func (f cli) netns(name string) (string, error) {
	return f.do("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name)
}

func (f cli) id(name string) (string, error) { return f.do("inspect", "--format", "{{.Id}}", name) }

func (f cli) ports(name string) (string, error) { return f.do("port", name) }

func (f cli) published(name string) (string, error) { return f.ports(name) }

func (f cli) kill() { f.KillDaemon() }

// on runs a program on a host.
func on(h *world.Host, name string, args ...string) (string, error) {
	return command(h, world.Command, name, args...)
}
