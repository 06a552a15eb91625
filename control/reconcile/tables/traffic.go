// SPDX-License-Identifier: Apache-2.0

package tables

// TrafficTable is the table of the traffic counters of networks.
type TrafficTable interface {
	ResetTraffic(net uint32) error
}

// Traffic knows under which numbers the traffic of networks is counted.
type Traffic struct {
	table   TrafficTable
	numbers map[uint32]string // network by number
}

// NewTraffic returns Traffic of no network.
func NewTraffic(table TrafficTable) *Traffic {
	return &Traffic{table: table, numbers: make(map[uint32]string)}
}

// Adopt records that a number belongs to a network since an earlier daemon.
func (t *Traffic) Adopt(number uint32, network string) { t.numbers[number] = network }

// CountFor makes sure that a network's traffic is counted from 0 if its number belonged to another network.
func (t *Traffic) CountFor(number uint32, network string) error {
	if t.numbers[number] == network {
		return nil
	}
	if err := t.table.ResetTraffic(number); err != nil {
		return err
	}
	t.numbers[number] = network
	return nil
}
