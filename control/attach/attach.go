// SPDX-License-Identifier: Apache-2.0

// Package attach joins the containers of a runtime to networks. It is what the
// faces to runtimes, CNI's and netavark's, have in common: a container is a sandbox
// in the namespace that the runtime made. Everything is a request to the daemon.
package attach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// Daemon is what is asked of the daemon; an [api.Client].
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
	Connect(ctx context.Context, network string, n api.NetworkConnect) error
	Disconnect(ctx context.Context, network string, n api.NetworkDisconnect) error
}

// ErrOtherNamespace: the container is attached in another namespace than the
// runtime says.
var ErrOtherNamespace = errors.New("attached in another network namespace")

// Container is a container of a runtime's.
type Container struct {
	Daemon
	// Label is of the sandboxes that this face made; its value is the ID.
	Label string
	// ID is the runtime's, of the container.
	ID string
	// Names are for the container's sandbox, which gets the first that is free.
	Names []string
	// Defaults are options of a network that is made, where the runtime says nothing of
	// them. One that is there may have others.
	Defaults map[string]string
	// Warn is told what the daemon accepted but does not serve.
	Warn func(string)
}

// Attach joins the container to the network want, which is made if it is not there.
// spec asks for the sandbox with its first network; its name is chosen here.
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
		c.Warn(fmt.Sprintf("network %s has IPv4, which the configuration does not ask for: remove it, and it is made anew without", n.Name))
	}
	return n, sb, nil
}

