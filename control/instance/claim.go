// SPDX-License-Identifier: Apache-2.0

package instance

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

	"github.com/fairlead-net/fairlead/control/host/socket"
)

const (
	// claimName is in the abstract namespace of Unix sockets, of which each network namespace has
	// its own. The kernel frees it when its holder exits.
	claimName = "@fairlead/daemon"
	// claimWait bounds the wait for a killed holder to exit: the kernel releases its locks one by
	// one.
	claimWait = time.Second
	claimPoll = 10 * time.Millisecond
	// answerWait bounds the wait for an answer. Only a holder that is stopped, or an unrelated
	// process, makes the daemon wait that long.
	answerWait = 3 * time.Second
	maxRunDir  = 4096
)

// holder is the process that has claimed a network namespace.
type holder struct {
	pid    int    // 0 if it is in another PID namespace
	uid    uint32 // as this process sees it
	runDir string // "" if it did not answer
}

func (h holder) String() string {
	s := fmt.Sprintf("process %d", h.pid)
	if h.pid == 0 {
		s = "a process in another PID namespace"
	}
	if h.runDir != "" {
		s += fmt.Sprintf(", --run-dir %q", h.runDir)
	}
	return s
}

// claimNetNS makes this process the one that removes leftovers in its network namespace, until
// release is called. A daemon of other directories would take the devices of a running one for
// leftovers.
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
		return nil, fmt.Errorf("another fairlead daemon (%v) already manages this network namespace (stop it first, or run this one in its own namespace, as with ip netns exec)", other)
	}
	// Any process may take the name, so that must not keep a daemon from starting.
	log.Warn("the socket that detects a second daemon is held by another user's process; make sure that no other daemon runs in this network namespace",
		"socket", claimName, "pid", other.pid, "uid", other.uid, "err", err)
	return func() error { return nil }, nil
}

// listenClaim listens at the name, if necessary as soon as a dying holder releases it.
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

// serveRunDir sends the run directory to each client.
func serveRunDir(listener net.Listener, runDir string) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors: retry
			time.Sleep(claimPoll)
			continue
		}
		_, _ = io.WriteString(conn, runDir) // the client may have disconnected
		_ = conn.Close()
	}
}

// queryHolder identifies the process that has the name. The kernel provides its PID.
func queryHolder() (_ holder, retErr error) {
	conn, err := net.DialTimeout("unix", claimName, answerWait)
	if err != nil {
		return holder{}, err
	}
	defer func() { retErr = errors.Join(retErr, conn.Close()) }()
	cred, err := socket.Peer(conn.(*net.UnixConn))
	if err != nil {
		return holder{}, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(answerWait)); err != nil {
		return holder{}, err
	}
	h := holder{pid: int(cred.Pid), uid: cred.Uid}
	if text, err := io.ReadAll(io.LimitReader(conn, maxRunDir)); err == nil { // the answer is optional
		h.runDir = string(text)
	}
	return h, nil
}
