// SPDX-License-Identifier: Apache-2.0

// Package dockerplugin serves a Docker Engine: libnetwork's remote network
// driver and remote IPAM driver, over a unix socket in the engine's plugin
// directory. It turns the engine's requests into verbs of a [Controller], and
// knows nothing of the kernel. A [Namer] asks the engine for names, which those
// requests lack; they themselves never wait for the engine.
//
// Every request may come twice, for the engine asks again when it did not get
// the answer, and those of different endpoints come at the same time.
package dockerplugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/httpserve"
	"github.com/fairlead-net/fairlead/control/model"
)

// Name is the driver's, and of the socket before its suffix: docker network
// create -d fairlead.
const Name = "fairlead"

// Limits of the server.
const (
	maxBody = 8 << 20 // a port takes about 80 bytes
	// requestTimeout is when a verb that still waits for its turn is given up: the
	// engine holds locks of its own meanwhile.
	requestTimeout = 3 * time.Second
)

const contentType = "application/vnd.docker.plugins.v1.2+json"

// Controller is what the drivers need of the side that decides. Its verbs may
// be repeated; what is gone already is removed with success.
type Controller interface {
	Snapshot() *desired.Snapshot
	CreateNetwork(ctx context.Context, spec model.NetworkSpec) (*model.Network, error)
	RemoveForeignNetwork(ctx context.Context, id string) error
	ReserveEndpoint(ctx context.Context, networkID string, spec model.EndpointSpec) (*model.Endpoint, error)
	JoinEndpoint(ctx context.Context, id, name, netns string) (*model.Endpoint, error)
	PublishEndpoint(ctx context.Context, id string, ports []model.PortSpec, ipv4Only bool) error
	UnpublishEndpoint(ctx context.Context, id string) error
	ReleaseEndpoint(ctx context.Context, id string) error
	RequestPool(ctx context.Context, engine string, is4 bool, prefix netip.Prefix, within model.AddrRange) (*model.AddressPool, error)
	ReleasePool(ctx context.Context, id string) error
	RequestAddress(ctx context.Context, poolID string, want netip.Addr, gateway bool) (netip.Prefix, error)
	ReleaseAddress(ctx context.Context, poolID string, a netip.Addr) error
}

// Config of a Server.
type Config struct {
	Controller Controller   // required
	Log        *slog.Logger // required
	Socket     string       // of the API of the engine that a Namer asks; "": none
}

// Server is the [http.Handler] of both drivers.
type Server struct {
	cfg Config
	mux *http.ServeMux
}

// handler answers a request's body with a value to encode.
type handler func(ctx context.Context, body []byte) (any, error)

// NewServer makes a Server. It serves nothing by itself: see [Server.Serve].
func NewServer(cfg Config) *Server {
	s := &Server{cfg: cfg, mux: http.NewServeMux()}
	for method, h := range map[string]handler{
		"Plugin.Activate":                           answer(manifest{[]string{"NetworkDriver", "IpamDriver"}}),
		"NetworkDriver.GetCapabilities":             answer(networkCapabilities{"local", "local"}),
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

// answer is the handler that always says the same.
func answer(v any) handler {
	return func(context.Context, []byte) (any, error) { return v, nil }
}

// decoded is the handler that passes the body on as a value. A field that it
// does not know is left alone: each version of the engine adds some.
func decoded[In any](h func(context.Context, *In) (any, error)) handler {
	return func(ctx context.Context, body []byte) (any, error) {
		var in In
		d := json.NewDecoder(bytes.NewReader(body))
		err := d.Decode(&in)
		if err == nil {
			if _, more := d.Token(); !errors.Is(more, io.EOF) {
				err = errors.New("it goes on after its JSON object")
			}
		}
		if err != nil {
			return nil, refuse("the request's body is not what this version knows: %v", err)
		}
		return h(ctx, &in)
	}
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Serve answers requests on the listener until ctx ends, then lets those under
// way finish. It closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return httpserve.Serve(ctx, "Docker", l, s, requestTimeout, s.cfg.Log)
}

// Refuse answers every request with the reason why nobody serves the engine, until ctx
// ends. It closes the listener.
func Refuse(ctx context.Context, l net.Listener, reason error, log *slog.Logger) error {
	s := &Server{cfg: Config{Log: log}}
	refuse := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.refused(w, http.StatusInternalServerError, oneLine(reason))
	})
	return httpserve.Serve(ctx, "Docker", l, refuse, requestTimeout, log)
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func (s *Server) wrap(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				s.cfg.Log.Error("request of Docker's panicked", "path", r.URL.Path, "panic", p)
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
			s.cfg.Log.Warn("request of Docker's refused", "path", r.URL.Path, "err", err)
			s.refused(w, http.StatusInternalServerError, oneLine(err))
			return
		}
		s.reply(w, http.StatusOK, out)
	})
}

// unknown answers with the status that the engine takes for "not implemented".
func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	s.refused(w, http.StatusNotFound, fmt.Sprintf("Fairlead does not serve %s %s", r.Method, r.URL.Path))
}

// refusal is an error's text, under the names it has for a network driver and
// for an IPAM driver.
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
		s.cfg.Log.Debug("answer not sent", "err", err)
	}
}

// refuse makes the error of a request that cannot be understood.
func refuse(format string, args ...any) error {
	return &model.Refusal{Kind: model.ErrInvalid, Text: fmt.Sprintf(format, args...)}
}

// done is the answer that has nothing to say.
type done struct{}
