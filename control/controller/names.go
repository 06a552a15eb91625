// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"iter"
	"math/big"
	"net/netip"
	"regexp"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// idPrefix is how many leading digits of an ID must be unique: as many as fit into
// device names.
const idPrefix = 11

// nameRule is Docker's rule for names of containers. Names of networks are not
// restricted by it.
var nameRule = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

const maxNameLen = 255

// ifNameRule is stricter than the kernel's rule, which allows everything but slash, colon
// and white space, because people read and type these names.
var ifNameRule = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,15}$`)

// reservedIfNames have another meaning in paths and in /proc/sys/net.
var reservedIfNames = []string{".", "..", "lo", "all", "default"}

// newID generates an ID of 64 hexadecimal digits with a prefix that is unique in the
// map. The prefix always contains a letter, so that it is not mistaken for a number.
func newID[V any](withPrefix func(string) iter.Seq[*V]) string {
	for {
		var b [32]byte
		_, _ = rand.Read(b[:]) // never fails (crypto/rand)
		id := hex.EncodeToString(b[:])
		if strings.Trim(id[:idPrefix], "0123456789") != "" && desired.First(withPrefix(id[:idPrefix])) == nil {
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
		return newID(withPrefix), nil
	case !idRule.MatchString(given):
		return "", refuse(model.ErrInvalid, "invalid ID %q (want 64 hexadecimal digits in lower case)", given)
	case desired.First(withPrefix(given[:idPrefix])) != nil:
		return "", refuse(model.ErrConflict, "ID %s begins like another ID (try again with another)", model.ShortID(given))
	}
	return given, nil
}

// newMAC generates a locally administered unicast address.
func newMAC() model.MAC {
	var m model.MAC
	_, _ = rand.Read(m[:])
	m[0] = m[0]&^1 | 2
	return m
}

// macOf derives a MAC from an IPv4 address like Docker, and from the last 4 bytes of an IPv6
// address, in which neighbours differ. It returns zero for the zero Addr.
func macOf(ip netip.Addr) model.MAC {
	if !ip.IsValid() {
		return model.MAC{}
	}
	a := ip.AsSlice()
	return model.MAC(append([]byte{0x02, 0x42}, a[len(a)-4:]...))
}

func pick(words []string) string {
	i, err := rand.Int(rand.Reader, big.NewInt(int64(len(words))))
	if err != nil {
		return words[0]
	}
	return words[i.Int64()]
}

// newName generates a name that is not in use by a sandbox.
func newName(s *desired.Snapshot) string {
	for try := 0; ; try++ {
		name := pick(strings.Fields(adjectives)) + "_" + pick(strings.Fields(nouns))
		if try > 3 {
			name = fmt.Sprint(name, try-2)
		}
		if desired.First(s.SandboxesNamed(name)) == nil {
			return name
		}
	}
}

// Words for generated names. A fairlead guides the ropes of a ship.
const (
	adjectives = `able amber bold brave brisk calm clear coiled crisp dry eager even fair fast firm
		gentle glad grand hardy keen light lively lucky mellow merry neat noble plain proud quick
		quiet ready salty sharp shiny silent sleek smart solid steady stout sunny swift tidy tight
		trim true warm white wise`
	nouns = `anchor bark beacon binnacle boom bosun bow bridge brig buoy cable capstan cleat clipper
		compass cutter davit deck dinghy dory fender gaff galley gull halyard harbour hatch hawser
		helm hull jetty jib keel ketch lantern locker lugger mast mole oar pier pilot port quay
		rigging rudder sail schooner sextant sheet skiff sloop spar stern tiller topsail winch yawl`
)
