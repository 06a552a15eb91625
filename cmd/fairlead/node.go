// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/fairlead-net/fairlead/control/cleanup"
	"github.com/fairlead-net/fairlead/control/daemon"
	"github.com/fairlead-net/fairlead/control/doctor"
)

// newNodeCommands returns the node commands of this program.
func newNodeCommands(stderr io.Writer) nodeCommands {
	return nodeCommands{
		daemon: func(ctx context.Context, o daemonOptions) error {
			log, err := newLogger(stderr, o.logFormat, o.logLevel)
			if err != nil {
				return err
			}
			return daemon.Run(ctx, o.config(log))
		},
		refuse: func(ctx context.Context, reason error) {
			daemon.Refuse(ctx, reason, slog.New(slog.NewTextHandler(stderr, nil)))
		},
		cleanup: func(ctx context.Context, d directories) error {
			log, err := newLogger(stderr, "text", "warn")
			if err != nil {
				return err
			}
			progress, stop := showProgress(stderr, "removing devices")
			defer stop()
			return cleanup.Run(ctx, d.dirs(), progress, log)
		},
		downgrade: func(ctx context.Context, d directories, to string, ready func([]string)) error {
			log, err := newLogger(stderr, "text", "warn")
			if err != nil {
				return err
			}
			return daemon.Downgrade(ctx, daemon.DowngradeConfig{StateDir: d.state, RunDir: d.run, BPFDir: d.bpf, To: to, Ready: ready, Log: log})
		},
		doctor: doctor.Report,
	}
}

func (d directories) dirs() daemon.Dirs {
	return daemon.Dirs{State: d.state, Run: d.run, BPF: d.bpf, DockerPlugins: d.dockerPlugins}
}

func (o daemonOptions) config(log *slog.Logger) daemon.Config {
	build := readBuildInfo()
	return daemon.Config{
		Dirs: o.dirs(), DockerSocket: o.dockerSocket, DockerScope: o.dockerScope, MetricsListen: o.metricsListen, Uplinks: o.uplinks, SNATPorts: o.snatPorts, CTMax: o.ctMax, CTTimeouts: o.ctTimeouts,
		MaxEndpoints: o.maxEndpoints, MaxPublishes: o.maxPublish, CacheAfter: o.cacheAfter, ForceClsact: o.forceClsact, CgroupRoot: o.cgroupRoot,
		Version: build.Version, Revision: build.GitCommit, Log: log, DefaultPools: o.pools,
		Cluster: o.cluster, MaxPeers: o.maxPeers, Defaults: o.defaults,
	}
}

func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var o slog.HandlerOptions
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	o.Level = l
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, &o)), nil
	}
	return slog.New(slog.NewTextHandler(w, &o)), nil
}
