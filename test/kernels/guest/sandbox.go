// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/client"
)

// sandbox is where a sandbox's programs run. They are entered without a command of Fairlead for each, whose start takes half a
// second of a processor in an emulator.
type sandbox struct {
	name, path string // of its network namespace
	ip4, ip6   string // in its only network; "": none
}

// entered finds a sandbox of the daemon in the default directories.
func entered(name string) (sandbox, error) { return enteredAt(api.DefaultHost, name) }

// enteredAt finds a sandbox of another daemon.
func enteredAt(host, name string) (sandbox, error) {
	c, err := client.New(host)
	if err != nil {
		return sandbox{}, err
	}
	found, err := c.Sandbox(context.Background(), name)
	if err != nil {
		return sandbox{}, fmt.Errorf("inspect sandbox %s: %w", name, err)
	}
	s := sandbox{name: name, path: found.NetworkSettings.SandboxKey}
	for _, e := range found.NetworkSettings.Networks {
		s.ip4, s.ip6 = e.IPAddress, e.GlobalIPv6Address
	}
	return s, nil
}

// ask queries a service from the sandbox.
func (s sandbox) ask(protocol, addr string) (answer string, err error) {
	err = inNamespace(s.path, func() error {
		answer, err = ask(protocol, addr)
		return err
	})
	return answer, err
}

// ping runs ping in the sandbox, which must succeed.
func (s sandbox) ping(args ...string) error {
	return inNamespace(s.path, func() error {
		var out bytes.Buffer
		cmd := exec.Command("ping", args...)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("ping %s from %s: %w: %s", strings.Join(args, " "), s.name, err, out.Bytes())
		}
		return nil
	})
}
