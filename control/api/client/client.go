// SPDX-License-Identifier: Apache-2.0

// Package client is a client of the daemon's API, for the command line and the plugins.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/httpserve"
)

// ErrUnreachable means that the daemon did not respond, so that it is not known whether
// it executed the request.
var ErrUnreachable = errors.New("daemon unreachable")

// Client is a client of one daemon. It is safe for concurrent use.
type Client struct {
	socket string
	http   *http.Client
}

// New returns a client of the daemon at host, unix:///PATH. It does not connect yet.
func New(host string) (*Client, error) {
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok || !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("host %q: want unix:///PATH, as in %s", host, api.DefaultHost)
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		// A connection that is kept open breaks when the daemon restarts.
		DisableKeepAlives: true,
	}
	return &Client{socket: path, http: &http.Client{Transport: transport, Timeout: httpserve.RequestTimeout}}, nil
}

// Socket returns the path of the daemon's socket.
func (c *Client) Socket() string { return c.socket }

// do sends in as JSON unless it is nil, and decodes the response into out unless
// that is nil.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader = http.NoBody
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request %s %s: %w", method, path, err)
		}
		if len(b) > api.MaxBody {
			return fmt.Errorf("request %s %s has %d bytes, the daemon accepts at most %d", method, path, len(b), api.MaxBody)
		}
		body = bytes.NewReader(b)
	}
	u := "http://fairlead" + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return fmt.Errorf("create request %s %s: %w", method, path, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return readError(resp)
	}
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	var response bytes.Buffer
	response.Grow(int(max(0, resp.ContentLength)) + bytes.MinRead)
	if _, err := response.ReadFrom(resp.Body); err != nil {
		return c.unreachable(ctx, fmt.Errorf("read response: %w", err))
	}
	if err := json.Unmarshal(response.Bytes(), out); err != nil {
		return fmt.Errorf("decode response to %s %s: %w", method, path, err)
	}
	return nil
}

// unreachable returns an ErrUnreachable that names the socket and the remedy.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var timeout interface{ Timeout() bool }
	text := fmt.Sprintf("the daemon at %s closed the connection: %v; see its log", c.socket, errors.Unwrap(err))
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		text = fmt.Sprintf("no daemon listens at %s; start it with \"fairlead daemon\", or name its socket with --host", c.socket)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		text = fmt.Sprintf("no permission to use the daemon's socket %s; run as root or as a member of group fairlead", c.socket)
	case errors.As(err, &timeout) && timeout.Timeout():
		text = fmt.Sprintf("the daemon at %s does not answer within %s; see its log", c.socket, httpserve.RequestTimeout)
	}
	return &unreachableError{text: text, cause: err}
}

// unreachableError is an ErrUnreachable with its own text.
type unreachableError struct {
	text  string
	cause error
}

func (e *unreachableError) Error() string   { return e.text }
func (e *unreachableError) Unwrap() []error { return []error{ErrUnreachable, e.cause} }

func readError(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var body api.ErrorBody
	if err != nil || json.Unmarshal(b, &body) != nil || body.Message == "" {
		body.Message = fmt.Sprintf("the daemon returned %s without an explanation", resp.Status)
	}
	return &api.Error{StatusCode: resp.StatusCode, Message: body.Message}
}

func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	var out T
	err := c.do(ctx, http.MethodGet, path, query, nil, &out)
	return out, err
}

// Status returns the status of the daemon.
func (c *Client) Status(ctx context.Context) (api.Status, error) {
	return get[api.Status](ctx, c, "/status", nil)
}

// Version returns the version of the daemon.
func (c *Client) Version(ctx context.Context) (api.Version, error) {
	return get[api.Version](ctx, c, "/version", nil)
}

// Networks lists networks by name, without their members.
func (c *Client) Networks(ctx context.Context, f api.Filters) ([]api.Network, error) {
	return get[[]api.Network](ctx, c, "/networks", f.Query())
}

