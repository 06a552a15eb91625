// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

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
		return refuse(types.ErrTryAgainLater, "%s", oneLine(err))
	case errors.Is(err, attach.ErrOtherNamespace):
		return refuse(types.ErrInvalidEnvironmentVariables, "%s", oneLine(err))
	case errors.Is(err, model.ErrConflict), errors.Is(err, model.ErrGone), errors.Is(err, model.ErrForbidden):
		return refuse(errConflict, "%s", oneLine(err))
	case errors.Is(err, model.ErrNotFound):
		// Removed between two requests; the runtime may begin anew.
		return refuse(types.ErrTryAgainLater, "%s", oneLine(err))
	case errors.Is(err, model.ErrInvalid):
		return refuse(types.ErrInvalidNetworkConfig, "%s", oneLine(err))
	case errors.Is(err, model.ErrNotSupported):
		return refuse(types.ErrUnsupportedField, "%s", oneLine(err))
	}
	return refuse(types.ErrInternal, "%s", oneLine(err))
}

// Failure is an error as runtimes read it. Its version is the configuration's, or the
// latest if that is none.
func Failure(conf []byte, e *types.Error) []byte {
	v, err := new(version.ConfigDecoder).Decode(conf)
	if err != nil || !slices.Contains(version.All.SupportedVersions(), v) {
		v = version.Current()
	}
	b, _ := json.MarshalIndent(struct { // strings and a number are always marshalled
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{v, e}, "", "    ")
	return append(b, '\n')
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

// oneLine is an error's text, where one that was joined has several lines, and the
// daemon's name flags of the command line as the remedy.
func oneLine(err error) string { return asHere.Replace(err.Error()) }

// asHere says what is a flag on the command line as a configuration does.
var asHere = strings.NewReplacer(
	"\n", "; ",
	"--subnet", `subnet in "subnets"`,
	"--mac-address", `MAC address with the capability "mac"`,
	"--host", `"host" in the network configuration`,
)

// notAvailable is the answer of STATUS when the daemon has none.
func notAvailable(err error) error {
	return refuse(types.ErrPluginNotAvailable, "%s", oneLine(err))
}
