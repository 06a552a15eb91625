// SPDX-License-Identifier: Apache-2.0

// Package api is Fairlead's HTTP and JSON interface: a [Server] over a
// [Backend], and the [Client] the command line uses. Shapes are those of the
// Docker Engine API where one exists. The package never sees the kernel's
// network state; it shows snapshots and passes verbs on.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/httpserve"
	"github.com/fairlead-net/fairlead/control/model"
)

// Limits of the server.
const (
	MaxBody        = 1 << 20 // bytes of a request body
	requestTimeout = httpserve.RequestTimeout
)

// Controller is the part of the Backend that holds and changes the model.
// Errors that wrap one of model's kinds become the matching HTTP status.
type Controller interface {
	Snapshot() *model.Snapshot
	Network(ref string) (*model.Network, error)
	Sandbox(ref string) (*model.Sandbox, error)
	CreateNetwork(ctx context.Context, spec model.NetworkSpec) (*model.Network, error)
	RemoveNetwork(ctx context.Context, ref string) error
	// PruneNetworks removes every network without endpoints that is not
	// predefined and that keep does not keep, and returns their names.
	PruneNetworks(ctx context.Context, keep func(*model.Network) bool) ([]string, error)
	Connect(ctx context.Context, network, sandbox string, spec model.EndpointSpec) (*model.Endpoint, error)
	Disconnect(ctx context.Context, network, sandbox string, force bool) error
	CreateSandbox(ctx context.Context, spec model.SandboxSpec) (*model.Sandbox, error)
	// Warnings tells what CreateSandbox accepts but does not serve.
	Warnings(spec model.SandboxSpec) []string
	RemoveSandbox(ctx context.Context, ref string, force bool) error
	SandboxStarted(ctx context.Context, ref string, pid int, start uint64) error
	// SandboxExited notes the end of the program, and removes the sandbox if it
	// is AutoRemove.
	SandboxExited(ctx context.Context, ref string, code int) error
}

// Node is the part of the Backend that knows the running daemon. A Node that
// also has FlushFlows(ctx, FlowFilter) (int, error) serves DELETE /conntrack.
type Node interface {
	Flows(ctx context.Context, filter FlowFilter) ([]Flow, error)
	Status(ctx context.Context) (Status, error)
	// CheckSandbox looks at a sandbox's interfaces in the kernel at once and
	// repairs them. An error says what stays wrong, or is not what a runtime was told.
	CheckSandbox(ctx context.Context, id string, want Expected) error
	// ForceRemoveNetwork removes a network, also a container engine's that the
	// engine does not have.
	ForceRemoveNetwork(ctx context.Context, ref string) error
	// Unserved lists the gateways where names should be served and are not.
	Unserved() []netip.Addr
}

// Backend is all that the Server serves.
type Backend interface {
	Controller
	Node
}

// FlowFlusher is what a Backend offers that can remove flows.
type FlowFlusher interface {
	FlushFlows(ctx context.Context, filter FlowFilter) (int, error)
}

// Config of a Server.
type Config struct {
	Backend Backend      // required
	Log     *slog.Logger // required
	Version Version      // what GET /version answers
	RunDir  string       // logs of detached programs are in its directory logs
	// Alive tells whether a process still runs; default: /proc.
	Alive func(pid int, start uint64) bool
}

// Server is the [http.Handler] of the API.
type Server struct {
	cfg Config
	mux *http.ServeMux
}

