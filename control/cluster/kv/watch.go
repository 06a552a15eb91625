// SPDX-License-Identifier: Apache-2.0

package kv

import (
	"context"
	"errors"
	"time"
)

// watcher is a Watcher over streams of the backend: when one ends, it begins another, whose
// first update is a Reset again.
type watcher struct {
	client *client
	prefix string
	ctx    context.Context // ends with Close or with the store
	close  context.CancelFunc

	// Used by Next only.
	stream   Stream
	end      context.CancelFunc // ends the stream
	listed   bool               // the stream has had its first update
	until    time.Time          // the prefix is listed again
	failures int                // since the last update
}

func (c *client) Watch(prefix string) (Watcher, error) {
	if err := CheckPrefix(prefix); err != nil {
		return nil, err
	}
	w := &watcher{client: c, prefix: prefix}
	w.ctx, w.close = context.WithCancel(c.ctx)
	return w, nil
}

func (w *watcher) Close() error {
	w.close()
	return nil
}

func (w *watcher) Next(ctx context.Context) (Update, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.ctx, cancel)()
	for {
		u, err := w.next(ctx)
		if err == nil {
			w.failures = 0
			return u, nil
		}
		if w.ctx.Err() != nil {
			w.drop()
			return Update{}, ErrClosed
		}
		if ctx.Err() != nil {
			return Update{}, ctx.Err() // the stream goes on
		}
		w.drop()
		if errors.Is(err, errRelist) {
			continue
		}
		w.client.cfg.Log.Debug("watching the cluster store again", "store", w.client.cfg.Name, "prefix", w.prefix, "err", err)
		w.client.monitor.check()
		if pause(ctx, w.failures, w.client.cfg.MaxBackoff) == nil {
			w.failures++
		}
	}
}

// errRelist means that it is time to list the prefix again: stores lost events before.
var errRelist = errors.New("list again")

// next returns the next update of the stream, and begins a stream if there is none.
func (w *watcher) next(ctx context.Context) (Update, error) {
	if w.stream == nil {
		if err := w.client.monitor.waitUp(ctx); err != nil {
			return Update{}, err
		}
		var alive context.Context
		alive, w.end = context.WithCancel(w.ctx)
		w.stream, w.listed = w.client.backend.Watch(alive, w.prefix), false
		w.until = time.Now().Add(spread(w.client.cfg.Relist))
	}
	until := w.until
	if !w.listed {
		until = time.Now().Add(w.client.cfg.ListTimeout)
	}
	limited, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	u, err := w.stream.Next(limited)
	switch {
	case err == nil:
		w.listed = true
	case ctx.Err() == nil && limited.Err() != nil && w.listed:
		err = errRelist
	}
	return u, err
}

// drop ends the stream.
func (w *watcher) drop() {
	if w.end != nil {
		w.end()
	}
	w.stream, w.end = nil, nil
}

// Follow passes what a watch reports to a channel, until ctx ends or the store is closed; then the other
// channel has the reason.
func Follow(ctx context.Context, s Store, prefix string) (updates <-chan Update, ended <-chan error, err error) {
	w, err := s.Watch(prefix)
	if err != nil {
		return nil, nil, err
	}
	out, end := make(chan Update), make(chan error, 1)
	go func() {
		defer w.Close()
		for {
			u, err := w.Next(ctx)
			if err != nil {
				end <- err
				return
			}
			select {
			case out <- u:
			case <-ctx.Done():
				end <- ctx.Err()
				return
			}
		}
	}()
	return out, end, nil
}
