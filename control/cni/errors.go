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

	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/control/attach"
	"github.com/fairlead-net/fairlead/control/model"
)

// errConflict is a plugin-specific code: a port, address or interface is taken, or the network
// differs from the configuration.
const errConflict = 100

func refuse(code uint, format string, args ...any) error {
	return types.NewError(code, fmt.Sprintf(format, args...), "")
}

// coded returns an error with the matching code of the specification. It returns nil for nil.
func coded(err error) error {
	var e *types.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		if err == error(e) {
			return e
		}
		return refuse(e.Code, "%s", oneLine(err)) // keeps the context of the error
	case errors.Is(err, client.ErrUnreachable), errors.Is(err, model.ErrUnavailable):
		return refuse(types.ErrTryAgainLater, "%s", oneLine(err))
	case errors.Is(err, attach.ErrOtherNamespace):
		return refuse(types.ErrInvalidEnvironmentVariables, "%s", oneLine(err))
	case errors.Is(err, model.ErrConflict), errors.Is(err, model.ErrVanished), errors.Is(err, model.ErrForbidden):
		return refuse(errConflict, "%s", oneLine(err))
	case errors.Is(err, model.ErrNotFound):
		// Removed between two requests; the runtime may retry.
		return refuse(types.ErrTryAgainLater, "%s", oneLine(err))
	case errors.Is(err, model.ErrInvalid):
		return refuse(types.ErrInvalidNetworkConfig, "%s", oneLine(err))
	case errors.Is(err, model.ErrNotSupported):
		return refuse(types.ErrUnsupportedField, "%s", oneLine(err))
	}
	return refuse(types.ErrInternal, "%s", oneLine(err))
}

// Failure encodes an error as runtimes expect it. Its version is the configuration's, or the
// latest if that is invalid.
func Failure(conf []byte, e *types.Error) []byte {
	v, err := new(version.ConfigDecoder).Decode(conf)
	if err != nil || !slices.Contains(version.All.SupportedVersions(), v) {
		v = version.Current()
	}
	b, _ := json.MarshalIndent(struct { // strings and a number can always be encoded
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{v, e}, "", "    ")
	return append(b, '\n')
}

// both combines two errors, either of which may be nil, into one with the code of the first.
func both(first, second error) error {
	if first == nil || second == nil {
		return cmp.Or(first, second)
	}
	var e *types.Error
	errors.As(coded(first), &e)
	return types.NewError(e.Code, e.Msg+"; "+oneLine(second), e.Details)
}

// oneLine returns an error's text in one line (a joined error has several), with command-line
// flags in remedies replaced.
func oneLine(err error) string { return flagNames.Replace(err.Error()) }

// flagNames replaces command-line flags by the terms of a configuration.
var flagNames = strings.NewReplacer(
	"\n", "; ",
	"--subnet", `subnet in "subnets"`,
	"--mac-address", `MAC address with the capability "mac"`,
	"--host", `"host" in the network configuration`,
)

// notAvailable returns the error of STATUS when the daemon is not available.
func notAvailable(err error) error {
	return refuse(types.ErrPluginNotAvailable, "%s", oneLine(err))
}
