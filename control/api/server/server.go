// SPDX-License-Identifier: Apache-2.0

// Package server serves Fairlead's HTTP and JSON interface for a [Backend]. It does not access
// the kernel's network state; it shows snapshots and forwards verbs.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/httpserve"
	"github.com/fairlead-net/fairlead/control/model"
)

// Controller is the part of the Backend that reads and changes the model.
// Errors that wrap one of model's kinds are returned with the matching HTTP status.
type Controller interface {
	Snapshot() *desired.Snapshot
	Network(ref string) (*model.Network, error)
	Sandbox(ref string) (*model.Sandbox, error)
	CreateNetwork(ctx context.Context, spec model.NetworkSpec) (*model.Network, error)
	RemoveNetwork(ctx context.Context, ref string) error
	// PruneNetworks removes the networks without endpoints, except predefined ones
	// and those for which keep returns true, and returns their names.
	PruneNetworks(ctx context.Context, keep func(*model.Network) bool) ([]string, error)
	Connect(ctx context.Context, network, sandbox string, spec model.EndpointSpec) (*model.Endpoint, error)
	Disconnect(ctx context.Context, network, sandbox string, force bool) error
	CreateSandbox(ctx context.Context, spec model.SandboxSpec) (*model.Sandbox, error)
	// Warnings returns what CreateSandbox accepts but does not serve, and ConnectWarnings what Connect does.
	Warnings(spec model.SandboxSpec) []string
	ConnectWarnings(network string, spec model.EndpointSpec) []string
	RemoveSandbox(ctx context.Context, ref string, force bool) error
	RenameSandbox(ctx context.Context, ref, name string) error
	// Withdraw makes services send a sandbox no new flows, before its program is stopped and it is removed.
	Withdraw(ctx context.Context, ref string) error
	// PublishPorts publishes further ports of a sandbox, and UnpublishPorts is the reverse: of all that are given, or of none.
	PublishPorts(ctx context.Context, ref string, specs []model.PortSpec) error
	UnpublishPorts(ctx context.Context, ref string, specs []model.PortSpec) error
	// SetBandwidth changes the limits of a sandbox in a network, or in its only one. nil: a limit stays.
	SetBandwidth(ctx context.Context, ref, network string, ingress, egress *model.Limit) error
	SandboxStarted(ctx context.Context, ref string, pid int, start uint64) error
	// SandboxExited records the exit of the program, and removes the sandbox if it
	// is AutoRemove.
	SandboxExited(ctx context.Context, ref string, code int) error
	Services
}

// Node is the part of the Backend that represents the running daemon. A Node that
// also implements FlowFlusher serves DELETE /conntrack.
type Node interface {
	Flows(ctx context.Context, filter api.FlowFilter) ([]api.Flow, error)
	Status(ctx context.Context) (api.Status, error)
	// CheckSandbox checks a sandbox's interfaces in the kernel immediately and repairs
	// them. It returns an error for what cannot be repaired or differs from want.
	CheckSandbox(ctx context.Context, id string, want api.Expected) error
	// ForceRemoveNetwork removes a network, also an engine-managed one that the
	// engine no longer has.
	ForceRemoveNetwork(ctx context.Context, ref string) error
	// Unserved lists the gateways where DNS should be served but is not.
	Unserved() []netip.Addr
}

// Backend provides everything that the Server serves.
type Backend interface {
	Controller
	Node
}

// FlowFlusher is implemented by a Backend that can remove flows.
type FlowFlusher interface {
	FlushFlows(ctx context.Context, filter api.FlowFilter) (int, error)
}

// Cluster is implemented by a Backend that may be part of a cluster.
type Cluster interface {
	// Nodes lists the hosts of the cluster. It refuses if this host is not part of one.
	Nodes(ctx context.Context) ([]api.Node, error)
	// Node finds one by name, or by its ID or the beginning of that.
	Node(ctx context.Context, ref string) (api.Node, error)
	// RemoveNode removes a host from the cluster, with everything that it holds. It refuses one that is
	// alive, unless forced.
	RemoveNode(ctx context.Context, ref string, force bool) error
	// RemoteMembers lists the members of a network on other nodes, none if they cannot be known.
	RemoteMembers(ctx context.Context, n *model.Network) []model.RemoteMember
	// Addresses lists the holders of the addresses of a network.
	Addresses(ctx context.Context, n *model.Network) ([]api.AddressHolder, error)
}

// Config configures a Server.
type Config struct {
	Backend Backend      // required
	Log     *slog.Logger // required
	Version api.Version  // returned by GET /version
	RunDir  string       // contains the directory logs, for detached programs
	// Alive reports whether a process is still running. Required.
	Alive func(pid int, start uint64) bool
}

