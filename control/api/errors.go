// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"net/http"

	"github.com/fairlead-net/fairlead/control/model"
)

// Error is an error response of the daemon. It matches model's
// kinds with errors.Is.
type Error struct {
	StatusCode int
	Message    string
}

// Error returns only the daemon's text.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the kind of refusal, or nil for an internal error.
func (e *Error) Unwrap() error {
	switch e.StatusCode {
	case http.StatusBadRequest:
		return model.ErrInvalid
	case http.StatusForbidden:
		return model.ErrForbidden
	case http.StatusNotFound:
		return model.ErrNotFound
	case http.StatusConflict:
		return model.ErrConflict
	case http.StatusGone:
		return model.ErrVanished
	case http.StatusNotImplemented:
		return model.ErrNotSupported
	case http.StatusServiceUnavailable:
		return model.ErrUnavailable
	}
	return nil
}

// ErrorBody is the body of an error response.
type ErrorBody struct {
	Message string `json:"message"`
}

// StatusOf returns the HTTP status of an error: the one that Error.Unwrap maps to its kind.
func StatusOf(err error) int {
	switch {
	case errors.Is(err, model.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, model.ErrConflict), errors.Is(err, model.ErrExhausted):
		return http.StatusConflict
	case errors.Is(err, model.ErrVanished):
		return http.StatusGone
	case errors.Is(err, model.ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, model.ErrForbidden):
		return http.StatusForbidden
	case errors.Is(err, model.ErrNotSupported):
		return http.StatusNotImplemented
	case errors.Is(err, model.ErrUnavailable):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
