// SPDX-License-Identifier: Apache-2.0

// Package embed runs a real etcd inside of this process, as the store of a cluster in which no other
// is installed. Only fairlead-store uses it: see package launch.
package embed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/cluster/token"
)

// Config says where the server stores its data, and where it listens.
type Config struct {
	Dir    string         // of its data; required
	Listen netip.AddrPort // for clients; required
	Log    *slog.Logger   // required

	// Token admits clients that have it, and no others. The zero token means no TLS: every host that
	// reaches the address can change everything.
	Token token.Token

	// NoSync leaves writes to the kernel, which loses some if the machine crashes. For tests.
	NoSync bool
}

// Sizes of what the server stores. A cluster of 1 000 nodes and 100 000 endpoints takes some 50 MB.
const (
	segmentSize = 16 << 20 // of the log, in which two are allocated; etcd's own are 64 MB
	quota       = 2 << 30  // of the database; above it, the server refuses writes
)

// setSegmentSize changes a variable of etcd's, once in a process.
var setSegmentSize = sync.OnceFunc(func() { wal.SegmentSizeBytes = segmentSize })

// Server is an etcd that runs.
type Server struct {
	etcd    *embed.Etcd
	cfg     Config
	lock    *os.File
	closing atomic.Bool
}

// Start starts a server and waits until it answers.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	setSegmentSize()
	s := &Server{cfg: cfg}
	lock, err := cfg.lock(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		_ = lock.Close()
		return nil, err
	}
	s.lock = lock
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	cfg := s.cfg
	options, err := cfg.options()
	if err != nil {
		return err
	}
	options.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newLogger(cfg.Log.With("component", "etcd"), &s.closing))
	etcd, err := embed.StartEtcd(options)
	if err != nil {
		return fmt.Errorf("etcd at %s: %w", cfg.Listen, err)
	}
	s.etcd = etcd
	select {
	case <-etcd.Server.ReadyNotify():
		return nil
	case err = <-etcd.Err():
	case <-etcd.Server.StopNotify():
		err = errors.New("it stopped")
	case <-ctx.Done():
		err = ctx.Err()
	}
	etcd.Close()
	return fmt.Errorf("etcd in %s: %w", cfg.Dir, err)
}

// lockTime is how long another server may take to end. It is longer than the daemon gives it.
const (
	lockTime = 15 * time.Second
	lockPoll = 50 * time.Millisecond
)

// lock waits until no other server uses the directory: the one of a daemon that was killed still closes
// its files, and still has the port.
func (c Config) lock(ctx context.Context) (*os.File, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(c.Dir, "etcd.lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockTime); ; {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			return f, nil
		}
		if time.Now().After(deadline) {
			err = fmt.Errorf("another store uses %s: %w", c.Dir, err)
			break
		}
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(lockPoll):
			continue
		}
		break
	}
	_ = f.Close()
	return nil, err
}

// Err receives the error with which the server ends, if it ends by itself.
func (s *Server) Err() <-chan error { return s.etcd.Err() }

// Close stops the server. Its data stay.
func (s *Server) Close() {
	s.closing.Store(true)
	s.etcd.Close()
	_ = s.lock.Close()
}

// options translates the configuration into etcd's.
func (c Config) options() (*embed.Config, error) {
	o := embed.NewConfig()
	o.Name = "fairlead"
	o.Dir = filepath.Join(c.Dir, "etcd")
	clients := url.URL{Scheme: "http", Host: c.Listen.String()}
	if !c.Token.IsZero() {
		files, err := c.Token.Server(filepath.Join(c.Dir, "etcd-tls"))
		if err != nil {
			return nil, err
		}
		clients.Scheme = "https"
		o.ClientTLSInfo.TrustedCAFile, o.ClientTLSInfo.CertFile, o.ClientTLSInfo.KeyFile = files.CA, files.Cert, files.Key
		o.ClientTLSInfo.ClientCertAuth = true
	}
	o.ListenClientUrls, o.AdvertiseClientUrls = []url.URL{clients}, []url.URL{clients}
	// There are no other members, and an address that nobody knows keeps it that way.
	peers := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	o.ListenPeerUrls, o.AdvertisePeerUrls = []url.URL{peers}, []url.URL{peers}
	o.InitialCluster = o.InitialClusterFromName(o.Name)
	o.SnapshotCount = 10000
	o.AutoCompactionMode, o.AutoCompactionRetention = embed.CompactorModePeriodic, "10m"
	o.QuotaBackendBytes = quota
	o.UnsafeNoFsync = c.NoSync
	o.EnableGRPCGateway = false
	o.AuthToken = "" // there are no users: certificates admit clients
	return o, nil
}
