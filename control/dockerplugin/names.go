// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// Timing of a Namer.
const (
	// queryTimeout bounds each query to the engine, which may hold a lock.
	queryTimeout = 3 * time.Second
	// pollInterval is the time between attempts to reach an engine, and between checks whether
	// there is anything to name.
	pollInterval = time.Second
	// settleTime is how long after an event the engine's lists may lack the change. It doubles up
	// to maxSettle while a sandbox lacks its name.
	settleTime = 100 * time.Millisecond
	maxSettle  = 2 * time.Second
)

// maxAnswer bounds the engine's answers, in bytes. A container takes some kilobytes.
const maxAnswer = 256 << 20

// Names is the part of the controller that a Namer uses.
type Names interface {
	Snapshot() *desired.Snapshot
	SyncEngineNames(ctx context.Context, names model.EngineNames) error
	// RemoveOrphaned removes networks without endpoints, and pools without networks.
	RemoveOrphaned(ctx context.Context, ids []string) error
}

// Namer fetches the names of the engine's networks and containers, which requests to the drivers
// lack. It does not run in their handlers, since the engine holds locks while it waits for those.
// It follows the engine's events, and fetches the lists when an event concerns names; as long as
// the engine manages nothing here, it sends no queries. If the engine does not answer, the names
// stay as they are. What the engine created and no longer has is removed.
type Namer struct {
	names       Names
	log         *slog.Logger
	http        http.Client
	orphanAfter time.Duration
	engine      string               // ID of the engine that is followed
	missing     map[string]time.Time // by ID, when an object was first missing from the engine
	aliases     map[string][]string  // by the ID of an endpoint, which keeps them while it exists
}

// NewNamer returns a Namer for the engine whose API is at the socket.
func NewNamer(socket string, names Names, log *slog.Logger) *Namer {
	return &Namer{names: names, log: log, orphanAfter: orphanAfter, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: queryTimeout}
			return d.DialContext(ctx, "unix", socket)
		},
		ResponseHeaderTimeout: queryTimeout,
	}}}
}

// Run keeps the names up to date until ctx ends.
func (n *Namer) Run(ctx context.Context) error {
	defer n.http.CloseIdleConnections()
	logged := false
	for {
		if n.needed() {
			err := n.follow(ctx)
			if ctx.Err() == nil && !logged {
				n.log.Info("cannot fetch the names of the engine's networks and containers; retrying", "err", err)
			}
			logged = true
		} else {
			logged = false
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pollInterval):
		}
	}
}

// needed reports whether an engine has a network or a pool.
func (n *Namer) needed() bool {
	s := n.names.Snapshot()
	for network := range s.Networks() {
		if network.EngineRef() != "" {
			return true
		}
	}
	for range s.Pools() {
		return true
	}
	return false
}

// eventFilter selects the events that concern names.
const eventFilter = `{"type":{"container":true,"network":true},"event":{"start":true,"rename":true,"create":true,"connect":true,"destroy":true}}`

// follow keeps the names up to date until the connection to the engine ends.
func (n *Namer) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := n.open(ctx, "/events?filters="+url.QueryEscape(eventFilter))
	if err != nil {
		return err
	}
	defer stream.Close()
	events, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		lines := bufio.NewScanner(stream) // one event per line
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			select {
			case events <- struct{}{}:
			default: // one is pending
			}
		}
		ended <- errors.Join(errors.New("the engine's event stream ended"), lines.Err())
	}()
	var info struct{ ID string }
	if err := n.get(ctx, "/info", &info); err != nil {
		return err
	}
	n.engine, n.missing = info.ID, nil
	again, settle, soon := time.After(0), settleTime, true // for events before the stream began
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return err
		case <-events:
			if !soon {
				settle, soon = settleTime, true
				again = time.After(settle)
			}
		case <-again:
			soon = false
			all, err := n.sync(ctx)
			if err != nil {
				return err
			}
			again = time.After(n.untilOrphan())
			if !all && settle <= maxSettle {
				again = time.After(settle)
				settle *= 2
			}
		}
	}
}

// network is a network in the engine's list.
type network struct {
	ID   string `json:"Id"`
	Name string
	IPAM struct{ Config []struct{ Subnet string } }
}

// Refresh fetches names immediately, for a name that was requested and is not known yet.
func (n *Namer) Refresh(ctx context.Context) error {
	names, err := n.fetchNames(ctx, "")
	if err != nil {
		return err
	}
	return n.names.SyncEngineNames(ctx, names)
}

