// SPDX-License-Identifier: Apache-2.0

// Package naming generates names of sandboxes, checks those that users choose, and follows those that change.
package naming

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"strings"
)

func pick(words []string) string {
	i, err := rand.Int(rand.Reader, big.NewInt(int64(len(words))))
	if err != nil {
		return words[0]
	}
	return words[i.Int64()]
}

// New generates a name that is not taken.
func New(taken func(name string) bool) string {
	for try := 0; ; try++ {
		name := pick(strings.Fields(adjectives)) + "_" + pick(strings.Fields(nouns))
		if try > 3 {
			name = fmt.Sprint(name, try-2)
		}
		if !taken(name) {
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
