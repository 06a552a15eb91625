// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/fairlead-net/fairlead/control/api"
)

// Services lists services by name.
func (c *Client) Services(ctx context.Context, f api.Filters) ([]api.Service, error) {
	return get[[]api.Service](ctx, c, "/services", f.Query())
}

// Service inspects one service.
func (c *Client) Service(ctx context.Context, ref string) (api.Service, error) {
	return get[api.Service](ctx, c, servicePath(ref, ""), nil)
}

// CreateService creates a service.
func (c *Client) CreateService(ctx context.Context, s api.ServiceCreate) (api.ServiceCreated, error) {
	var out api.ServiceCreated
	err := c.do(ctx, http.MethodPost, "/services/create", nil, s, &out)
	return out, err
}

// RemoveService removes a service.
func (c *Client) RemoveService(ctx context.Context, ref string) error {
	return c.do(ctx, http.MethodDelete, servicePath(ref, ""), nil, nil, nil)
}

// DrainBackend makes a backend of a service keep its flows and get no new ones.
func (c *Client) DrainBackend(ctx context.Context, ref, sandbox string) error {
	return c.do(ctx, http.MethodPost, servicePath(ref, "/drain"), nil, api.ServiceDrain{Sandbox: sandbox}, nil)
}

// ResumeBackend makes a drained backend get new flows again.
func (c *Client) ResumeBackend(ctx context.Context, ref, sandbox string) error {
	return c.do(ctx, http.MethodPost, servicePath(ref, "/resume"), nil, api.ServiceDrain{Sandbox: sandbox}, nil)
}

func servicePath(ref, verb string) string { return "/services/" + url.PathEscape(ref) + verb }