// fetchNames fetches the names.
func (n *Namer) fetchNames(ctx context.Context, engine string) (names model.EngineNames, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var networks []network
	if err := n.get(ctx, "/networks", &networks); err != nil {
		return names, err
	}
	var containers []container
	if err := n.get(ctx, "/containers/json", &containers); err != nil {
		return names, err
	}
	names = model.EngineNames{
		Engine: engine, Networks: map[string]string{}, Subnets: map[netip.Prefix]bool{}, Containers: map[string]model.EngineName{},
	}
	for _, network := range networks {
		names.Networks[network.ID] = network.Name
		for _, c := range network.IPAM.Config {
			if p, err := netip.ParsePrefix(c.Subnet); err == nil { // there may be no subnet
				names.Subnets[p] = true
			}
		}
	}
	for _, c := range containers {
		for _, e := range c.NetworkSettings.Networks {
			names.Containers[e.EndpointID] = model.EngineName{Name: c.name(), ID: c.ID}
		}
	}
	return names, nil
}

// fetchAliases adds the aliases of containers in shared networks, which the engine's list of containers
// lacks: each container is queried once.
func (n *Namer) fetchAliases(ctx context.Context, names *model.EngineNames) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	s, known := n.names.Snapshot(), map[string][]string{}
	for id, c := range names.Containers {
		ep := s.Endpoint(id)
		if ep == nil {
			continue
		}
		if in := s.Network(ep.NetworkID); in == nil || !in.Has().Shared {
			continue
		}
		aliases, ok := n.aliases[id]
		if !ok {
			var err error
			if aliases, err = n.aliasesOf(ctx, c.ID, id); err != nil {
				if ctx.Err() != nil {
					return err
				}
				continue // it has ended
			}
		}
		known[id] = aliases
	}
	n.aliases, names.Aliases = known, known
	return nil
}

// aliasesOf queries the aliases of a container's endpoint. Of those only the ones that the user gave
// count: the engine adds the container's short ID.
func (n *Namer) aliasesOf(ctx context.Context, container, endpoint string) (aliases []string, err error) {
	var c struct {
		NetworkSettings struct {
			Networks map[string]struct {
				EndpointID string
				Aliases    []string
			}
		}
	}
	if err := n.get(ctx, "/containers/"+url.PathEscape(container)+"/json", &c); err != nil {
		return nil, err
	}
	for _, e := range c.NetworkSettings.Networks {
		if e.EndpointID != endpoint {
			continue
		}
		for _, alias := range e.Aliases {
			if !strings.HasPrefix(container, alias) {
				aliases = append(aliases, alias)
			}
		}
	}
	return aliases, nil
}

// sync fetches the names, passes them on, and removes what the engine no longer has. all reports
// whether every network and sandbox of the engine had a name.
func (n *Namer) sync(ctx context.Context) (all bool, err error) {
	names, err := n.fetchNames(ctx, n.engine)
	if err != nil {
		return false, err
	}
	if err := n.fetchAliases(ctx, &names); err != nil {
		return false, err
	}
	if err := n.names.SyncEngineNames(ctx, names); err != nil {
		return false, err
	}
	if err := n.removeOrphans(ctx, names); err != nil {
		return false, err
	}
	s := n.names.Snapshot()
	all = true
	for network := range s.Networks() {
		all = all && (network.ManagedBy != model.ByEngine || names.Networks[network.ID] != "")
	}
	for sb := range s.Sandboxes() {
		all = all && (sb.ManagedBy != model.ByEngine || sb.EngineID != "")
	}
	return all, nil
}

// container is a running container in the engine's list.
type container struct {
	ID              string   `json:"Id"`
	Names           []string // with a leading slash; names used by linked containers have two
	NetworkSettings struct {
		Networks map[string]struct{ EndpointID string }
	}
}

func (c *container) name() string {
	for _, name := range c.Names {
		if bare := strings.TrimPrefix(name, "/"); !strings.Contains(bare, "/") {
			return bare
		}
	}
	return ""
}

// get fetches a list.
func (n *Namer) get(ctx context.Context, path string, out any) error {
	body, err := n.open(ctx, path)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("query %s of the engine: %w", path, err)
	}
	return nil
}

// open sends a request. The caller closes the response body.
func (n *Namer) open(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := n.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("query the engine: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("query %s of the engine: %s", path, resp.Status)
	}
	return resp.Body, nil
}
