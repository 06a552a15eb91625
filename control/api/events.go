// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Events is the response to GET /events?run=&after=: what happened after an event of a run of the daemon.
type Events struct {
	Run    string // of the daemon; numbers begin again with each
	Last   uint64 // number of the last event
	Events []Event
}

// Event is a change, in the form of Docker's.
type Event struct {
	Number uint64
	Time   time.Time
	Type   string // network, sandbox or datapath
	Action string // create, connect, disconnect, destroy, publish, unpublish, repair
	Actor  EventActor
}

// EventActor is what an event is about.
type EventActor struct {
	ID         string `json:",omitempty"`
	Attributes map[string]string
}

// String returns the event as a line of text, like Docker's.
func (e Event) String() string {
	var attributes []string
	for _, key := range slices.Sorted(maps.Keys(e.Actor.Attributes)) {
		attributes = append(attributes, key+"="+e.Actor.Attributes[key])
	}
	words := []string{e.Time.Format(time.RFC3339Nano), e.Type, e.Action}
	if e.Actor.ID != "" {
		words = append(words, e.Actor.ID)
	}
	return fmt.Sprintf("%s (%s)", strings.Join(words, " "), strings.Join(attributes, ", "))
}
