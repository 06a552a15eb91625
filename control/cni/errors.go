// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/attach"
	"github.com/fairlead-net/fairlead/control/model"
)

// errConflict is the plugin's own code: a port, address or interface is taken, or
// the network is another than the configuration says.
const errConflict = 100

func refuse(code uint, format string, args ...any) error {
	return types.NewError(code, fmt.Sprintf(format, args...), "")
}

// coded gives an error the code of the specification's that fits; nil is nil.
func coded(err error) error {
	var e *types.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		if err == error(e) {
			return e
		}
		return refuse(e.Code, "%s", oneLine(err)) // with whose it is
	case errors.Is(err, api.ErrUnreachable):
		return types.NewError(types.ErrTryAgainLater, err.Error(), `another daemon's socket is named by "host" in the network configuration`)
	case errors.Is(err, attach.ErrOtherNamespace):
		return refuse(types.ErrInvalidEnvironmentVariables, "%v", err)
	case errors.Is(err, model.ErrConflict), errors.Is(err, model.ErrGone), errors.Is(err, model.ErrForbidden):
		return refuse(errConflict, "%s", oneLine(err))
	case errors.Is(err, model.ErrNotFound):
		// Removed between two requests; the runtime may begin anew.
		return refuse(types.ErrTryAgainLater, "%v", err)
	case errors.Is(err, model.ErrInvalid):
		return refuse(types.ErrInvalidNetworkConfig, "%v", err)
	case errors.Is(err, model.ErrNotSupported):
		return refuse(types.ErrUnsupportedField, "%v", err)
	}
	return refuse(types.ErrInternal, "%s", oneLine(err))
}

// both is two errors as one that has the code of the first; either may be nil.
func both(first, second error) error {
	if first == nil || second == nil {
		return cmp.Or(first, second)
	}
	var e *types.Error
	errors.As(coded(first), &e)
	return types.NewError(e.Code, e.Msg+"; "+oneLine(second), e.Details)
}

// oneLine is an error's text; one that was joined has several lines.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// notAvailable is the answer of STATUS when the daemon has none.
func notAvailable(err error) error {
	return refuse(types.ErrPluginNotAvailable, "%v", err)
}
