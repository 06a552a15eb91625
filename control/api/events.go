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

// Types and actions of events.
var (
	eventTypes   = []string{"network", "sandbox", "datapath"}
	eventActions = []string{"create", "connect", "disconnect", "destroy", "publish", "unpublish", "rename", "repair"}
)

// Event is a change, in the form of Docker's.
type Event struct {
	Number uint64
	Time   time.Time
	Type   string // see eventTypes
	Action string // see eventActions
	Actor  EventActor
}

// EventActor is what an event is about.
type EventActor struct {
	ID         string `json:",omitempty"`
	Attributes map[string]string
}

// Match reports whether filters select the event: one value of each key. A network or a sandbox is named by its name or
// by its ID or the beginning of that.
func (f Filters) Match(e Event) bool {
	for key, values := range f {
		var is []string // what a value may be
		id := ""        // or the beginning of
		of := e.Actor.Attributes
		switch {
		case key == "type":
			is = []string{e.Type}
		case key == "event":
			is = []string{e.Action}
		case key == e.Type: // network or sandbox
			is, id = []string{of["name"]}, e.Actor.ID
		case key == "container" && e.Type == "sandbox":
			is, id = []string{of["name"]}, e.Actor.ID
		case key == "container", key == "sandbox":
			is, id = []string{of["sandbox"]}, of["container"]
		}
		if !slices.ContainsFunc(values, func(v string) bool {
			return v != "" && (slices.Contains(is, v) || id != "" && strings.HasPrefix(id, v))
		}) {
			return false
		}
	}
	return true
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
