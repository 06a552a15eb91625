// SPDX-License-Identifier: Apache-2.0

// Package etcfiles makes /etc/hosts, /etc/hostname and /etc/resolv.conf for the programs in sandboxes, by
// Docker's rules. The client that starts a program mounts them over those of the host, which this package never touches.
package etcfiles

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// Names of the files, which are in a directory of each sandbox.
const (
	Hosts      = "hosts"
	Hostname   = "hostname"
	ResolvConf = "resolv.conf"
)

// sums is the suffix of a file with the sums of what was written to another.
const sums = ".sum"

// Dir returns the directory of a sandbox's files within the directory of all.
func Dir(dir, sandboxID string) string { return filepath.Join(dir, model.ShortID(sandboxID)) }

// Config configures Files.
type Config struct {
	Dir string // of the directories of sandboxes
	// ResolvConf and Hosts are the host's files. The default is those in /etc.
	ResolvConf, Hosts string
	Repaired          func(n int)  // called after files that were missing were written again; nil: nobody counts them
	Log               *slog.Logger // required
}

// systemdConf has the servers behind the stub resolver of systemd.
const systemdConf, systemdStub = "/run/systemd/resolve/resolv.conf", "127.0.0.53"

// Files are the files of all sandboxes.
type Files struct {
	cfg Config

	mu        sync.Mutex
	snapshot  *desired.Snapshot
	host      string          // contents of the host's resolv.conf, as used last
	unwritten map[string]bool // IDs of the sandboxes whose files could not be written
}

// New returns Files. They are not written before the first Update.
func New(cfg Config) *Files {
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.Hosts == "" {
		cfg.Hosts = "/etc/hosts"
	}
	if cfg.Repaired == nil {
		cfg.Repaired = func(int) {}
	}
	return &Files{cfg: cfg, unwritten: map[string]bool{}}
}

// Update makes the files those of a snapshot.
func (f *Files) Update(s *desired.Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.snapshot
	f.snapshot = s
	if before == nil {
		before = &desired.Snapshot{}
		f.sweep()
	}
	host := f.hostConf()
	for id := range changed(before, s) {
		f.write(id, host)
	}
}

// interval is how often the host's resolv.conf is read.
const interval = 2 * time.Second

// Run follows the host's resolv.conf until ctx ends.
func (f *Files) Run(ctx context.Context) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if n := f.follow(); n > 0 {
				f.cfg.Repaired(n)
			}
		}
	}
}

// follow writes the files that the host's resolv.conf changes, those that could not be written before, and those that
// were deleted, whose number it returns.
func (f *Files) follow() (repaired int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.host
	host := f.hostConf()
	if f.snapshot == nil {
		return 0
	}
	if f.host != was {
		for sb := range f.snapshot.Sandboxes() {
			f.write(sb.ID, host)
		}
	}
	for id := range f.unwritten {
		f.write(id, host)
	}
	for sb := range f.snapshot.Sandboxes() {
		if n := f.missing(sb); n > 0 {
			f.write(sb.ID, host)
			repaired += n - f.missing(sb)
		}
	}
	return repaired
}

// missing returns how many files a sandbox lacks that were written before.
func (f *Files) missing(sb *model.Sandbox) (n int) {
	if !sb.HasFiles() || f.unwritten[sb.ID] {
		return 0
	}
	for _, name := range []string{Hosts, Hostname, ResolvConf} {
		for _, path := range []string{name, name + sums} {
			if _, err := os.Lstat(filepath.Join(Dir(f.cfg.Dir, sb.ID), path)); errors.Is(err, fs.ErrNotExist) {
				n++
			}
		}
	}
	return n
}

// hostConf reads the host's resolv.conf.
func (f *Files) hostConf() resolvConf {
	b, err := os.ReadFile(f.cfg.ResolvConf)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.cfg.Log.Debug("cannot read the host's resolv.conf", "err", err)
	}
	conf := parse(f.cfg.ResolvConf, string(b))
	if slices.Equal(conf.servers, []string{systemdStub}) {
		if behind, err := os.ReadFile(systemdConf); err == nil {
			b, conf = append(b, behind...), parse(systemdConf, string(behind))
		}
	}
	f.host = string(b)
	return conf
}