// NewServer makes a Server. It serves nothing by itself: see [Server.Serve].
func NewServer(cfg Config) *Server {
	if cfg.Alive == nil {
		cfg.Alive = ProcessAlive
	}
	s := &Server{cfg: cfg, mux: http.NewServeMux()}
	for pattern, h := range map[string]handler{
		"GET /_ping":                      s.ping,
		"GET /version":                    s.version,
		"GET /status":                     s.status,
		"GET /networks":                   s.networkList,
		"POST /networks/create":           s.networkCreate,
		"POST /networks/prune":            s.networkPrune,
		"GET /networks/{ref}":             s.networkInspect,
		"DELETE /networks/{ref}":          s.networkRemove,
		"POST /networks/{ref}/connect":    s.networkConnect,
		"POST /networks/{ref}/disconnect": s.networkDisconnect,
		"GET /sandboxes":                  s.sandboxList,
		"POST /sandboxes/create":          s.sandboxCreate,
		"GET /sandboxes/{ref}":            s.sandboxInspect,
		"DELETE /sandboxes/{ref}":         s.sandboxRemove,
		"POST /sandboxes/{ref}/check":     s.sandboxCheck,
		"POST /sandboxes/{ref}/started":   s.sandboxStarted,
		"POST /sandboxes/{ref}/exited":    s.sandboxExited,
		"GET /conntrack":                  s.flowList,
		"DELETE /conntrack":               s.flowFlush,
		"/":                               s.unknown,
	} {
		s.mux.Handle(pattern, s.wrap(h))
	}
	return s
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Serve answers requests on the listener until ctx ends, then lets those under
// way finish for a few seconds. It closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return httpserve.Serve(ctx, "API", l, s, 5*time.Second, s.cfg.Log)
}

// handler answers a request with a value to encode; nil means status 204.
type handler func(r *http.Request) (any, error)

func (s *Server) wrap(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				s.cfg.Log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", p)
				s.reply(w, r, http.StatusInternalServerError, errorBody{Message: "internal error; see the daemon's log"})
			}
		}()
		r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
		v, err := h(r.WithContext(ctx))
		switch {
		case err != nil:
			code := statusOf(err)
			if code == http.StatusInternalServerError {
				s.cfg.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
			}
			s.reply(w, r, code, errorBody{Message: oneLine(err)})
		case v == nil:
			w.WriteHeader(http.StatusNoContent)
		case strings.HasSuffix(r.URL.Path, "/create"):
			s.reply(w, r, http.StatusCreated, v)
		default:
			s.reply(w, r, http.StatusOK, v)
		}
	})
}

func (s *Server) reply(w http.ResponseWriter, r *http.Request, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // a type of ours that cannot be encoded
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	// The client reads the answer at once then: a list can have a megabyte.
	w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(code)
	if _, err := w.Write(append(b, '\n')); err != nil {
		s.cfg.Log.Debug("answer not sent", "path", r.URL.Path, "err", err)
	}
}

func (s *Server) unknown(r *http.Request) (any, error) {
	return nil, refuse(model.ErrNotFound, "no such operation: %s %s", r.Method, r.URL.Path)
}

func (s *Server) ping(*http.Request) (any, error) { return "OK", nil }

func (s *Server) version(*http.Request) (any, error) { return s.cfg.Version, nil }

func (s *Server) status(r *http.Request) (any, error) {
	return s.cfg.Backend.Status(r.Context())
}

// decode reads the body into v. Unknown fields, a body above MaxBody, and
// anything after the object are errors.
func decode(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			return refuse(model.ErrInvalid, "the request body goes on after its JSON object")
		}
	}
	var tooLarge *http.MaxBytesError
	var typeErr *json.UnmarshalTypeError
	switch {
	case errors.As(err, &tooLarge):
		return refuse(model.ErrInvalid, "the request body is larger than %d bytes", tooLarge.Limit)
	case errors.Is(err, io.EOF):
		return refuse(model.ErrInvalid, "the request body is empty; a JSON object is wanted")
	case errors.As(err, &typeErr):
		return refuse(model.ErrInvalid, "field %q of the request must be a %s, not a %s", typeErr.Field, typeErr.Type, typeErr.Value)
	}
	// encoding/json has no type for this error.
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return refuse(model.ErrInvalid, "unknown field %s in the request", field)
	}
	return refuse(model.ErrInvalid, "the request body is not valid JSON: %v", err)
}

// oneLine is an error as clients print it. One that was joined has several.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
