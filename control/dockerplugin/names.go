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

// Times of a Namer.
const (
	// askTimeout bounds each question to the engine, which may hold a lock.
	askTimeout = 3 * time.Second
	// lookEvery is the time between two tries to reach an engine, and between two
	// looks whether there is anything to name.
	lookEvery = time.Second
	// settleTime is how long the engine's lists may take to tell what its event
	// told. It doubles until maxSettle while a sandbox lacks its name.
	settleTime = 100 * time.Millisecond
	maxSettle  = 2 * time.Second
)

// maxAnswer bounds an answer of the engine's; a container takes some kilobytes.
const maxAnswer = 256 << 20

// Names is what a Namer needs of the side that decides.
type Names interface {
	Snapshot() *desired.Snapshot
	SyncEngineNames(ctx context.Context, names model.EngineNames) error
	// RemoveOrphaned removes networks without endpoints, and pools without networks.
	RemoveOrphaned(ctx context.Context, ids []string) error
}

// Namer learns what the engine calls its networks and containers: the requests of a
// driver do not tell. It is no part of their handlers, for the engine holds locks
// while it waits for those. It listens to the engine's events, and asks for the lists
// when one concerns names; while nothing is the engine's, it asks nothing. An engine that
// does not answer leaves the names as they are. What the engine made and does not have
// is removed.
type Namer struct {
	names       Names
	log         *slog.Logger
	http        http.Client
	forgetAfter time.Duration
	engine      string               // the ID of the one that is followed
	missing     map[string]time.Time // what it does not have, and since when; by ID
}

// NewNamer makes a Namer of the engine whose API is at the socket.
func NewNamer(socket string, names Names, log *slog.Logger) *Namer {
	return &Namer{names: names, log: log, forgetAfter: forgetAfter, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: askTimeout}
			return d.DialContext(ctx, "unix", socket)
		},
		ResponseHeaderTimeout: askTimeout,
	}}}
}

// Run names until ctx ends.
func (n *Namer) Run(ctx context.Context) error {
	defer n.http.CloseIdleConnections()
	told := false
	for {
		if n.needed() {
			err := n.follow(ctx)
			if ctx.Err() == nil && !told {
				n.log.Info("names of an engine's networks and containers are not learnt for now", "err", err)
			}
			told = true
		} else {
			told = false
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookEvery):
		}
	}
}

// needed reports whether a network or a pool is an engine's.
func (n *Namer) needed() bool {
	s := n.names.Snapshot()
	for network := range s.Networks() {
		if network.Foreign {
			return true
		}
	}
	for range s.Pools() {
		return true
	}
	return false
}

// eventFilter chooses the events that concern names.
const eventFilter = `{"type":{"container":true,"network":true},"event":{"start":true,"rename":true,"create":true,"connect":true,"destroy":true}}`

// follow keeps the names right until the engine is gone.
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
		lines := bufio.NewScanner(stream) // an event a line
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			select {
			case events <- struct{}{}:
			default: // one is waiting
			}
		}
		ended <- errors.Join(errors.New("the engine's events ended"), lines.Err())
	}()
	var info struct{ ID string }
	if err := n.ask(ctx, "/info", &info); err != nil {
		return err
	}
	n.engine, n.missing = info.ID, nil
	again, settle, soon := time.After(0), settleTime, true // for what was before
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
			all, err := n.learn(ctx)
			if err != nil {
				return err
			}
			again = time.After(n.untilForget())
			if !all && settle <= maxSettle {
				again = time.After(settle)
				settle *= 2
			}
		}
	}
}

// network is one in the engine's list.
type network struct {
	ID   string `json:"Id"`
	Name string
	IPAM struct{ Config []struct{ Subnet string } }
}

// Learn asks the engine at once, as for a name that somebody asks for and is not known yet.
func (n *Namer) Learn(ctx context.Context) error {
	_, err := n.askNames(ctx, "")
	return err
}

// askNames asks for the names and passes them on.
func (n *Namer) askNames(ctx context.Context, engine string) (names model.EngineNames, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var networks []network
	if err := n.ask(ctx, "/networks", &networks); err != nil {
		return names, err
	}
	var containers []container
	if err := n.ask(ctx, "/containers/json", &containers); err != nil {
		return names, err
	}
	names = model.EngineNames{
		Engine: engine, Networks: map[string]string{}, Subnets: map[netip.Prefix]bool{}, Containers: map[string]model.EngineName{},
	}
	for _, network := range networks {
		names.Networks[network.ID] = network.Name
		for _, c := range network.IPAM.Config {
			if p, err := netip.ParsePrefix(c.Subnet); err == nil { // it may have none
				names.Subnets[p] = true
			}
		}
	}
	for _, c := range containers {
		for _, e := range c.NetworkSettings.Networks {
			names.Containers[e.EndpointID] = model.EngineName{Name: c.name(), ID: c.ID}
		}
	}
	return names, n.names.SyncEngineNames(ctx, names)
}

// learn asks for the names, passes them on, and has removed what the engine does not have. all:
// every network and sandbox of the engine's was among them.
func (n *Namer) learn(ctx context.Context) (all bool, err error) {
	names, err := n.askNames(ctx, n.engine)
	if err != nil {
		return false, err
	}
	if err := n.forget(ctx, names); err != nil {
		return false, err
	}
	s := n.names.Snapshot()
	all = true
	for network := range s.Networks() {
		all = all && (!network.Foreign || names.Networks[network.ID] != "")
	}
	for sb := range s.Sandboxes() {
		all = all && (!sb.Foreign || sb.EngineID != "")
	}
	return all, nil
}

// container is a running one, in the engine's list.
type container struct {
	ID              string   `json:"Id"`
	Names           []string // with a slash before; those in another's view have two
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

// ask gets a list.
func (n *Namer) ask(ctx context.Context, path string, out any) error {
	body, err := n.open(ctx, path)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("ask the engine for %s: %w", path, err)
	}
	return nil
}

// open sends a request whose answer the caller closes.
func (n *Namer) open(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := n.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the engine: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("ask the engine for %s: %s", path, resp.Status)
	}
	return resp.Body, nil
}
