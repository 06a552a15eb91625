// SPDX-License-Identifier: Apache-2.0

package querier

import (
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/maps/flood"
)

// run runs a Querier for some seconds, and returns those in which it sent a query.
type run struct {
	nets  map[uint32][]uint16
	heard flood.Heard
	err   error
	at    int
	sent  []int
	q     *Querier
}

func newRun() *run {
	r := &run{nets: map[uint32][]uint16{7: {2}}}
	r.q = New(Config{
		Networks: func() map[uint32][]uint16 { return r.nets },
		Heard:    func(uint32) (flood.Heard, bool, error) { return r.heard, true, nil },
		Query: func(net uint32) error {
			if r.err == nil {
				r.sent = append(r.sent, r.at)
				r.heard.Asked = [2][3]uint32{{uint32(r.at)}, {uint32(r.at)}}
			}
			return r.err
		},
		Log: slog.New(slog.DiscardHandler),
	})
	return r
}

func (r *run) until(t *testing.T, at int, want ...int) {
	t.Helper()
	for ; r.at < at; r.at++ {
		r.q.round(time.Unix(1_700_000_000+int64(r.at), 0))
	}
	if !slices.Equal(r.sent, want) {
		t.Errorf("queries sent after %v seconds, want %v", r.sent, want)
	}
	r.sent = nil
}

func TestQueries(t *testing.T) {
	r := newRun()
	// Three at the start, then one each interval.
	r.until(t, 200, 0, 3, 6, 131)
	// Another node knows nothing of the members here.
	r.nets = map[uint32][]uint16{7: {2, 3}}
	r.until(t, 210, 200, 203, 206)
	r.until(t, 220)
	// A member leaves a group: the others are asked whether they listen.
	r.heard.Left[1] = 219
	r.until(t, 260, 220)
	// In the second of a query it cannot be known which of the two was first.
	r.heard.Left[0] = 260
	r.until(t, 300, 260, 263)
	// A query that cannot be sent is sent as soon as it can.
	r.nets, r.err = map[uint32][]uint16{7: {2}}, errors.New("no device")
	r.until(t, 310)
	r.err = nil
	r.until(t, 320, 312, 315, 318)
	// Without other nodes there is nobody to notify.
	r.nets = map[uint32][]uint16{7: nil}
	r.until(t, 700)
}
