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

// Dir returns the directory of a sandbox's files within the directory of all.
func Dir(dir, sandboxID string) string { return filepath.Join(dir, model.ShortID(sandboxID)) }

// Config configures Files.
type Config struct {
	Dir string // of the directories of sandboxes
	// ResolvConf and Hosts are the host's files. The default is those in /etc.
	ResolvConf, Hosts string
	Log               *slog.Logger // required
}

// systemdConf has the servers behind the stub resolver of systemd.
const systemdConf, systemdStub = "/run/systemd/resolve/resolv.conf", "127.0.0.53"

// Files are the files of all sandboxes.
type Files struct {
	cfg Config

	mu       sync.Mutex
	snapshot *desired.Snapshot
	host     string // contents of the host's resolv.conf, as used last
}

// New returns Files. They are not written before the first Update.
func New(cfg Config) *Files {
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.Hosts == "" {
		cfg.Hosts = "/etc/hosts"
	}
	return &Files{cfg: cfg}
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

// follow is how often the host's resolv.conf is read.
const follow = 2 * time.Second

// Run follows the host's resolv.conf until ctx ends.
func (f *Files) Run(ctx context.Context) error {
	tick := time.NewTicker(follow)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			f.followHost()
		}
	}
}

func (f *Files) followHost() {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.host
	if host := f.hostConf(); f.snapshot != nil && f.host != was {
		for sb := range f.snapshot.Sandboxes() {
			f.write(sb.ID, host)
		}
	}
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

// write makes the files of a sandbox what they should be.
func (f *Files) write(id string, host resolvConf) {
	sb := f.snapshot.Sandbox(id)
	dir := Dir(f.cfg.Dir, id)
	if sb == nil || !sb.HasFiles() {
		f.note(os.RemoveAll(dir), id)
		return
	}
	own := ""
	if sb.NetworkMode == model.NetworkHost {
		b, _ := os.ReadFile(f.cfg.Hosts) // a host may have none
		own = string(b)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.note(err, id)
		return
	}
	for name, text := range content(f.snapshot, sb, host, own) {
		f.note(replace(filepath.Join(dir, name), text), id)
	}
}

func (f *Files) note(err error, id string) {
	if err != nil {
		f.cfg.Log.Warn("cannot write the files of a sandbox", "id", model.ShortID(id), "err", err)
	}
}

// replace makes a text the content of a file, in place, since the file may be mounted in sandboxes. It leaves a
// file alone that someone else has changed, which it sees from the sums of what it wrote: there are two, because
// it may be interrupted between the file of sums and the file.
func replace(path, text string) error {
	sums := path + ".sum"
	known, err := os.ReadFile(sums)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case string(old) == text, len(old) > 0 && !bytes.Contains(known, []byte(sum(string(old)))):
		return nil
	}
	list := []string{sum(text)}
	if len(old) > 0 {
		list = append(list, sum(string(old)))
	}
	if err := os.WriteFile(sums, []byte(strings.Join(list, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := file.WriteAt([]byte(text), 0); err != nil {
		return errors.Join(err, file.Close())
	}
	return errors.Join(file.Truncate(int64(len(text))), file.Close())
}

func sum(text string) string {
	h := sha256.Sum256([]byte(text))
	return hex.EncodeToString(h[:])
}
