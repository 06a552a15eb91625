// SPDX-License-Identifier: Apache-2.0

// Package dockerplugin serves a Docker Engine: libnetwork's remote network driver and remote IPAM
// driver, over a Unix socket in the engine's plugin directory. It translates the engine's
// requests to verbs of a [Controller], and does not touch the kernel. A [Namer] queries the
// engine for names, which those requests lack; the requests themselves never wait for the engine.
//
// Every request may arrive twice, since the engine retries when it did not get the answer, and
// requests of different endpoints arrive concurrently.
package dockerplugin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/httpserve"
	"github.com/fairlead-net/fairlead/control/model"
)

// Name is the name of the driver, and of the socket before its suffix: docker network create -d
// fairlead.
const Name = "fairlead"

// Limits of the server.
const (
	maxBody = 8 << 20 // in bytes; a port takes about 80
	// requestTimeout is how long a verb may wait for its turn, while the engine holds its own
	// locks.
	requestTimeout = 3 * time.Second
)

// Scopes of the network driver. With ScopeGlobal the engine can use it in a swarm.
const (
	ScopeLocal  = "local"
	ScopeGlobal = "global"
)

const contentType = "application/vnd.docker.plugins.v1.2+json"

// Controller is the part of the controller that the drivers use. Its verbs are idempotent;
// removing what does not exist succeeds.
type Controller interface {
	Snapshot() *desired.Snapshot
	CreateNetwork(ctx context.Context, spec model.NetworkSpec) (*model.Network, error)
	RemoveEngineNetwork(ctx context.Context, id string) error
	AllocateNetwork(ctx context.Context, id string, spec model.NetworkSpec) error
	FreeNetwork(ctx context.Context, id string) error
	ReserveEndpoint(ctx context.Context, networkID string, spec model.EndpointSpec) (*model.Endpoint, error)
	JoinEndpoint(ctx context.Context, id, name, netns string) (*model.Endpoint, error)
	PublishEndpoint(ctx context.Context, id string, ports []model.PortSpec, ipv4Only bool) error
	UnpublishEndpoint(ctx context.Context, id string) error
	ReleaseEndpoint(ctx context.Context, id string) error
	RequestPool(ctx context.Context, engine string, f model.Family, prefix netip.Prefix, within model.AddrRange) (*model.AddressPool, error)
	RequestSharedPool(ctx context.Context, engine, network string, f model.Family, prefix netip.Prefix, within model.AddrRange) (p *model.AddressPool, gateway netip.Prefix, err error)
	ReleasePool(ctx context.Context, id string) error
	RequestAddress(ctx context.Context, poolID string, want netip.Addr, gateway bool) (netip.Prefix, error)
	ReleaseAddress(ctx context.Context, poolID string, a netip.Addr) error
}

// Config configures a Server.
type Config struct {
	Controller Controller   // required
	Log        *slog.Logger // required
	Socket     string       // API socket of the engine that a Namer queries; "" for none
	Scope      string       // of the network driver: ScopeLocal or ScopeGlobal
}

// Server is the [http.Handler] of both drivers.
type Server struct {
	cfg Config
	mux *http.ServeMux
}

// handler answers a request's body with a value to encode.
type handler func(ctx context.Context, body []byte) (any, error)

