// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/fairlead-net/fairlead/control/model"
)

// ErrUnreachable means that the daemon did not respond, so that it is not known whether
// it executed the request.
var ErrUnreachable = errors.New("daemon unreachable")

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
	}
	return nil
}

type errorBody struct {
	Message string `json:"message"`
}

func refuse(kind error, format string, args ...any) error {
	return &model.Refusal{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

func statusOf(err error) int {
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
	}
	return http.StatusInternalServerError
}
