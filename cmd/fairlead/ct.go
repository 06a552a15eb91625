// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
)

func newCtCommand(e *env) *cobra.Command {
	return newGroup("ct", "Manage tracked connections", newCtLsCommand(e), newCtFlushCommand(e))
}

// flowRow is a line of "ct ls".
type flowRow struct {
	Protocol         string
	State            string
	Source           string
	Destination      string
	ReplySource      string
	ReplyDestination string
	Network          string
	Age              string
	Expires          string
}

const flowFilters = "Filters: proto=NAME, state=STATE, addr=ADDRESS[/LENGTH], port=PORT, network=NETWORK."

func newCtLsCommand(e *env) *cobra.Command {
	var o listOptions
	var limit int
	cmd := &cobra.Command{
		Use:   "ls [flags]",
		Short: "List tracked connections",
		Long: `List tracked connections with the addresses of the first packet and those of the
replies, which show NAT.

` + flowFilters + `
Template fields: .Protocol .State .Source .Destination .ReplySource .ReplyDestination .Network .Age .Expires`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runCtLs(cmd.Context(), e, &o, limit) },
	}
	o.register(cmd)
	cmd.Flags().Lookup("quiet").Usage = "print source and destination only"
	cmd.Flags().Lookup("no-trunc").Usage = "no effect: the output is never shortened"
	cmd.Flags().IntVar(&limit, "limit", 0, "maximum number to show (default: all)")
	return cmd
}

func runCtLs(ctx context.Context, e *env, o *listOptions, limit int) error {
	filter, err := flowFilter(o.filters)
	if err != nil {
		return err
	}
	if filter.Limit = limit; limit < 0 {
		return usagef("--limit %d is negative", limit)
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	flows, err := c.Flows(ctx, filter)
	if err != nil {
		return err
	}
	rows := make([]flowRow, 0, len(flows))
	for _, f := range flows {
		rows = append(rows, flowRow{
			Protocol: f.Protocol, State: f.State, Source: f.Source, Destination: f.Destination,
			ReplySource: f.ReplySource, ReplyDestination: f.ReplyDestination, Network: f.Network,
			Age: seconds(f.AgeSeconds), Expires: seconds(f.ExpiresSeconds),
		})
	}
	return printList(e.stdout, o, table{
		headers: headers{"Protocol": "PROTO", "State": "STATE", "Source": "SOURCE", "Destination": "DESTINATION", "ReplySource": "REPLY SOURCE",
			"ReplyDestination": "REPLY DESTINATION", "Network": "NETWORK", "Age": "AGE", "Expires": "EXPIRES"},
		layout: "{{.Protocol}}\t{{.State}}\t{{.Source}}\t{{.Destination}}\t{{.ReplySource}}\t{{.ReplyDestination}}\t{{.Network}}\t{{.Age}}\t{{.Expires}}",
		quiet:  "{{.Protocol}} {{.Source}} {{.Destination}}",
	}, rows)
}

func newCtFlushCommand(e *env) *cobra.Command {
	var filters []string
	cmd := &cobra.Command{
		Use:               "flush [flags]",
		Short:             "Remove tracked connections",
		Long:              "Remove all tracked connections, or those that match the filters. Connections through NAT break.\n\n" + flowFilters,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runCtFlush(cmd.Context(), e, filters) },
	}
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, "remove those that match KEY=VALUE")
	return cmd
}

func runCtFlush(ctx context.Context, e *env, filters []string) error {
	filter, err := flowFilter(filters)
	if err != nil {
		return err
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	n, err := c.FlushFlows(ctx, filter)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "removed %d flows\n", n)
	return nil
}

func flowFilter(list []string) (api.FlowFilter, error) {
	var f api.FlowFilter
	filters, err := parseFilters(list)
	if err != nil {
		return f, err
	}
	for key, values := range filters {
		if len(values) > 1 {
			return f, usagef("filter %s is given twice", key)
		}
		switch v := values[0]; key {
		case "proto":
			f.Protocol = v
		case "state":
			f.State = v
		case "addr":
			f.Address = v
		case "network":
			f.Network = v
		case "port":
			n, err := strconv.ParseUint(v, 10, 16)
			if err != nil || n == 0 {
				return f, usagef("filter port=%s: not a port number (1 to 65535)", v)
			}
			f.Port = uint16(n)
		default:
			return f, usagef("unknown filter %q (known: proto, state, addr, port, network)", key)
		}
	}
	return f, nil
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}
