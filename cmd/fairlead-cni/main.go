// SPDX-License-Identifier: Apache-2.0

// Command fairlead-cni is the CNI plugin of Fairlead: container runtimes start it
// for each interface of each container. It calls the daemon and exits.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/containernetworking/cni/pkg/ns"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/control/attach"
	"github.com/fairlead-net/fairlead/control/cni"
)

func main() {
	conf := configuration()
	ctx := context.Background()
	p := &cni.Plugin{
		Dial:   func(host string) (attach.Daemon, error) { return client.New(host) },
		Stderr: os.Stderr,
	}
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add: func(a *skel.CmdArgs) error {
			if err := refuseHostNetNS(a); err != nil {
				return err
			}
			res, err := p.Add(ctx, attachment(a), a.StdinData)
			if err != nil {
				return err
			}
			return types.PrintResult(res, res.Version())
		},
		Del:    func(a *skel.CmdArgs) error { return p.Del(ctx, attachment(a), a.StdinData) },
		Check:  func(a *skel.CmdArgs) error { return p.Check(ctx, attachment(a), a.StdinData) },
		GC:     func(a *skel.CmdArgs) error { return p.GC(ctx, a.StdinData) },
		Status: func(a *skel.CmdArgs) error { return p.Status(ctx, a.StdinData) },
	}, version.All, aboutText())
	if err != nil {
		_, _ = os.Stdout.Write(cni.Failure(conf, err)) // the exit status reports the failure, too
		os.Exit(1)
	}
}

// configuration reads the runtime's configuration from standard input, and passes it on to
// the library. There is none if a user starts the program without a verb.
func configuration() []byte {
	if verb := os.Getenv("CNI_COMMAND"); verb == "" || verb == "VERSION" {
		return nil
	}
	conf, _ := io.ReadAll(os.Stdin) // a partial read is not valid JSON, which is refused later
	if r, w, err := os.Pipe(); err == nil {
		os.Stdin = r
		go func() {
			_, _ = w.Write(conf)
			_ = w.Close()
		}()
	}
	return conf
}

func attachment(a *skel.CmdArgs) cni.Attachment {
	return cni.Attachment{ContainerID: a.ContainerID, NetNS: a.Netns, IfName: a.IfName, Args: a.Args}
}

// refuseHostNetNS refuses the network namespace of the host. The library does so only after ADD.
func refuseHostNetNS(a *skel.CmdArgs) error {
	if same, err := ns.CheckNetNS(a.Netns); err != nil {
		return err
	} else if same && a.NetnsOverride == "" {
		return types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("CNI_NETNS: %s is the host's own network namespace", a.Netns), "")
	}
	return nil
}

// aboutText returns the text that runtimes parse the version from.
func aboutText() string {
	v := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		v = info.Main.Version
	}
	return "CNI fairlead-cni plugin " + v
}
