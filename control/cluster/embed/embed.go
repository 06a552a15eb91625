// SPDX-License-Identifier: Apache-2.0

// Package embed runs a real etcd inside of this process, as the store of a cluster in which no other
// is installed.
package embed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"

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
	closing atomic.Bool
}

// Start starts a server and waits until it answers.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	setSegmentSize()
	s := &Server{cfg: cfg}
	options, err := cfg.options()
	if err != nil {
		return nil, err
	}
	log := logCore{cfg.Log.With("component", "etcd"), &s.closing}
	options.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(log))
	etcd, err := embed.StartEtcd(options)
	if err != nil {
		return nil, fmt.Errorf("start the embedded store at %s: %w", cfg.Listen, err)
	}
	s.etcd = etcd
	select {
	case <-etcd.Server.ReadyNotify():
		cfg.Log.Info("the embedded store serves", "listen", cfg.Listen, "dir", cfg.Dir)
		return s, nil
	case err = <-etcd.Err():
	case <-etcd.Server.StopNotify():
		err = errors.New("it stopped")
	case <-ctx.Done():
		err = ctx.Err()
	}
	etcd.Close()
	return nil, fmt.Errorf("start the embedded store in %s: %w", cfg.Dir, err)
}

// Endpoint returns the address at which clients on this host reach the server.
func (s *Server) Endpoint() string {
	listen := s.cfg.Listen
	if listen.Addr().IsUnspecified() {
		loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if listen.Addr().Is6() {
			loopback = netip.IPv6Loopback()
		}
		listen = netip.AddrPortFrom(loopback, listen.Port())
	}
	return listen.String()
}

// Err receives the error with which the server ends, if it ends by itself.
func (s *Server) Err() <-chan error { return s.etcd.Err() }

// Close stops the server. Its data stay.
func (s *Server) Close() {
	s.closing.Store(true)
	s.etcd.Close()
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
	return o, nil
}
