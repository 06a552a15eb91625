// SPDX-License-Identifier: Apache-2.0

package kv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Config is what a Store needs besides its backend.
type Config struct {
	// Name is the store's URL without credentials, for errors and logs. Required.
	Name string
	// Log receives a line when the store stops answering, and one when it answers again.
	// Default: none.
	Log *slog.Logger
	// Remedy returns what may help against an error of the store, "" if nothing is known. Default: none.
	Remedy func(error) string

	CallTimeout time.Duration // for a call to the store; default 4 s
	ListTimeout time.Duration // for List and the first list of a watch; default 30 s
	PingEvery   time.Duration // while the store answers; default 10 s
	PingTimeout time.Duration // after which the store does not answer; default 2 s
	MaxBackoff  time.Duration // between attempts while it does not; default 1 s
	Relist      time.Duration // after which a watcher lists again, more or less; default 10 min
}

// explain adds the remedy to an error of the store.
func (c *Config) explain(err error) error {
	if remedy := c.Remedy(err); remedy != "" {
		return fmt.Errorf("%s (%w)", remedy, err)
	}
	return err
}

func (c Config) withDefaults() Config {
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	if c.Remedy == nil {
		c.Remedy = func(error) string { return "" }
	}
	c.CallTimeout = cmp.Or(c.CallTimeout, 4*time.Second)
	c.ListTimeout = cmp.Or(c.ListTimeout, 30*time.Second)
	c.PingEvery = cmp.Or(c.PingEvery, 10*time.Second)
	c.PingTimeout = cmp.Or(c.PingTimeout, 2*time.Second)
	c.MaxBackoff = cmp.Or(c.MaxBackoff, time.Second)
	c.Relist = cmp.Or(c.Relist, 10*time.Minute)
	return c
}

// impatience is how long a call waits before the monitor checks at once whether the store answers.
const impatience = time.Second

// client is a Store over any backend.
type client struct {
	backend Backend
	cfg     Config
	monitor *monitor
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	pinging sync.WaitGroup
	closing sync.Once
	closed  error // of the backend
}

// New returns a Store over a backend, which it owns. One goroutine checks the store's health
// until Close.
func New(b Backend, cfg Config) Store {
	cfg = cfg.withDefaults()
	c := &client{backend: b, cfg: cfg, monitor: newMonitor(b.Ping, cfg)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.pinging.Go(func() { c.monitor.run(c.ctx) })
	return c
}

func (c *client) Close() error {
	c.closing.Do(func() {
		c.cancel()
		c.pinging.Wait()
		c.closed = c.backend.Close()
	})
	return c.closed
}

func (c *client) Health() Health { return c.monitor.Health() }

func (c *client) WaitUp(ctx context.Context) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	if err := c.monitor.waitUp(ctx); err != nil {
		return c.ended(err)
	}
	return nil
}

// Again returns a channel that is closed when it is time to try again what failed: after a pause, or while the
// store does not answer, as soon as it does. It is closed too when ctx ends.
func Again(ctx context.Context, s Store, pause time.Duration) <-chan struct{} {
	again := make(chan struct{})
	go func() {
		defer close(again)
		if !s.Health().Reachable {
			_ = s.WaitUp(ctx) // fails only if ctx ends or the store is closed
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}()
	return again
}

func (c *client) Get(ctx context.Context, key string) (e Entry, err error) {
	if err := CheckKey(key); err != nil {
		return Entry{}, err
	}
	err = c.call(ctx, c.cfg.CallTimeout, func(ctx context.Context) (err error) {
		e, err = c.backend.Get(ctx, key)
		return err
	})
	return e, err
}

func (c *client) List(ctx context.Context, prefix string) (list []Entry, err error) {
	if err := CheckPrefix(prefix); err != nil {
		return nil, err
	}
	err = c.call(ctx, c.cfg.ListTimeout, func(ctx context.Context) (err error) {
		list, err = c.backend.List(ctx, prefix)
		return err
	})
	return list, err
}

func (c *client) Commit(ctx context.Context, conds []Cond, ops ...Op) error {
	list, err := changes(conds, ops)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return nil
	}
	return c.call(ctx, c.cfg.CallTimeout, func(ctx context.Context) error {
		return c.backend.Commit(ctx, list)
	})
}

func (c *client) Alive(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if _, err := changes(nil, []Op{Put(key, value)}); err != nil {
		return err
	}
	ctx, cancel := c.bound(ctx)
	defer cancel()
	var warned time.Time
	for attempt := 0; ; attempt++ {
		if err := c.monitor.waitUp(ctx); err != nil {
			return c.ended(err)
		}
		begin := time.Now()
		err := c.backend.Hold(ctx, key, value, ttl)
		if ctx.Err() != nil {
			return c.ended(ctx.Err())
		}
		c.monitor.check()
		if time.Since(begin) > ttl {
			attempt = 0
		}
		// Once in an outage that is a consequence of it. Again and again, something is wrong.
		if attempt >= 3 && time.Since(warned) > time.Minute {
			warned = time.Now()
			c.cfg.Log.Warn("cannot keep this host's sign of life in the cluster store; other hosts show it as down",
				"store", c.cfg.Name, "key", key, "err", oneLine(err))
		}
		if err := pause(ctx, attempt, c.cfg.MaxBackoff); err != nil {
			return c.ended(err)
		}
	}
}

// call calls the backend with a limit of time, and only while the store answers.
func (c *client) call(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	answers, err := c.monitor.usable()
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, end := range []context.Context{c.ctx, answers} {
		defer context.AfterFunc(end, cancel)()
	}
	impatient := time.AfterFunc(impatience, c.monitor.check)
	defer impatient.Stop()
	err = f(within)
	switch {
	case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrConflict), errors.Is(err, ErrInvalid):
		return err
	case c.ctx.Err() != nil:
		return ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	}
	c.monitor.check()
	if _, down := c.monitor.usable(); down != nil {
		return down // which says more than that the call was ended
	}
	if errors.Is(within.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %v", limit)
	}
	return unavailable{store: c.cfg.Name, cause: c.cfg.explain(err)}
}

// bound returns a context that ends with ctx or with the store.
func (c *client) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// ended returns the error of a call whose context ended.
func (c *client) ended(err error) error {
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	return err
}

// pause waits before the next attempt, longer after each one, and not as long as other nodes do
// that lost the same store at the same moment.
func pause(ctx context.Context, attempt int, most time.Duration) error {
	wait := min(50*time.Millisecond<<min(attempt, 10), most)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(spread(wait)):
		return nil
	}
}

// spread returns a duration between three and five quarters of d.
func spread(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2+1) }