// attachToNew makes the network first. Somebody else may do the same.
func (c *Container) attachToNew(ctx context.Context, want api.NetworkCreate, spec model.SandboxSpec) (*api.Network, api.Sandbox, error) {
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

// attach makes the container's sandbox, or joins the network to the one it has.
func (c *Container) attach(ctx context.Context, spec model.SandboxSpec) (*api.Network, api.Sandbox, error) {
	n, sb, err := c.create(ctx, c.Names[0], spec)
	if errors.Is(err, model.ErrConflict) {
		return c.connect(ctx, spec, err)
	}
	return n, sb, err
}

// create makes the container's sandbox. To ask first whether there is such a
// network would be a step more for every container.
func (c *Container) create(ctx context.Context, name string, spec model.SandboxSpec) (*api.Network, api.Sandbox, error) {
	created, err := c.CreateSandbox(ctx, name, api.NewSandboxCreate(spec))
	if err != nil {
		return nil, created.Sandbox, err
	}
	if n := created.Network; n == nil || n.Name != spec.NetworkMode {
		// The name was taken for the beginning of another one's ID.
		return nil, created.Sandbox, cmp.Or(c.remove(ctx, created.ID), model.NoNetwork(spec.NetworkMode))
	}
	for _, w := range created.Warnings {
		c.Warn(w)
	}
	return created.Network, created.Sandbox, nil
}

// connect joins one more network to the container's sandbox. refused is why the
// sandbox could not be made: if it is not because there is one, it stands.
func (c *Container) connect(ctx context.Context, spec model.SandboxSpec, refused error) (*api.Network, api.Sandbox, error) {
	sb, err := c.Find(ctx)
	switch {
	case errors.Is(err, model.ErrNotFound):
		return c.createOther(ctx, spec, refused)
	case err != nil:
		return nil, sb, err
	case NetNSGone(sb.NetworkSettings.SandboxKey):
		// Of before a restart of the host, say: the runtime begins anew.
		if err := c.remove(ctx, sb.ID); err != nil {
			return nil, sb, err
		}
		return c.attach(ctx, spec)
	case sb.NetworkSettings.SandboxKey != spec.NetNS:
		return nil, sb, fmt.Errorf("container %s is %w, %s, not %s (take it out of there first)",
			c.ID, ErrOtherNamespace, sb.NetworkSettings.SandboxKey, spec.NetNS)
	}
	if err := c.samePorts(sb, spec); err != nil {
		return nil, sb, err
	}
	n, err := FindNetwork(ctx, c, spec.NetworkMode)
	if err != nil {
		return nil, sb, err
	}
	err = c.Connect(ctx, n.ID, api.NetworkConnect{Container: sb.ID, EndpointConfig: api.NewEndpointConfig(spec.Endpoint)})
	if err == nil {
		sb, err = c.Sandbox(ctx, sb.ID)
	}
	return n, sb, err
}

// createOther makes the container's sandbox under another of its names, if it was
// refused for the first. The last refusal stands: those before may be of the name alone.
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

// samePorts wants the published ports to be those the sandbox has: they are the
// container's, not an interface's.
func (c *Container) samePorts(sb api.Sandbox, spec model.SandboxSpec) error {
	for key, want := range api.NewSandboxCreate(spec).HostConfig.PortBindings {
		for _, b := range want {
			if !slices.Contains(sb.HostConfig.PortBindings[key], b) {
				return refuse(model.ErrConflict, "port %s of container %s cannot be published now: give its port mappings to its first network", key, c.ID)
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
	if len(c.Names) > 1 { // the runtime may have another name for it by now
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

// removeStale removes what runtimes left behind: sandboxes whose namespace has ended, as the
// daemon knows. They may have the port or address that is wanted. It reports whether
// there were any. Leases it could not give back.
func (c *Container) removeStale(ctx context.Context) (swept bool) {
	list, err := c.Sandboxes(ctx, api.Filters{"label": {c.Label}})
	if err != nil {
		return false // the refusal that led here is the news
	}
	for _, s := range list {
		sb, err := c.Sandbox(ctx, s.ID)
		if err == nil && !leased(sb, "") && NetNSGone(sb.NetworkSettings.SandboxKey) && errors.Is(c.CheckSandbox(ctx, s.ID, api.Expected{}), model.ErrGone) {
			swept = c.remove(ctx, s.ID) == nil || swept
		}
	}
	return swept
}

// retryTime is how long Part waits for a daemon that is being started again: some
// runtimes do not ask a second time.
const retryTime = 700 * time.Millisecond

// Detach takes the container's interface out of the network. What is not there is no
// error.
func (c *Container) Detach(ctx context.Context, network, ifName string) error {
	err := c.detach(ctx, network, ifName)
	for start := time.Now(); errors.Is(err, api.ErrUnreachable) && time.Since(start) < retryTime; {
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

// DetachSandbox takes a sandbox out of a network that it is in. It goes with its last
// interface, or with its namespace, unless leases of its others are to be given back.
func (c *Container) DetachSandbox(ctx context.Context, sb api.Sandbox, network string) error {
	if len(sb.NetworkSettings.Networks) <= 1 || NetNSGone(sb.NetworkSettings.SandboxKey) && !leased(sb, network) {
		return c.remove(ctx, sb.ID)
	}
	return ignoreNotFound(c.Disconnect(ctx, network, api.NetworkDisconnect{Container: sb.ID, Force: true}))
}

// leased reports whether other programs are to hear when the sandbox's addresses are
// free, not counting those of one network.
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

// ignoreNotFound is the error of a removal: none if there was nothing.
func ignoreNotFound(err error) error {
	if errors.Is(err, model.ErrNotFound) {
		return nil
	}
	return err
}

// FindNetwork finds a network by its name, which may also be the beginning of
// another one's ID.
func FindNetwork(ctx context.Context, d Daemon, name string) (*api.Network, error) {
	list, err := d.Networks(ctx, api.Filters{"name": {"^" + regexp.QuoteMeta(name) + "$"}})
	for i := range list {
		if list[i].Name == name {
			return &list[i], nil
		}
	}
	return nil, cmp.Or(err, model.NoNetwork(name))
}

// NetNSGone reports whether there is no namespace at the path: none was given, or one
// was unmounted, which may leave a file. One that cannot be looked at is there.
func NetNSGone(path string) bool {
	var st unix.Statfs_t
	switch err := unix.Statfs(path, &st); {
	case path == "", errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return true
	default:
		return err == nil && st.Type != unix.NSFS_MAGIC
	}
}

// Addresses sorts the addresses a container is to have by family. They may have a
// length, which is the network's affair.
func Addresses(wanted []string) (v4, v6 netip.Addr, err error) {
	for _, s := range wanted {
		ip, err := netip.ParseAddr(s)
		if prefix, noAddr := netip.ParsePrefix(s); noAddr == nil {
			ip, err = prefix.Addr(), nil
		}
		if err != nil {
			return v4, v6, refuse(model.ErrInvalid, "%q is not an IP address", s)
		}
		place := &v6
		if ip = ip.Unmap(); ip.Is4() {
			place = &v4
		}
		if place.IsValid() {
			return v4, v6, refuse(model.ErrInvalid, "addresses %v and %v: an interface has one of a family", *place, ip)
		}
		*place = ip
	}
	return v4, v6, nil
}

// aliasRule is what can be asked for as a name; runtimes' own names are such too.
var aliasRule = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}$`)

// CheckAliases refuses what nobody can ask for.
func CheckAliases(aliases []string) error {
	for _, alias := range aliases {
		if !aliasRule.MatchString(alias) {
			return refuse(model.ErrInvalid, "alias %q is not a name (it may have letters, digits, and _ . - but not begin with . or -)", alias)
		}
	}
	return nil
}

func refuse(kind error, format string, args ...any) error {
	return &model.Refusal{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

// Port publishes count consecutive ports of a container.
func Port(hostIP string, hostPort, port, count int, proto string) (model.PortSpec, error) {
	if hostPort <= 0 || port <= 0 || count <= 0 {
		return model.PortSpec{}, refuse(model.ErrInvalid, "%d ports from host port %d to port %d: ports are 1 to 65535", count, hostPort, port)
	}
	text := fmt.Sprintf("%s:%s/%s", ports(hostPort, count), ports(port, count), strings.ToLower(cmp.Or(proto, "tcp")))
	if strings.Contains(hostIP, ":") {
		text = "[" + hostIP + "]:" + text
	} else if hostIP != "" {
		text = hostIP + ":" + text
	}
	spec, err := api.ParsePublish(text)
	if err != nil {
		return spec, refuse(model.ErrInvalid, "%v", err)
	}
	return spec, nil
}

// ports are as in 80, or 80-82.
func ports(first, count int) string {
	if count == 1 {
		return strconv.Itoa(first)
	}
	return fmt.Sprintf("%d-%d", first, first+count-1)
}
