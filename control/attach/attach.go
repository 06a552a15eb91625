// SPDX-License-Identifier: Apache-2.0

// Package attach attaches the containers of a runtime to networks. The front ends for
// runtimes, CNI and netavark, share it. A container is a sandbox in the namespace that the
// runtime created. All operations are requests to the daemon.
package attach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/control/model"
)

// Daemon is the part of the daemon's API that is used. [client.Client] implements it.
type Daemon interface {
	Status(ctx context.Context) (api.Status, error)
	Networks(ctx context.Context, f api.Filters) ([]api.Network, error)
	CreateNetwork(ctx context.Context, n api.NetworkCreate) (api.NetworkCreated, error)
	RemoveNetwork(ctx context.Context, ref string) error
	Sandboxes(ctx context.Context, f api.Filters) ([]api.SandboxSummary, error)
	Sandbox(ctx context.Context, ref string) (api.Sandbox, error)
	CreateSandbox(ctx context.Context, name string, s api.SandboxCreate) (api.SandboxCreated, error)
	CheckSandbox(ctx context.Context, ref string, want api.Expected) error
	RemoveSandbox(ctx context.Context, ref string, force bool) error
	Connect(ctx context.Context, network string, n api.NetworkConnect) (warnings []string, err error)
	Disconnect(ctx context.Context, network string, n api.NetworkDisconnect) error
}

// ErrOtherNamespace means that the container is attached in another namespace than the
// runtime's request says.
var ErrOtherNamespace = errors.New("attached in another network namespace")

// Container is a container of a runtime.
type Container struct {
	Daemon
	// Label is the label of the sandboxes that this front end creates. Its value is ID.
	Label string
	// ID is the runtime's ID of the container.
	ID string
	// Names are candidates for the sandbox's name. The first one that is free is used.
	Names []string
	// Defaults are options for new networks that the runtime does not set. Existing
	// networks may have other values.
	Defaults map[string]string
	// Warn is called with what the daemon accepted but does not serve.
	Warn func(string)
}

// Attach attaches the container to the network want, which is created if it does not exist.
// spec is the request for the sandbox with its first network, except for the name.
func (c *Container) Attach(ctx context.Context, want api.NetworkCreate, spec model.SandboxSpec) (*api.Network, api.Sandbox, error) {
	n, sb, err := c.attach(ctx, spec)
	if errors.Is(err, model.ErrNotFound) {
		n, sb, err = c.attachToNew(ctx, want, spec)
	}
	if errors.Is(err, model.ErrConflict) && c.removeStale(ctx) {
		n, sb, err = c.attach(ctx, spec)
	}
	if err != nil {
		return nil, sb, err
	}
	if err := CheckMatches(n, want); err != nil {
		return nil, sb, errors.Join(err, c.DetachSandbox(ctx, sb, want.Name))
	}
	if n.EnableIPv4 && want.EnableIPv4 != nil && !*want.EnableIPv4 {
		c.Warn(fmt.Sprintf("network %s has IPv4, which the configuration does not request (remove the network; it is then recreated without IPv4)", n.Name))
	}
	return n, sb, nil
}

// attachToNew creates the network first. Another process may create it at the same time.
func (c *Container) attachToNew(ctx context.Context, want api.NetworkCreate, spec model.SandboxSpec) (*api.Network, api.Sandbox, error) {
	if want.Driver == model.DriverOverlay {
		return nil, api.Sandbox{}, NoSharedNetwork(want.Name)
	}
	options := map[string]string{}
	maps.Copy(options, c.Defaults)
	maps.Copy(options, want.Options)
	want.Options = options
	_, refused := c.CreateNetwork(ctx, want)
	if refused != nil && !errors.Is(refused, model.ErrConflict) {
		return nil, api.Sandbox{}, refused
	}
	n, sb, err := c.attach(ctx, spec)
	if refused != nil && errors.Is(err, model.ErrNotFound) {
		err = refused
	}
	return n, sb, err
}

// attach creates the container's sandbox, or connects the one it has to the network.
func (c *Container) attach(ctx context.Context, spec model.SandboxSpec) (*api.Network, api.Sandbox, error) {
	n, sb, err := c.create(ctx, c.Names[0], spec)
	if errors.Is(err, model.ErrConflict) {
		return c.connect(ctx, spec, err)
	}
	return n, sb, err
}

// create creates the container's sandbox. It does not check first whether the
// network exists, which would cost another request for every container.
func (c *Container) create(ctx context.Context, name string, spec model.SandboxSpec) (*api.Network, api.Sandbox, error) {
	created, err := c.CreateSandbox(ctx, name, api.NewSandboxCreate(spec))
	if err != nil {
		return nil, created.Sandbox, err
	}
	if n := created.Network; n == nil || n.Name != spec.NetworkMode {
		// The daemon resolved the name as a prefix of another network's ID.
		return nil, created.Sandbox, cmp.Or(c.remove(ctx, created.ID), model.NoNetwork(spec.NetworkMode))
	}
	for _, w := range created.Warnings {
		c.Warn(w)
	}
	return created.Network, created.Sandbox, nil
}

