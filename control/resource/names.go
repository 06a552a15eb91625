// SPDX-License-Identifier: Apache-2.0

// Package resource allocates and releases what the verbs of users and of container engines share:
// networks with their subnets, the addresses of endpoints, host ports, IDs. Its functions change a
// transaction, and refuse what is in use or out of range.
package resource

import (
	"crypto/rand"
	"encoding/hex"
	"iter"
	"regexp"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// IDPrefix is how many leading digits of an ID must be unique: as many as fit into
// device names.
const IDPrefix = 11

// NewID generates an ID of 64 hexadecimal digits with a prefix that is unique in the
// map. The prefix always contains a letter, so that it is not mistaken for a number.
func NewID[V any](withPrefix func(string) iter.Seq[*V]) string {
	for {
		var b [32]byte
		_, _ = rand.Read(b[:]) // never fails (crypto/rand)
		id := hex.EncodeToString(b[:])
		if strings.Trim(id[:IDPrefix], "0123456789") != "" && desired.First(withPrefix(id[:IDPrefix])) == nil {
			return id
		}
	}
}

// idRule is the form of an ID.
var idRule = regexp.MustCompile(`^[0-9a-f]{64}$`)

// chooseID generates an ID, or checks the one that a container engine supplied.
func chooseID[V any](withPrefix func(string) iter.Seq[*V], given string) (string, error) {
	switch {
	case given == "":
		return NewID(withPrefix), nil
	case !idRule.MatchString(given):
		return "", model.Refuse(model.ErrInvalid, "invalid ID %q (want 64 hexadecimal digits in lower case)", given)
	case desired.First(withPrefix(given)) != nil:
		return "", model.Refuse(model.ErrConflict, "ID %s exists already, with other settings (remove that first)", model.ShortID(given))
	case desired.First(withPrefix(given[:IDPrefix])) != nil:
		return "", model.Refuse(model.ErrConflict, "ID %s begins like another ID (try again with another)", model.ShortID(given))
	}
	return given, nil
}

// NewMAC generates a locally administered unicast address.
func NewMAC() model.MAC {
	var m model.MAC
	_, _ = rand.Read(m[:])
	m[0] = m[0]&^1 | 2
	return m
}

// ValidID reports whether an ID has the right form.
func ValidID(id string) bool { return idRule.MatchString(id) }
