// SPDX-License-Identifier: Apache-2.0

// Command nodes simulates the nodes of a large cluster. To the store they are what real nodes are: each has
// a connection, a record, a lease, its members in the networks that exist, and watches over the same
// prefixes. They keep nothing of what they receive, since all of them share this machine.
//
// It prints a line when the cluster is complete, and then adds a member to the first network for every
// line that it reads. It prints the member's MAC and the time just before the commit, in nanoseconds since
// 1970, by which the reader measures how long others take to know the member.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv/open"
)

func main() {
	var cfg config
	flag.StringVar(&cfg.store, "store", "", "URL of the cluster's store")
	flag.IntVar(&cfg.nodes, "nodes", 1000, "number of nodes")
	flag.IntVar(&cfg.span, "span", 100, "number of nodes of each network")
	flag.IntVar(&cfg.endpoints, "endpoints", 100000, "number of endpoints of all networks")
	flag.IntVar(&cfg.churn, "churn", 50, "endpoints that are replaced by others in one second, in all networks")
	flag.Parse()
	if err := run(context.Background(), cfg, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "nodes:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, cfg config, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := open.Check(cfg.store); err != nil {
		return err
	}
	if cfg.nodes < 1 || cfg.nodes > maxNodes || cfg.span < 1 || cfg.span > cfg.nodes || cfg.endpoints < 0 || cfg.churn < 0 {
		return fmt.Errorf("-nodes must be from 1 to %d, -span from 1 to that number, -endpoints and -churn not negative", maxNodes)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	began := time.Now()
	c, err := build(ctx, cfg, log)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d nodes with %d endpoints in %d networks after %v\n",
		len(c.nodes), c.endpoints, len(c.networks), time.Since(began).Round(100*time.Millisecond))
	failed := make(chan error, 1)
	go func() { failed <- c.churn(ctx) }()
	lines := make(chan struct{})
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(in); s.Scan(); {
			lines <- struct{}{}
		}
	}()
	for {
		select {
		case err := <-failed:
			return err
		case _, ok := <-lines:
			if !ok {
				return nil
			}
			at := time.Now()
			m, err := c.networks[0].some().replace(ctx)
			if err != nil {
				return err
			}
			fmt.Fprintln(out, m.MAC, at.UnixNano())
		}
	}
}