// Network inspects one network.
func (c *Client) Network(ctx context.Context, ref string) (api.Network, error) {
	return get[api.Network](ctx, c, networkPath(ref, ""), nil)
}

// CreateNetwork creates a network.
func (c *Client) CreateNetwork(ctx context.Context, n api.NetworkCreate) (api.NetworkCreated, error) {
	var out api.NetworkCreated
	err := c.do(ctx, http.MethodPost, "/networks/create", nil, n, &out)
	return out, err
}

// RemoveNetwork removes a network that has no members.
func (c *Client) RemoveNetwork(ctx context.Context, ref string) error {
	return c.do(ctx, http.MethodDelete, networkPath(ref, ""), nil, nil, nil)
}

// ForceRemoveNetwork does the same, and also removes an engine-managed network that the
// engine no longer has.
func (c *Client) ForceRemoveNetwork(ctx context.Context, ref string) error {
	return c.do(ctx, http.MethodDelete, networkPath(ref, ""), url.Values{"force": {"true"}}, nil, nil)
}

// PruneNetworks removes all unused networks that match the filters, and
// returns their names.
func (c *Client) PruneNetworks(ctx context.Context, f api.Filters) ([]string, error) {
	var out api.NetworksPruned
	err := c.do(ctx, http.MethodPost, "/networks/prune", f.Query(), nil, &out)
	return out.NetworksDeleted, err
}

// Connect attaches a sandbox to a network. It returns what the daemon accepted but does not serve.
func (c *Client) Connect(ctx context.Context, network string, n api.NetworkConnect) (warnings []string, err error) {
	var out api.NetworkConnected
	err = c.do(ctx, http.MethodPost, networkPath(network, "/connect"), nil, n, &out)
	return out.Warnings, err
}

// Disconnect detaches a sandbox from a network.
func (c *Client) Disconnect(ctx context.Context, network string, n api.NetworkDisconnect) error {
	return c.do(ctx, http.MethodPost, networkPath(network, "/disconnect"), nil, n, nil)
}

// Addresses lists the holders of the addresses of a network that hosts share.
func (c *Client) Addresses(ctx context.Context, network string) ([]api.AddressHolder, error) {
	return get[[]api.AddressHolder](ctx, c, networkPath(network, "/addresses"), nil)
}

// Nodes lists the hosts of the cluster.
func (c *Client) Nodes(ctx context.Context) ([]api.Node, error) {
	return get[[]api.Node](ctx, c, "/nodes", nil)
}

// Node inspects one host of the cluster.
func (c *Client) Node(ctx context.Context, ref string) (api.Node, error) {
	return get[api.Node](ctx, c, "/nodes/"+url.PathEscape(ref), nil)
}

// RemoveNode removes a host from the cluster; with force also one that is alive.
func (c *Client) RemoveNode(ctx context.Context, ref string, force bool) error {
	return c.do(ctx, http.MethodDelete, "/nodes/"+url.PathEscape(ref), url.Values{"force": {strconv.FormatBool(force)}}, nil, nil)
}

// Sandboxes lists sandboxes, newest first.
func (c *Client) Sandboxes(ctx context.Context, f api.Filters) ([]api.SandboxSummary, error) {
	return get[[]api.SandboxSummary](ctx, c, "/sandboxes", f.Query())
}

// Sandbox inspects one sandbox.
func (c *Client) Sandbox(ctx context.Context, ref string) (api.Sandbox, error) {
	return get[api.Sandbox](ctx, c, sandboxPath(ref, ""), nil)
}

// CreateSandbox creates a sandbox. name may be empty.
func (c *Client) CreateSandbox(ctx context.Context, name string, s api.SandboxCreate) (api.SandboxCreated, error) {
	var out api.SandboxCreated
	err := c.do(ctx, http.MethodPost, "/sandboxes/create", url.Values{"name": {name}}, s, &out)
	return out, err
}