// connect connects the container's existing sandbox to one more network. refused is the
// error of its creation, which is returned if there is no such sandbox.
func (c *Container) connect(ctx context.Context, spec model.SandboxSpec, refused error) (*api.Network, api.Sandbox, error) {
	sb, err := c.Find(ctx)
	switch {
	case errors.Is(err, model.ErrNotFound):
		return c.createOther(ctx, spec, refused)
	case err != nil:
		return nil, sb, err
	case NetNSGone(sb.NetworkSettings.SandboxKey):
		// A leftover, of the time before a restart of the host, for example.
		if err := c.remove(ctx, sb.ID); err != nil {
			return nil, sb, err
		}
		return c.attach(ctx, spec)
	case sb.NetworkSettings.SandboxKey != spec.NetNS:
		return nil, sb, fmt.Errorf("container %s is %w, %s, not %s (detach it there first)",
			c.ID, ErrOtherNamespace, sb.NetworkSettings.SandboxKey, spec.NetNS)
	}
	if err := c.samePorts(sb, spec); err != nil {
		return nil, sb, err
	}
	n, err := FindNetwork(ctx, c, spec.NetworkMode)
	if err != nil {
		return nil, sb, err
	}
	_, err = c.Connect(ctx, n.ID, api.NetworkConnect{Container: sb.ID, EndpointConfig: api.NewEndpointConfig(spec.Endpoint)})
	if err == nil {
		sb, err = c.Sandbox(ctx, sb.ID)
	}
	return n, sb, err
}

// createOther creates the container's sandbox under another of its names, if the first was
// refused. It returns the last error: the others may concern only the name.
func (c *Container) createOther(ctx context.Context, spec model.SandboxSpec, refused error) (*api.Network, api.Sandbox, error) {
	for _, name := range c.Names[1:] {
		n, sb, err := c.create(ctx, name, spec)
		if !errors.Is(err, model.ErrConflict) {
			return n, sb, err
		}
		refused = err
	}
	return nil, api.Sandbox{}, refused
}

// samePorts checks that the sandbox already publishes the ports of the spec: ports belong
// to a container, not to an interface.
func (c *Container) samePorts(sb api.Sandbox, spec model.SandboxSpec) error {
	for key, want := range api.NewSandboxCreate(spec).HostConfig.PortBindings {
		for _, b := range want {
			if !slices.ContainsFunc(sb.HostConfig.PortBindings[key], func(have api.PortBinding) bool { return reflect.DeepEqual(have, b) }) {
				return model.Refuse(model.ErrConflict, "port %s of container %s cannot be published any more (give its port mappings to its first network)", key, c.ID)
			}
		}
	}
	return nil
}

// Find finds the container's sandbox.
func (c *Container) Find(ctx context.Context) (api.Sandbox, error) {
	for _, name := range c.Names {
		sb, err := c.Sandbox(ctx, name)
		if err == nil && sb.Config.Labels[c.Label] == c.ID || err != nil && !errors.Is(err, model.ErrNotFound) {
			return sb, err
		}
	}
	if len(c.Names) > 1 { // the runtime may have renamed the container
		list, err := c.Sandboxes(ctx, api.Filters{"label": {c.Label + "=" + c.ID}})
		if err != nil {
			return api.Sandbox{}, err
		}
		for _, s := range list {
			return c.Sandbox(ctx, s.ID)
		}
	}
	return api.Sandbox{}, model.NoSandbox(c.Names[0])
}

// removeStale removes sandboxes that runtimes left behind: their namespace no longer exists, as
// the daemon confirms. They may hold the requested port or address. It reports whether it
// removed any. It keeps those with leased addresses, because it cannot release leases.
func (c *Container) removeStale(ctx context.Context) (removed bool) {
	list, err := c.Sandboxes(ctx, api.Filters{"label": {c.Label}})
	if err != nil {
		return false // the caller reports its own error
	}
	for _, s := range list {
		sb, err := c.Sandbox(ctx, s.ID)
		if err == nil && !leased(sb, "") && NetNSGone(sb.NetworkSettings.SandboxKey) && errors.Is(c.CheckSandbox(ctx, s.ID, api.Expected{}), model.ErrVanished) {
			removed = c.remove(ctx, s.ID) == nil || removed
		}
	}
	return removed
}

// retryTime is how long Detach retries while the daemon restarts, because some
// runtimes do not retry themselves.
const retryTime = 700 * time.Millisecond

