// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/bench/vm/guest"
	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/control/model"
)

const (
	limited = "limited" // the sandbox
	// twoTicks is long enough for the daemon to check everything.
	twoTicks = 4500 * time.Millisecond
)

// limits checks that a sandbox with limits is refused, without leftovers, while the kernel
// does not have tbf, and that it otherwise has limits that the daemon accepts as correct.
func (w *world) limits() error {
	client, err := client.New(api.DefaultHost)
	if err != nil {
		return err
	}
	limit := model.Limit{Rate: 20_000_000, Burst: 400_000}
	create := func() error {
		_, err := client.CreateSandbox(context.Background(), limited, api.NewSandboxCreate(model.SandboxSpec{
			NetworkMode: "lab", Endpoint: model.EndpointSpec{Bandwidth: model.Bandwidth{Ingress: limit, Egress: limit}},
		}))
		return err
	}
	before, err := devices()
	if err != nil {
		return err
	}
	if err := create(); !errors.Is(err, model.ErrNotSupported) || !strings.Contains(err.Error(), "sch_tbf") {
		return fmt.Errorf("limits without tbf: %v, want a refusal that names the module", err)
	}
	if err := same(before); err != nil {
		return fmt.Errorf("after a refusal: %w", err)
	}
	if err := guest.LoadModules("/late"); err != nil {
		return err
	}
	if err := create(); err != nil {
		return err
	}
	time.Sleep(twoTicks)
	status, err := client.Status(context.Background())
	if err != nil {
		return err
	}
	if n := status.Repairs["device"]; n != 0 {
		return fmt.Errorf("%d devices with limits were repaired, want none", n)
	}
	made, err := devices()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(made, func(line string) bool { return strings.HasSuffix(line, " tbf") }) {
		return fmt.Errorf("no device has a tbf: %q", made)
	}
	if _, err := fairlead("rm -f " + limited); err != nil {
		return err
	}
	return same(before)
}

// same checks that the host has exactly these devices, and that the sandbox does not exist.
func same(before []string) error {
	after, err := devices()
	if err != nil {
		return err
	}
	if gone, left := difference(before, after); len(gone)+len(left) > 0 {
		return fmt.Errorf("devices left %q, removed %q", left, gone)
	}
	if _, err := fairlead("inspect " + limited); err == nil {
		return errors.New("the sandbox is still there")
	}
	return nil
}
