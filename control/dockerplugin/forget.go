// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/httpserve"
	"github.com/fairlead-net/fairlead/control/model"
)

// forgetAfter is for how long an engine must not have a network of its own, or one for
// an address pool, until that is removed: longer than it takes to make one.
const forgetAfter = time.Minute

// forget removes what the engine made and, as all of its answers for a while say, does
// not have: it died before it had finished, or removed the network without Fairlead's
// hearing of that.
func (n *Namer) forget(ctx context.Context, names model.EngineNames) error {
	now, missing := time.Now(), map[string]time.Time{}
	var gone []string
	for _, id := range unlisted(n.names.Snapshot(), names) {
		since, before := n.missing[id]
		if !before {
			since = now
		}
		missing[id] = since
		if now.Sub(since) >= n.forgetAfter {
			gone = append(gone, id)
		}
	}
	n.missing = missing
	if len(gone) == 0 {
		return nil
	}
	for _, id := range gone {
		delete(missing, id) // one that is in use yet is looked at anew
	}
	return n.names.RemoveOrphaned(ctx, gone)
}

// untilForget is how long it takes until something missing is forgotten, if it stays so.
func (n *Namer) untilForget() time.Duration {
	wait := n.forgetAfter
	for _, since := range n.missing {
		wait = min(wait, n.forgetAfter-time.Since(since))
	}
	return wait
}

// unlisted are the IDs of the networks and pools that the engine made and does not have.
func unlisted(s *desired.Snapshot, names model.EngineNames) (ids []string) {
	if names.Engine == "" {
		return nil
	}
	made := func(by string) bool { return by == names.Engine || by == model.EngineQueried }
	for n := range s.Networks() {
		if _, has := names.Networks[n.ID]; !has && n.Foreign && made(n.Engine) && !s.HasMembers(n.ID) {
			ids = append(ids, n.ID)
		}
	}
	for p := range s.Pools() {
		if made(p.Engine) && !names.Subnets[p.Prefix] {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

// Has asks whether the engine has a network. One that does not run has none.
func (n *Namer) Has(ctx context.Context, id string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var networks []network
	err := n.ask(ctx, "/networks", &networks)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return false, nil
	}
	for _, network := range networks {
		if network.ID == id {
			return true, err
		}
	}
	return false, err
}

// maker is who sends a request, as of a [model.Network]. An engine that serves the API
// that is asked for names has its socket.
func (s *Server) maker(ctx context.Context) string {
	conn, ok := httpserve.Conn(ctx).(*net.UnixConn)
	if !ok || s.cfg.Socket == "" {
		return ""
	}
	has, err := holds(conn, s.cfg.Socket)
	if err != nil {
		s.cfg.Log.Debug("it is not known which engine asks", "err", err)
	}
	if has {
		return model.EngineQueried
	}
	return ""
}

// holds reports whether the process at the other end has the socket that listens at a path.
func holds(conn *net.UnixConn, path string) (bool, error) {
	peer, err := httpserve.Peer(conn)
	if err != nil {
		return false, err
	}
	inode, err := httpserve.Listener(path)
	if err != nil || inode == "" {
		return false, err
	}
	return httpserve.HasSocket(int(peer.Pid), inode)
}
