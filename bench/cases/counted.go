// SPDX-License-Identifier: Apache-2.0

package cases

// Count is a case whose instructions are counted.
type Count struct {
	Case
	Transactions int // of a round; datagrams of udp64
}

// Counted are the cases to count that a pattern names, by path, load and family. They are
// named as those that are timed, save that datagrams come in bursts: where client and server
// share a processor, what else would decide when the server reads is chance.
func Counted(pattern string) []Count {
	var counted []Count
	for _, family := range []int{4, 6} {
		for _, p := range []Path{Published, Outbound, Peers} {
			for _, c := range []Count{
				{Case{Load: Load{Name: "rr", Kind: "rr", Size: 1}}, 800},
				{Case{Load: Load{Name: "crr", Kind: "crr", Size: 1}}, 200},
				{Case{Load: Load{Name: "udp64", Kind: "bursts", Size: 64}}, 1600},
			} {
				c.Path, c.Family = p, family
				if matches(pattern, c.Name()) {
					counted = append(counted, c)
				}
			}
		}
	}
	return counted
}