// Server is the [http.Handler] of the API.
type Server struct {
	cfg Config
	mux *http.ServeMux
}

// New returns a Server. Call [Server.Serve] to accept connections.
func New(cfg Config) *Server {
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
		"GET /networks/{ref}/addresses":   s.networkAddresses,
		"GET /nodes":                      s.nodeList,
		"GET /nodes/{ref}":                s.nodeInspect,
		"DELETE /nodes/{ref}":             s.nodeRemove,
		"GET /sandboxes":                  s.sandboxList,
		"POST /sandboxes/create":          s.sandboxCreate,
		"GET /sandboxes/{ref}":            s.sandboxInspect,
		"DELETE /sandboxes/{ref}":         s.sandboxRemove,
		"POST /sandboxes/{ref}/check":     s.sandboxCheck,
		"POST /sandboxes/{ref}/withdraw":  s.sandboxWithdraw,
		"POST /sandboxes/{ref}/publish":   s.sandboxPublish,
		"POST /sandboxes/{ref}/bandwidth": s.sandboxBandwidth,
		"POST /sandboxes/{ref}/rename":    s.sandboxRename,
		"POST /sandboxes/{ref}/unpublish": s.sandboxUnpublish,
		"POST /sandboxes/{ref}/started":   s.sandboxStarted,
		"POST /sandboxes/{ref}/exited":    s.sandboxExited,
		"GET /events":                     s.events,
		"GET /conntrack":                  s.flowList,
		"DELETE /conntrack":               s.flowFlush,
		"/":                               s.unknown,
	} {
		s.mux.Handle(pattern, s.wrap(h))
	}
	for pattern, h := range s.serviceRoutes() {
		s.mux.Handle(pattern, s.wrap(h))
	}
	return s
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Serve handles requests on the listener until ctx ends, and then waits a few seconds for
// active requests. It closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return httpserve.Serve(ctx, "API", l, s, 5*time.Second, s.cfg.Log)
}

// handler handles a request and returns the value to encode. nil means status 204.
type handler func(r *http.Request) (any, error)

func (s *Server) wrap(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), httpserve.RequestTimeout)
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				s.cfg.Log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				s.reply(w, r, http.StatusInternalServerError, api.ErrorBody{Message: "internal error; see the daemon's log"})
			}
		}()
		r.Body = http.MaxBytesReader(w, r.Body, api.MaxBody)
		v, err := h(r.WithContext(ctx))
		switch {
		case err != nil:
			code := api.StatusOf(err)
			if code == http.StatusInternalServerError {
				s.cfg.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
			}
			s.reply(w, r, code, api.ErrorBody{Message: model.OneLine(err)})
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
	if err != nil { // a type of this package cannot be encoded
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	// The length lets the client allocate the buffer once: a list can be a megabyte long.
	w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(code)
	if _, err := w.Write(append(b, '\n')); err != nil {
		s.cfg.Log.Debug("could not send the response", "path", r.URL.Path, "err", err)
	}
}

func (s *Server) unknown(r *http.Request) (any, error) {
	return nil, model.Refuse(model.ErrNotFound, "no such operation: %s %s", r.Method, r.URL.Path)
}

func (s *Server) ping(*http.Request) (any, error) { return "OK", nil }

func (s *Server) version(*http.Request) (any, error) { return s.cfg.Version, nil }

func (s *Server) status(r *http.Request) (any, error) {
	return s.cfg.Backend.Status(r.Context())
}

// decode decodes the body into v. Unknown fields, a body larger than api.MaxBody, and
// data after the object are errors.
func decode(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			return model.Refuse(model.ErrInvalid, "the request body has data after its JSON object")
		}
	}
	var tooLarge *http.MaxBytesError
	var typeErr *json.UnmarshalTypeError
	switch {
	case errors.As(err, &tooLarge):
		return model.Refuse(model.ErrInvalid, "the request body is larger than %d bytes", tooLarge.Limit)
	case errors.Is(err, io.EOF):
		return model.Refuse(model.ErrInvalid, "the request body is empty; send a JSON object")
	case errors.As(err, &typeErr):
		return model.Refuse(model.ErrInvalid, "%s must be %s, not %s", where(typeErr.Field), jsonType(typeErr.Type), typeErr.Value)
	}
	// encoding/json does not have a type for this error.
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return model.Refuse(model.ErrInvalid, "unknown field %s in the request", field)
	}
	return model.Refuse(model.ErrInvalid, "the request body is not valid JSON: %v", err)
}

// where names a field of a request, or the request itself.
func where(field string) string {
	if field == "" {
		return "the request body"
	}
	return fmt.Sprintf("field %q of the request", field)
}

// jsonType names the JSON values that a type takes.
func jsonType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number from 0 on"
	}
	return "another value"
}
