// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"testing"
	"time"
)

func TestLongestBeyond(t *testing.T) {
	began := time.Now()
	at := func(from, to int) stall {
		return stall{began.Add(time.Duration(from) * time.Millisecond), began.Add(time.Duration(to) * time.Millisecond)}
	}
	for _, tc := range []struct {
		name             string
		traffic, control []stall
		want             int
	}{
		{"nothing", nil, nil, 0},
		{"alone", []stall{at(0, 60), at(100, 110)}, nil, 60},
		{"together", []stall{at(0, 60)}, []stall{at(0, 60)}, 0},
		{"at other times", []stall{at(0, 60)}, []stall{at(60, 200)}, 60},
		{"partly", []stall{at(0, 60)}, []stall{at(50, 70), at(-10, 20)}, 30},
		{"control's overlap counts once", []stall{at(0, 60)}, []stall{at(0, 40), at(10, 30), at(20, 50)}, 10},
		{"control has many short ones", []stall{at(0, 60)}, []stall{at(0, 10), at(10, 20), at(20, 30), at(30, 40), at(40, 59)}, 60},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := Report{stalls: map[string][]stall{"message": tc.traffic}}
			control := Report{stalls: map[string][]stall{"message": nil, "datagram": tc.control}}
			if got, _ := r.LongestBeyond(control); got != time.Duration(tc.want)*time.Millisecond {
				t.Errorf("got %v, want %d ms", got, tc.want)
			}
		})
	}
}