// changed returns the IDs of the sandboxes whose files may differ.
func changed(from, to *desired.Snapshot) map[string]bool {
	ids := map[string]bool{}
	for c := range desired.DiffSandboxes(from, to) {
		ids[c.ID] = true
	}
	for c := range desired.DiffEndpoints(from, to) {
		for _, ep := range []*model.Endpoint{c.Old, c.New} {
			if ep != nil {
				ids[ep.SandboxID] = true
			}
		}
	}
	for c := range desired.DiffNetworks(from, to) {
		for ep := range to.Members(c.ID) {
			ids[ep.SandboxID] = true
		}
	}
	delete(ids, "") // an engine reserves an endpoint before a sandbox joins it
	// The lines of links have the addresses of other sandboxes.
	if len(ids) > 0 {
		for sb := range to.SandboxesInMode(model.NetworkBridge) {
			for ep := range to.EndpointsOf(sb.ID) {
				if len(ep.Links) > 0 {
					ids[sb.ID] = true
				}
			}
		}
	}
	return ids
}

// sweep removes the files of sandboxes that do not exist.
func (f *Files) sweep() {
	wanted := map[string]bool{}
	for sb := range f.snapshot.Sandboxes() {
		wanted[model.ShortID(sb.ID)] = true
	}
	dirs, _ := os.ReadDir(f.cfg.Dir) // none at the first start
	for _, dir := range dirs {
		if !wanted[dir.Name()] {
			f.note(os.RemoveAll(filepath.Join(f.cfg.Dir, dir.Name())), dir.Name())
		}
	}
}

// write makes the files of a sandbox what they should be. What fails is tried again, and logged once.
func (f *Files) write(id string, host resolvConf) {
	err := f.writeAll(id, host)
	if err == nil {
		delete(f.unwritten, id)
		return
	}
	if !f.unwritten[id] {
		f.note(err, id)
	}
	f.unwritten[id] = true
}

func (f *Files) writeAll(id string, host resolvConf) error {
	sb := f.snapshot.Sandbox(id)
	dir := Dir(f.cfg.Dir, id)
	if sb == nil || !sb.HasFiles() {
		return os.RemoveAll(dir)
	}
	own := ""
	if sb.NetworkMode == model.NetworkHost {
		b, _ := os.ReadFile(f.cfg.Hosts) // a host may have none
		own = string(b)
	}
	err := os.MkdirAll(dir, 0o755)
	if err != nil {
		return err
	}
	for name, text := range content(f.snapshot, sb, host, own) {
		err = errors.Join(err, replace(filepath.Join(dir, name), text))
	}
	return err
}

func (f *Files) note(err error, id string) {
	if err != nil {
		f.cfg.Log.Warn("cannot write the files of a sandbox", "id", model.ShortID(id), "err", model.OneLine(err))
	}
}

// replace makes a text the content of a file, in place, since the file may be mounted in sandboxes. It leaves a
// file alone that someone else has changed, which it sees from the sums of what it wrote. They are written first, and
// include what the file has until then, and what it has between the write and the truncation, because the daemon may
// be killed anywhere. If the text cannot be written, because the disk is full, the file keeps what it has.
func replace(path, text string) error {
	sums := path + sums
	known, err := os.ReadFile(sums)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case string(old) == text:
		if len(known) > 0 {
			return nil
		}
		return exchange(sums, sum(text)+"\n") // they were deleted
	case len(old) > 0 && !bytes.Contains(known, []byte(sum(string(old)))):
		return nil
	}
	list := []string{sum(text)}
	if len(old) > 0 {
		list = append(list, sum(string(old)))
	}
	if len(old) > len(text) {
		list = append(list, sum(text+string(old[len(text):])))
	}
	if err := exchange(sums, strings.Join(list, "\n")+"\n"); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	err = overwrite(file, []byte(text))
	if err != nil {
		err = errors.Join(err, overwrite(file, old))
	}
	return errors.Join(err, file.Close())
}

// exchange replaces a file that is not mounted anywhere, or leaves it as it is.
func exchange(path, text string) error {
	next := path + ".next"
	err := os.WriteFile(next, []byte(text), 0o600)
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		_ = os.Remove(next) // there may be none
	}
	return err
}

func overwrite(file *os.File, text []byte) error {
	if _, err := file.WriteAt(text, 0); err != nil {
		return err
	}
	return file.Truncate(int64(len(text)))
}

func sum(text string) string {
	h := sha256.Sum256([]byte(text))
	return hex.EncodeToString(h[:])
}
