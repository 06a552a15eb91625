// SPDX-License-Identifier: Apache-2.0

// Command fairlead-netavark is the network driver "fairlead" for podman: podman and netavark
// start it, under that name, for each interface of each container. It calls the daemon and
// exits.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/control/attach"
	"github.com/fairlead-net/fairlead/control/netavark"
)

func main() {
	out, err := run(os.Args[1:])
	if err != nil {
		os.Stdout.Write(netavark.Failure(err))
		os.Exit(1)
	}
	os.Stdout.Write(out)
}

func run(args []string) ([]byte, error) {
	ctx := context.Background()
	p := &netavark.Plugin{
		Dial:   func(host string) (attach.Daemon, error) { return client.New(host) },
		Stderr: os.Stderr,
	}
	switch {
	case len(args) == 1 && args[0] == "info":
		return json.Marshal(map[string]string{"version": version(), "api_version": "1.0.0"})
	case len(args) == 1 && args[0] == "create", len(args) == 2 && (args[0] == "setup" || args[0] == "teardown"):
	default:
		return nil, fmt.Errorf("arguments %q: want create, setup NETNS, teardown NETNS or info; podman runs this as the network driver fairlead", args)
	}
	stdin, err := io.ReadAll(os.Stdin)
	if err != nil {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	switch args[0] {
	case "create":
		return p.Create(ctx, stdin)
	case "setup":
		return p.Setup(ctx, args[1], stdin)
	}
	return nil, p.Teardown(ctx, stdin)
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
