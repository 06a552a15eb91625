// SPDX-License-Identifier: Apache-2.0

package embed

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// A message is logged this often in that time, whatever its fields are: an etcd that has too much to do
// says so of every request.
const (
	logged    = 3
	loggedPer = time.Minute
)

// newLogger returns etcd's logger.
func newLogger(log *slog.Logger, closing *atomic.Bool) *zap.Logger {
	return zap.New(zapcore.NewSamplerWithOptions(logCore{log, closing}, loggedPer, logged, 0))
}

// logCore passes etcd's warnings and errors to the daemon's log. Its other lines describe etcd's
// own start at length.
type logCore struct {
	log *slog.Logger
	// closing is set when the server is closed: etcd then logs an error for each listener that ends.
	closing *atomic.Bool
}

// Enabled implements zapcore.Core.
func (c logCore) Enabled(level zapcore.Level) bool {
	return level >= zapcore.WarnLevel && !c.closing.Load()
}

// With implements zapcore.Core.
func (c logCore) With(fields []zapcore.Field) zapcore.Core {
	return logCore{c.log.With(args(fields)...), c.closing}
}

// onePort is etcd's warning that large watches may delay others if clients have one port for gRPC and
// HTTP. There are no clients over HTTP.
const onePort = "Running http and grpc server on single port. This is not recommended for production."

// Check implements zapcore.Core.
func (c logCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) && entry.Message != onePort {
		return checked.AddCore(entry, c)
	}
	return checked
}

// Write implements zapcore.Core.
func (c logCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	if c.closing.Load() { // since Check
		return nil
	}
	level := slog.LevelWarn
	if entry.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	c.log.Log(context.Background(), level, entry.Message, args(fields)...)
	return nil
}

// Sync implements zapcore.Core.
func (logCore) Sync() error { return nil }

// args returns zap's fields as arguments of slog.
func args(fields []zapcore.Field) []any {
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(encoder)
	}
	var list []any
	for key, value := range encoder.Fields {
		list = append(list, key, value)
	}
	return list
}
