// SPDX-License-Identifier: Apache-2.0

package cases

// Count is a case whose instructions are counted.
type Count struct {
	Case
	Transactions int // per round; datagrams for udp64
}

// Counted returns the cases to count that match a pattern, by path, load and family. They
// have the names of the timed cases, except that datagrams are sent in bursts: where client
// and server share a processor, it would otherwise be chance when the server reads.
func Counted(pattern string) []Count {
	var counted []Count
	for _, family := range []int{4, 6} {
		for _, p := range []Path{Published, Outbound, Peers, Overlay} {
			for _, c := range []Count{
				{Case{Load: Load{Name: "rr", Kind: "rr", Size: 1}}, 800},
				{Case{Load: Load{Name: "rr8900", Kind: "rr", Size: 8900}}, 400},
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