// NewServer returns a Server. [Server.Serve] serves requests.
func NewServer(cfg Config) *Server {
	cfg.Scope = cmp.Or(cfg.Scope, ScopeLocal)
	s := &Server{cfg: cfg, mux: http.NewServeMux()}
	for method, h := range map[string]handler{
		"Plugin.Activate":                           answer(manifest{[]string{"NetworkDriver", "IpamDriver"}}),
		"NetworkDriver.GetCapabilities":             answer(networkCapabilities{cfg.Scope, cfg.Scope, true}),
		"NetworkDriver.AllocateNetwork":             decoded(s.allocateNetwork),
		"NetworkDriver.FreeNetwork":                 decoded(s.freeNetwork),
		"NetworkDriver.DiscoverNew":                 answer(done{}), // the cluster's store has all hosts
		"NetworkDriver.DiscoverDelete":              answer(done{}),
		"NetworkDriver.GwAllocCheck":                decoded(gatewayCheck),
		"NetworkDriver.CreateNetwork":               decoded(s.createNetwork),
		"NetworkDriver.DeleteNetwork":               decoded(s.deleteNetwork),
		"NetworkDriver.CreateEndpoint":              decoded(s.createEndpoint),
		"NetworkDriver.DeleteEndpoint":              decoded(s.deleteEndpoint),
		"NetworkDriver.EndpointOperInfo":            decoded(s.endpointInfo),
		"NetworkDriver.Join":                        decoded(s.join),
		"NetworkDriver.Leave":                       decoded(s.leave),
		"NetworkDriver.ProgramExternalConnectivity": decoded(s.publish),
		"NetworkDriver.RevokeExternalConnectivity":  decoded(s.leave),
		"IpamDriver.GetCapabilities":                answer(ipamCapabilities{}),
		"IpamDriver.GetDefaultAddressSpaces":        answer(addressSpaces{"fairlead-local", "fairlead-global"}),
		"IpamDriver.RequestPool":                    decoded(s.requestPool),
		"IpamDriver.ReleasePool":                    decoded(s.releasePool),
		"IpamDriver.RequestAddress":                 decoded(s.requestAddress),
		"IpamDriver.ReleaseAddress":                 decoded(s.releaseAddress),
	} {
		s.mux.Handle("POST /"+method, s.wrap(h))
	}
	s.mux.HandleFunc("/", s.unknown)
	return s
}

type manifest struct{ Implements []string }

// answer returns a handler with a constant answer.
func answer(v any) handler {
	return func(context.Context, []byte) (any, error) { return v, nil }
}

// decoded returns a handler that decodes the body. Unknown fields are ignored, since each version
// of the engine adds some.
func decoded[In any](h func(context.Context, *In) (any, error)) handler {
	return func(ctx context.Context, body []byte) (any, error) {
		var in In
		d := json.NewDecoder(bytes.NewReader(body))
		err := d.Decode(&in)
		if err == nil {
			if _, more := d.Token(); !errors.Is(more, io.EOF) {
				err = errors.New("trailing data after the JSON object")
			}
		}
		if err != nil {
			return nil, refuse("invalid request body: %v", err)
		}
		return h(ctx, &in)
	}
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Serve serves requests on the listener until ctx ends, then lets pending requests finish. It
// closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return httpserve.Serve(ctx, "Docker", l, s, requestTimeout, s.cfg.Log)
}

// Refuse answers every request with the reason why the daemon does not serve the engine, until
// ctx ends. It closes the listener.
func Refuse(ctx context.Context, l net.Listener, reason error, log *slog.Logger) error {
	s := &Server{cfg: Config{Log: log}}
	refuse := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.refused(w, http.StatusInternalServerError, model.OneLine(reason))
	})
	return httpserve.Serve(ctx, "Docker", l, refuse, requestTimeout, log)
}

func (s *Server) wrap(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				s.cfg.Log.Error("Docker request panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				s.refused(w, http.StatusInternalServerError, "internal error; see Fairlead's log")
			}
		}()
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			s.refused(w, http.StatusBadRequest, fmt.Sprintf("read the request: %v", err))
			return
		}
		out, err := h(ctx, body)
		if err != nil {
			s.cfg.Log.Warn("refused Docker request", "path", r.URL.Path, "err", err)
			s.refused(w, http.StatusInternalServerError, model.OneLine(err))
			return
		}
		s.reply(w, http.StatusOK, out)
	})
}

// unknown answers with the status that means "not implemented" to the engine.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	s.refused(w, http.StatusNotFound, fmt.Sprintf("Fairlead does not serve %s %s", r.Method, r.URL.Path))
}

// refusal is the text of an error, in the fields for a network driver and for an IPAM driver.
type refusal struct{ Err, Error string }

func (s *Server) refused(w http.ResponseWriter, code int, text string) {
	s.reply(w, code, refusal{text, text})
}

func (s *Server) reply(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // a type of ours that cannot be encoded
		panic(err)
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(code)
	if _, err := w.Write(append(b, '\n')); err != nil {
		s.cfg.Log.Debug("cannot send the answer", "err", err)
	}
}

// refuse returns the error for an invalid request.
func refuse(format string, args ...any) error {
	return model.Refuse(model.ErrInvalid, format, args...)
}

// done is the empty answer.
type done struct{}
