// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// buildInfo describes the build of this binary.
type buildInfo struct {
	Version   string
	GitCommit string
	GoVersion string
	Os        string
	Arch      string
}

// version is set by the linker in builds without git, such as those of a tarball:
// make build VERSION=…
var version string

// readBuildInfo reads what go build recorded in the binary.
func readBuildInfo() buildInfo {
	b := buildInfo{Version: "unknown", GitCommit: "unknown", GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := cmp.Or(version, info.Main.Version); v != "" && v != "(devel)" {
		b.Version = v
	}
	dirty := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.GitCommit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	b.GitCommit += dirty
	return b
}

// String returns the output of version and --version.
func (b buildInfo) String() string {
	return fmt.Sprintf("fairlead %s (commit %s, %s %s/%s)\n", b.Version, b.GitCommit, b.GoVersion, b.Os, b.Arch)
}

func newVersionCommand(e *env) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "version [flags]",
		Short:             "Show the version of this program",
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(*cobra.Command, []string) error { return runVersion(e, format) },
	}
	cmd.Flags().StringVar(&format, "format", "table", `"table", "json" or a Go TEMPLATE`)
	return cmd
}

func runVersion(e *env, format string) error {
	b := readBuildInfo()
	switch format {
	case "table":
		fmt.Fprint(e.stdout, b)
		return nil
	case "json":
		return json.NewEncoder(e.stdout).Encode(b)
	}
	t, err := parseTemplate(format)
	if err != nil {
		return err
	}
	return executeLine(e.stdout, t, b)
}
