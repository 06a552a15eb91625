// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
)

var (
	errWiped = errors.New("the store lost its contents, or went back to an earlier state")
	errEnded = errors.New("the watch has ended")
)

// stream implements kv.Stream: a list, and a watch from its revision on. The client goes on after
// lost connections with the revision that it has seen last; what etcd no longer
// has of the past ends the stream.
type stream struct {
	backend *backend
	prefix  string
	ctx     context.Context
	buffer  *kv.Buffer // nil before the first list
}

// Watch implements kv.Backend.
func (b *backend) Watch(ctx context.Context, prefix string) kv.Stream {
	// Without a leader, a member would keep the watch and report nothing.
	return &stream{backend: b, prefix: prefix, ctx: clientv3.WithRequireLeader(ctx)}
}

func (s *stream) Next(ctx context.Context) (kv.Update, error) {
	if s.buffer == nil {
		client, err := s.backend.dial()
		if err != nil {
			return kv.Update{}, err
		}
		_, wiped := s.backend.position()
		list, revision, err := s.backend.list(ctx, s.prefix)
		if err != nil {
			return kv.Update{}, plain(err)
		}
		s.buffer = kv.NewBuffer()
		s.buffer.Add(kv.Update{Reset: true, Entries: list})
		go func() { s.buffer.End(s.follow(client, revision+1, wiped)) }()
	}
	return s.buffer.Next(ctx)
}

// follow buffers the changes from a revision on, until the watch ends.
func (s *stream) follow(client *clientv3.Client, revision int64, wiped <-chan struct{}) error {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	go func() { // Watch itself waits for the server
		select {
		case <-ctx.Done():
		case <-wiped:
			cancel()
		}
	}()
	for r := range client.Watch(ctx, s.prefix, clientv3.WithPrefix(), clientv3.WithRev(revision), clientv3.WithProgressNotify()) {
		if err := r.Err(); err != nil {
			return plain(err)
		}
		if len(r.Events) > 0 {
			s.buffer.Add(update(r.Events))
		}
	}
	select {
	case <-wiped:
		return errWiped
	default:
		return errEnded
	}
}

// update returns the last state of each key in a list of events.
func update(events []*clientv3.Event) (u kv.Update) {
	last := map[string]*clientv3.Event{}
	for _, e := range events {
		last[string(e.Kv.Key)] = e
	}
	for key, e := range last {
		if e.Type == clientv3.EventTypeDelete {
			u.Deleted = append(u.Deleted, key)
		} else {
			u.Entries = append(u.Entries, entry(e.Kv))
		}
	}
	return u
}

func entry(e *mvccpb.KeyValue) kv.Entry {
	return kv.Entry{Key: string(e.Key), Value: e.Value, Rev: kv.Rev{Created: uint64(e.CreateRevision), Modified: uint64(e.ModRevision)}}
}
