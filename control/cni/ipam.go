// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// delegates reports whether another plugin manages the addresses.
func (c *call) delegates() bool { return c.IPAM.Type != "" }

// lease gets addresses from the IPAM plugin. It returns nil if there is no IPAM plugin.
func (c *call) lease(ctx context.Context) (*current.Result, error) {
	if !c.delegates() {
		return nil, nil
	}
	r, err := invoke.DelegateAdd(ctx, c.IPAM.Type, c.raw, nil)
	if err != nil {
		return nil, err
	}
	lease, err := current.NewResultFromResult(r)
	if err == nil {
		err = usable(lease)
	}
	if err != nil {
		return nil, both(err, c.release(ctx))
	}
	return lease, nil
}

// usable refuses what the network does not support of an IPAM plugin's result. A default route is
// ignored, since the network has its own.
func usable(lease *current.Result) error {
	if len(lease.IPs) == 0 {
		return refuse(types.ErrInvalidNetworkConfig, "the IPAM plugin returned no address")
	}
	for _, r := range lease.Routes {
		if length, _ := r.Dst.Mask.Size(); length != 0 {
			return refuse(types.ErrUnsupportedField, "the IPAM plugin's route to %s is not supported (omit all routes except the default route)", r.Dst.String())
		}
	}
	return nil
}

func (c *call) release(ctx context.Context) error {
	return invoke.DelegateDel(ctx, c.IPAM.Type, c.raw, nil)
}

func (c *call) checkLease(ctx context.Context) error {
	return invoke.DelegateCheck(ctx, c.IPAM.Type, c.raw, nil)
}

// ipamPlugin is the IPAM plugin in verbs that do not concern a single container.
type ipamPlugin struct {
	path      string
	supported bool   // the version of the configuration, which has STATUS and GC
	conf      []byte // in the latest version that the plugin supports
}

// findIPAM finds the IPAM plugin and the versions that it supports.
func (c *call) findIPAM(ctx context.Context) (*ipamPlugin, error) {
	path, err := invoke.FindInPath(c.IPAM.Type, filepath.SplitList(os.Getenv("CNI_PATH")))
	if err != nil {
		return nil, err
	}
	info, err := invoke.GetVersionInfo(ctx, path, nil)
	if err != nil {
		return nil, err
	}
	versions := info.SupportedVersions()
	p := &ipamPlugin{path: path, conf: c.raw, supported: slices.Contains(versions, c.CNIVersion)}
	if p.supported || len(versions) == 0 {
		return p, nil
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(c.raw, &keys); err != nil {
		return nil, err
	}
	if keys["cniVersion"], err = json.Marshal(slices.MaxFunc(versions, laterVersion)); err != nil {
		return nil, err
	}
	p.conf, err = json.Marshal(keys)
	return p, err
}

func laterVersion(a, b string) int {
	if later, err := version.GreaterThan(a, b); err == nil && later {
		return 1
	}
	return -1
}

// del releases the addresses of an attachment, as its DEL would.
func (p *ipamPlugin) del(ctx context.Context, a types.GCAttachment, netNS string) error {
	return invoke.ExecPluginWithoutResult(ctx, p.path, p.conf, &invoke.Args{
		Command: "DEL", ContainerID: a.ContainerID, NetNS: netNS, IfName: a.IfName, Path: os.Getenv("CNI_PATH"),
	}, nil)
}

// gc makes the plugin remove its other leases, if it supports GC.
func (p *ipamPlugin) gc(ctx context.Context) error {
	if !p.supported {
		return nil
	}
	return invoke.ExecPluginWithoutResult(ctx, p.path, p.conf, &invoke.DelegateArgs{Command: "GC"}, nil)
}

// leaseStatus returns an error if the IPAM plugin cannot serve ADD.
func (c *call) leaseStatus(ctx context.Context) error {
	p, err := c.findIPAM(ctx)
	if err != nil {
		return notAvailable(err)
	}
	if !p.supported {
		return refuse(types.ErrPluginNotAvailable, "the IPAM plugin %s does not support version %s of CNI (set \"cniVersion\" to one that it supports, or install a later plugin)", c.IPAM.Type, c.CNIVersion)
	}
	return invoke.ExecPluginWithoutResult(ctx, p.path, p.conf, &invoke.DelegateArgs{Command: "STATUS"}, nil)
}