// RemoveSandbox removes a sandbox, with force also while its program is running.
func (c *Client) RemoveSandbox(ctx context.Context, ref string, force bool) error {
	return c.do(ctx, http.MethodDelete, sandboxPath(ref, ""), url.Values{"force": {strconv.FormatBool(force)}}, nil, nil)
}

// Withdraw makes services send a sandbox no new flows, before its program is stopped and it is removed. An earlier
// daemon does not know the request.
func (c *Client) Withdraw(ctx context.Context, ref string) error {
	return c.do(ctx, http.MethodPost, sandboxPath(ref, "/withdraw"), nil, nil, nil)
}

// CheckSandbox makes the daemon check a sandbox's interfaces immediately and repair
// them. It returns an error for what cannot be repaired or differs from want.
func (c *Client) CheckSandbox(ctx context.Context, ref string, want api.Expected) error {
	return c.do(ctx, http.MethodPost, sandboxPath(ref, "/check"), want.Query(), nil, nil)
}

// SandboxStarted reports the program that runs in a sandbox.
func (c *Client) SandboxStarted(ctx context.Context, ref string, s api.SandboxStarted) error {
	return c.do(ctx, http.MethodPost, sandboxPath(ref, "/started"), nil, s, nil)
}

// PublishPorts publishes further ports of a sandbox.
func (c *Client) PublishPorts(ctx context.Context, ref string, p api.PublishedPorts) error {
	return c.do(ctx, http.MethodPost, sandboxPath(ref, "/publish"), nil, p, nil)
}

// UnpublishPorts is the reverse.
func (c *Client) UnpublishPorts(ctx context.Context, ref string, p api.PublishedPorts) error {
	return c.do(ctx, http.MethodPost, sandboxPath(ref, "/unpublish"), nil, p, nil)
}

// SetBandwidth changes the bandwidth limits of a sandbox in a network.
func (c *Client) SetBandwidth(ctx context.Context, ref string, change api.BandwidthChange) error {
	return c.do(ctx, http.MethodPost, sandboxPath(ref, "/bandwidth"), nil, change, nil)
}

// RenameSandbox gives a sandbox another name.
func (c *Client) RenameSandbox(ctx context.Context, ref, name string) error {
	return c.do(ctx, http.MethodPost, sandboxPath(ref, "/rename"), url.Values{"name": {name}}, nil, nil)
}

// SandboxExited reports the exit of that program.
func (c *Client) SandboxExited(ctx context.Context, ref string, s api.SandboxExited) error {
	return c.do(ctx, http.MethodPost, sandboxPath(ref, "/exited"), nil, s, nil)
}

// Events returns the events after a number of a run of the daemon, of those the ones that filters select. It waits a
// while for one.
func (c *Client) Events(ctx context.Context, run string, after uint64, f api.Filters) (api.Events, error) {
	q := url.Values{"run": {run}, "after": {strconv.FormatUint(after, 10)}}
	maps.Copy(q, f.Query())
	return get[api.Events](ctx, c, "/events", q)
}

// Flows lists tracked connections.
func (c *Client) Flows(ctx context.Context, f api.FlowFilter) ([]api.Flow, error) {
	return get[[]api.Flow](ctx, c, "/conntrack", f.Query())
}

// FlushFlows removes tracked connections and returns how many.
func (c *Client) FlushFlows(ctx context.Context, f api.FlowFilter) (int, error) {
	var out api.FlowsFlushed
	err := c.do(ctx, http.MethodDelete, "/conntrack", f.Query(), nil, &out)
	return out.Removed, err
}

// networkPath escapes the reference, because names of networks may contain any character.
func networkPath(ref, verb string) string { return "/networks/" + url.PathEscape(ref) + verb }

func sandboxPath(ref, verb string) string { return "/sandboxes/" + url.PathEscape(ref) + verb }
