// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/httpserve"
)

const (
	// claimName is in the abstract namespace of unix sockets, of which each
	// network namespace has its own. The kernel frees it when its holder dies.
	claimName = "@fairlead/daemon"
	// claimWait is for a killed holder to be gone: its locks go one by one.
	claimWait = time.Second
	claimPoll = 10 * time.Millisecond
	// answerWait bounds the wait for an answer; only a holder that is stopped, or a
	// stranger, costs that long.
	answerWait = 3 * time.Second
	maxRunDir  = 4096
)

// holder is who has claimed a network namespace.
type holder struct {
	pid    int    // 0: it is in another PID namespace
	uid    uint32 // as this process sees it
	runDir string // "": it did not say
}

func (h holder) String() string {
	who := fmt.Sprintf("process %d", h.pid)
	if h.pid == 0 {
		who = "a process of another PID namespace"
	}
	if h.runDir != "" {
		who += fmt.Sprintf(", with --run-dir %q,", h.runDir)
	}
	return who
}

// claimNetNS makes this process the one that removes leftovers in its network
// namespace until release: to a daemon of other directories, the devices of a
// running one would be leftovers.
func claimNetNS(ctx context.Context, runDir string, log *slog.Logger) (release func() error, err error) {
	listener, err := listenClaim(ctx)
	if err == nil {
		go serveRunDir(listener, runDir)
		return listener.Close, nil
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("claim the network namespace: %w", err)
	}
	other, err := queryHolder()
	if err == nil && (other.uid == 0 || other.uid == uint32(os.Geteuid())) {
		return nil, fmt.Errorf("%v rules this network namespace (stop it first, or use a network namespace of its own, as with ip netns exec)", other)
	}
	// Anyone may take the name; that must not keep a daemon from its work.
	log.Warn("a stranger keeps daemons from finding each other; see that no other is in this network namespace",
		"socket", claimName, "pid", other.pid, "uid", other.uid, "err", err)
	return func() error { return nil }, nil
}

// listenClaim takes the name, as soon as a holder that is dying lets go.
func listenClaim(ctx context.Context) (net.Listener, error) {
	for deadline := time.Now().Add(claimWait); ; {
		listener, err := net.Listen("unix", claimName)
		if !errors.Is(err, unix.EADDRINUSE) || time.Now().After(deadline) {
			return listener, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(claimPoll):
		}
	}
}

// serveRunDir tells whoever asks which run directory the holder has.
func serveRunDir(listener net.Listener, runDir string) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no file is free: the next may have more luck
			time.Sleep(claimPoll)
			continue
		}
		_, _ = io.WriteString(conn, runDir) // who went away needs no answer
		_ = conn.Close()
	}
}

// queryHolder finds out who has the name. The kernel says which process it is.
func queryHolder() (_ holder, retErr error) {
	conn, err := net.DialTimeout("unix", claimName, answerWait)
	if err != nil {
		return holder{}, err
	}
	defer func() { retErr = errors.Join(retErr, conn.Close()) }()
	cred, err := httpserve.Peer(conn.(*net.UnixConn))
	if err != nil {
		return holder{}, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(answerWait)); err != nil {
		return holder{}, err
	}
	h := holder{pid: int(cred.Pid), uid: cred.Uid}
	if text, err := io.ReadAll(io.LimitReader(conn, maxRunDir)); err == nil { // it need not answer
		h.runDir = string(text)
	}
	return h, nil
}
