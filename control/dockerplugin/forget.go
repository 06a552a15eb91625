// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/host/socket"
	"github.com/fairlead-net/fairlead/control/httpserve"
	"github.com/fairlead-net/fairlead/control/model"
)

// orphanAfter is how long an engine must not have a network, or one for an address pool, until it
// is removed: longer than creating one takes.
const orphanAfter = time.Minute

// removeOrphans removes what the engine created but, by all of its answers for orphanAfter, no
// longer has: the engine died before it had finished, or Fairlead did not receive the request to
// remove it.
func (n *Namer) removeOrphans(ctx context.Context, names model.EngineNames) error {
	now, missing := time.Now(), map[string]time.Time{}
	var orphans []string
	for _, id := range unlisted(n.names.Snapshot(), names) {
		since, before := n.missing[id]
		if !before {
			since = now
		}
		missing[id] = since
		if now.Sub(since) >= n.orphanAfter {
			orphans = append(orphans, id)
		}
	}
	n.missing = missing
	if len(orphans) == 0 {
		return nil
	}
	for _, id := range orphans {
		delete(missing, id) // if it is still in use, its time starts again
	}
	return n.names.RemoveOrphaned(ctx, orphans)
}

// untilOrphan returns the time until the next missing object is to be removed.
func (n *Namer) untilOrphan() time.Duration {
	wait := n.orphanAfter
	for _, since := range n.missing {
		wait = min(wait, n.orphanAfter-time.Since(since))
	}
	return wait
}

// unlisted returns the IDs of the networks and pools that the engine created and does not have.
func unlisted(s *desired.Snapshot, names model.EngineNames) (ids []string) {
	if names.Engine == "" {
		return nil
	}
	made := func(by string) bool { return by == names.Engine || by == model.EngineQueried }
	for n := range s.Networks() {
		id := n.EngineRef()
		if _, has := names.Networks[id]; !has && id != "" && made(n.Engine) && !s.HasEngineMembers(n) {
			ids = append(ids, id)
		}
	}
	for p := range s.Pools() {
		if made(p.Engine) && !names.Subnets[p.Prefix] {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

// Has queries whether the engine has a network. An engine that is not running has none.
func (n *Namer) Has(ctx context.Context, id string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var networks []network
	err := n.get(ctx, "/networks", &networks)
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

// requester returns which engine sent a request, as in a [model.Network]. The engine that the
// Namer queries is recognized by its API socket.
func (s *Server) requester(ctx context.Context) string {
	conn, ok := httpserve.Conn(ctx).(*net.UnixConn)
	if !ok || s.cfg.Socket == "" {
		return ""
	}
	has, err := peerHasSocket(conn, s.cfg.Socket)
	if err != nil {
		s.cfg.Log.Debug("cannot identify the engine of a request", "err", err)
	}
	if has {
		return model.EngineQueried
	}
	return ""
}

// peerHasSocket reports whether the peer process has the socket that listens at a path.
func peerHasSocket(conn *net.UnixConn, path string) (bool, error) {
	peer, err := socket.Peer(conn)
	if err != nil {
		return false, err
	}
	inode, err := socket.Listener(path)
	if err != nil || inode == "" {
		return false, err
	}
	return socket.IsOpenIn(int(peer.Pid), inode)
}
