// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// limitFlags are the rates of an interface.
type limitFlags struct{ in, out string }

// register adds the flags. otherwise is what happens without them.
func (o *limitFlags) register(f *pflag.FlagSet, otherwise string) {
	f.StringVar(&o.in, "bandwidth-in", "", "limit of what the sandbox receives, in bits per second, like 100mbit ("+otherwise+")")
	f.StringVar(&o.out, "bandwidth-out", "", "limit of what the sandbox sends ("+otherwise+")")
}

// parse returns the limits; nil: not given.
func (o *limitFlags) parse() (in, out *model.Limit, err error) {
	if in, err = parseLimit("--bandwidth-in", o.in); err == nil {
		out, err = parseLimit("--bandwidth-out", o.out)
	}
	return in, out, err
}

func parseLimit(flag, text string) (*model.Limit, error) {
	if text == "" {
		return nil, nil
	}
	l, err := model.ParseLimit(text)
	if err != nil {
		return nil, usagef("%s: %v", flag, err)
	}
	return &l, nil
}

// ofNew returns the limits of a new interface.
func (o *limitFlags) ofNew() (b model.Bandwidth, err error) {
	in, out, err := o.parse()
	for _, l := range []*model.Limit{in, out} {
		if l != nil && l.IsZero() {
			return b, usagef("rate none is for interfaces that exist (leave it out, and remove the network's limit later with: fairlead update SANDBOX)")
		}
	}
	if in != nil {
		b.Ingress = *in
	}
	if out != nil {
		b.Egress = *out
	}
	return b, err
}

func newUpdateCommand(e *env) *cobra.Command {
	var o limitFlags
	var network string
	cmd := &cobra.Command{
		Use:   "update [flags] SANDBOX",
		Short: "Change the bandwidth limits of a running sandbox",
		Example: `  fairlead update web --bandwidth-out 200mbit
  fairlead update web --network shop --bandwidth-in none`,
		Args:              exactArgs("SANDBOX"),
		ValidArgsFunction: completeSandboxes(e, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, out, err := o.parse()
			if err != nil {
				return err
			}
			if in == nil && out == nil {
				return usagef("nothing to change (give --bandwidth-in or --bandwidth-out)")
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			return c.SetBandwidth(cmd.Context(), args[0], api.BandwidthChange{Network: network, Ingress: (*api.Limit)(in), Egress: (*api.Limit)(out)})
		},
	}
	cmd.Flags().StringVar(&network, "network", "", "the network whose interface is limited (default: the only one)")
	o.register(cmd.Flags(), "none: no limit; default: as it is")
	return cmd
}