// Detach detaches the container's interface from the network. It succeeds if there is
// none.
func (c *Container) Detach(ctx context.Context, network, ifName string) error {
	err := c.detach(ctx, network, ifName)
	for start := time.Now(); errors.Is(err, client.ErrUnreachable) && time.Since(start) < retryTime; {
		time.Sleep(retryTime / 10)
		err = c.detach(ctx, network, ifName)
	}
	return err
}

func (c *Container) detach(ctx context.Context, network, ifName string) error {
	sb, err := c.Find(ctx)
	if errors.Is(err, model.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if ep, member := sb.NetworkSettings.Networks[network]; !member || ep.InterfaceName != ifName {
		return nil
	}
	return c.DetachSandbox(ctx, sb, network)
}

// DetachSandbox detaches a sandbox from a network. It removes the sandbox with its last
// interface, or if its namespace no longer exists, unless its other interfaces have leases,
// which must be released first.
func (c *Container) DetachSandbox(ctx context.Context, sb api.Sandbox, network string) error {
	if len(sb.NetworkSettings.Networks) <= 1 || NetNSGone(sb.NetworkSettings.SandboxKey) && !leased(sb, network) {
		return c.remove(ctx, sb.ID)
	}
	return ignoreNotFound(c.Disconnect(ctx, network, api.NetworkDisconnect{Container: sb.ID, Force: true}))
}

// leased reports whether the sandbox has leased addresses, which must be released at another
// program, in a network other than except.
func leased(sb api.Sandbox, except string) bool {
	for name, ep := range sb.NetworkSettings.Networks {
		if name != except && ep.IPAMConfig != nil && ep.IPAMConfig.Leased {
			return true
		}
	}
	return false
}

func (c *Container) remove(ctx context.Context, id string) error {
	return ignoreNotFound(c.RemoveSandbox(ctx, id, true))
}

// ignoreNotFound makes the removal of an object that does not exist succeed.
func ignoreNotFound(err error) error {
	if errors.Is(err, model.ErrNotFound) {
		return nil
	}
	return err
}

// FindNetwork finds a network by its name only. In other requests the name may also match the
// prefix of another network's ID.
func FindNetwork(ctx context.Context, d Daemon, name string) (*api.Network, error) {
	list, err := d.Networks(ctx, api.Filters{"name": {"^" + regexp.QuoteMeta(name) + "$"}})
	for i := range list {
		if list[i].Name == name {
			return &list[i], nil
		}
	}
	return nil, cmp.Or(err, model.NoNetwork(name))
}

// NetNSGone reports whether there is no namespace at the path: the path is empty, or the
// namespace was unmounted, which may leave a file. If the path cannot be examined, it returns
// false.
func NetNSGone(path string) bool {
	var st unix.Statfs_t
	switch err := unix.Statfs(path, &st); {
	case path == "", errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return true
	default:
		return err == nil && st.Type != unix.NSFS_MAGIC
	}
}

// Addresses sorts the requested addresses of a container by family. It ignores prefix
// lengths, which the network determines.
func Addresses(wanted []string) (v4, v6 netip.Addr, err error) {
	for _, s := range wanted {
		ip, err := netip.ParseAddr(s)
		if prefix, noAddr := netip.ParsePrefix(s); noAddr == nil {
			ip, err = prefix.Addr(), nil
		}
		if err != nil {
			return v4, v6, model.Refuse(model.ErrInvalid, "%q is not an IP address", s)
		}
		place := &v6
		if ip = ip.Unmap(); ip.Is4() {
			place = &v4
		}
		if place.IsValid() {
			return v4, v6, model.Refuse(model.ErrInvalid, "addresses %v and %v: an interface has one address per family", *place, ip)
		}
		*place = ip
	}
	return v4, v6, nil
}

// Port returns the spec for publishing count consecutive ports of a container.
func Port(hostIP string, hostPort, port, count int, proto string) (model.PortSpec, error) {
	if hostPort <= 0 || port <= 0 || count <= 0 {
		return model.PortSpec{}, model.Refuse(model.ErrInvalid, "%d ports from host port %d to port %d: ports are 1 to 65535", count, hostPort, port)
	}
	text := fmt.Sprintf("%s:%s/%s", ports(hostPort, count), ports(port, count), strings.ToLower(cmp.Or(proto, "tcp")))
	if strings.Contains(hostIP, ":") {
		text = "[" + hostIP + "]:" + text
	} else if hostIP != "" {
		text = hostIP + ":" + text
	}
	spec, err := api.ParsePublish(text)
	if err != nil {
		return spec, model.Refuse(model.ErrInvalid, "%v", err)
	}
	return spec, nil
}

// ports formats a range of ports, as in 80 or 80-82.
func ports(first, count int) string {
	if count == 1 {
		return strconv.Itoa(first)
	}
	return fmt.Sprintf("%d-%d", first, first+count-1)
}
