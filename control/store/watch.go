// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"strings"
	"sync"
)

// maxQueued bounds the number of unread events of one watcher.
const maxQueued = 1 << 16

// hub distributes the events of commits to watchers. It has no goroutine: events
// stay in each watcher's queue until they are read.
type hub struct {
	mu       sync.Mutex
	watchers map[*hubWatcher]struct{}
	closed   bool
}

type hubWatcher struct {
	hub    *hub
	prefix string
	queue  []Event       // guarded by hub.mu
	err    error         // guarded by hub.mu; final
	ready  chan struct{} // holds one token while queue or err is set
}

func (h *hub) watch(prefix string) (*hubWatcher, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	if h.watchers == nil {
		h.watchers = map[*hubWatcher]struct{}{}
	}
	w := &hubWatcher{hub: h, prefix: prefix, ready: make(chan struct{}, 1)}
	h.watchers[w] = struct{}{}
	return w, nil
}

func (h *hub) publish(events []Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		for _, e := range events {
			if strings.HasPrefix(e.Key, w.prefix) {
				w.queue = append(w.queue, e)
			}
		}
		if len(w.queue) > maxQueued {
			w.queue = nil
			w.end(ErrLagged)
		} else if len(w.queue) > 0 {
			w.wake()
		}
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for w := range h.watchers {
		w.end(ErrClosed)
	}
}

// end requires hub.mu.
func (w *hubWatcher) end(err error) {
	if w.err == nil {
		w.err = err
	}
	delete(w.hub.watchers, w)
	w.wake()
}

func (w *hubWatcher) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// Next implements Watcher.
func (w *hubWatcher) Next(ctx context.Context) ([]Event, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.ready:
		}
		w.hub.mu.Lock()
		events, err := w.queue, w.err
		w.queue = nil
		if err != nil {
			w.wake()
		}
		w.hub.mu.Unlock()
		if len(events) > 0 {
			return events, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// Close implements Watcher.
func (w *hubWatcher) Close() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	w.queue = nil
	w.end(ErrClosed)
}
