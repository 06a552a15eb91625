// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/fairlead-net/fairlead/control/model"
)

// leaser is an IPAM plugin that records its calls in a log file and its leases as files.
const leaser = `#!/bin/sh
cd "${0%%/*}"
conf=$(cat | grep -o '"cniVersion":"[^"]*"')
[ "$CNI_COMMAND" = VERSION ] || echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $conf" | tr -s ' ' >>log
lease=lease-$CNI_CONTAINERID-$CNI_IFNAME
case $CNI_COMMAND in
VERSION) echo '{ "cniVersion": "1.0.0", "supportedVersions": [ %s ] }' ;;
ADD)
	i=2
	while ! mkdir "taken-$i" 2>/dev/null; do i=$((i + 1)); done
	echo "$i" >"$lease"
	echo '{ "cniVersion": "1.0.0", "ips": [ { "address": "10.78.0.'$i'/24", "gateway": "10.78.0.1" } ] }' ;;
DEL)
	if [ -e "stuck-$CNI_CONTAINERID" ]; then
		echo '{ "code": 5, "msg": "stuck" }'
		exit 1
	fi
	[ ! -e "$lease" ] || rm -r "taken-$(cat "$lease")" "$lease" ;;
esac
`

// leases is the directory of a leaser.
type leases struct {
	*world
	dir string
}

// leaser installs a leaser that supports these versions.
func (w *world) leaser(versions string) *leases {
	w.Helper()
	l := &leases{w, w.TempDir()}
	w.must(os.WriteFile(filepath.Join(l.dir, "leaser"), fmt.Appendf(nil, leaser, versions), 0o755))
	w.Setenv("CNI_PATH", l.dir)
	return l
}

// join adds a container with an address from the leaser.
func (l *leases) join(a Attachment, conf []byte) {
	l.Helper()
	l.Setenv("CNI_CONTAINERID", a.ContainerID)
	l.Setenv("CNI_IFNAME", a.IfName)
	l.add(a, conf)
	l.Setenv("CNI_CONTAINERID", "")
	l.Setenv("CNI_IFNAME", "")
}

// left returns the existing leases.
func (l *leases) left() string {
	l.Helper()
	files, err := filepath.Glob(filepath.Join(l.dir, "lease-*"))
	l.must(err)
	for i, f := range files {
		files[i] = strings.TrimPrefix(filepath.Base(f), "lease-")
	}
	return strings.Join(files, " ")
}

// calls returns the calls since the last time.
func (l *leases) calls() string {
	l.Helper()
	log := filepath.Join(l.dir, "log")
	b, err := os.ReadFile(log)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	l.must(err)
	l.must(os.Remove(log))
	return string(b)
}

// GC releases the addresses of what it removes, and calls GC of an IPAM plugin that supports it.
func TestGCGivesLeasesBack(t *testing.T) {
	for _, tt := range []struct {
		versions, calls string
	}{
		{`"0.4.0", "1.0.0", "0.3.1"`, "DEL drop eth0 \"cniVersion\":\"1.0.0\"\n"},
		{`"1.0.0", "1.1.0"`, "DEL drop eth0 \"cniVersion\":\"1.1.0\"\nGC \"cniVersion\":\"1.1.0\"\n"},
	} {
		w := newWorld(t)
		l := w.leaser(tt.versions)
		ipam := keys{"ipam": keys{"type": "leaser"}}
		for _, id := range []string{"keep", "drop", "stuck"} {
			l.join(at(id, w.namespace(id)), w.conf(ipam))
		}
		l.calls()
		gc := func(valid ...string) error {
			list := []keys{}
			for _, id := range valid {
				list = append(list, keys{"containerID": id, "ifname": "eth0"})
			}
			return w.GC(t.Context(), w.conf(keys{"ipam": ipam["ipam"], keyValid: list}))
		}
		want := func(sandboxes, leases string) {
			t.Helper()
			if names, left := w.Names(), l.left(); names != sandboxes || left != leases {
				t.Errorf("versions %s: sandboxes %q and leases %q, want %q and %q", tt.versions, names, left, sandboxes, leases)
			}
		}
		w.must(gc("keep", "stuck"))
		want("cni-keep cni-stuck", "keep-eth0 stuck-eth0")
		if calls := l.calls(); calls != tt.calls {
			t.Errorf("versions %s: calls of the IPAM plugin:\n%swant:\n%s", tt.versions, calls, tt.calls)
		}
		w.must(os.WriteFile(filepath.Join(l.dir, "stuck-stuck"), nil, 0o644))
		w.refused(gc(), types.ErrIOFailure, "container stuck: stuck")
		want("cni-stuck", "stuck-eth0")
		w.must(os.Remove(filepath.Join(l.dir, "stuck-stuck")))
		w.must(gc())
		want("", "")
		w.refused(w.GC(t.Context(), w.conf(keys{"ipam": keys{"type": "nobody"}, keyValid: []keys{}})), types.ErrInternal, `"nobody"`)
	}
}

// A verb without the IPAM plugin in its configuration does not remove a container that has
// leases.
func TestNobodyElseEndsLeases(t *testing.T) {
	w := newWorld(t)
	l := w.leaser(`"1.0.0", "1.1.0"`)
	port := keys{"portMappings": []keys{{"hostPort": 8080, "containerPort": 80}}}
	plain, managed := w.conf(keys{"name": "plain"}), w.conf(keys{"ipam": keys{"type": "leaser"}})
	ended := w.namespace("ended")
	first, second := at("ended", ended), at("ended", ended)
	second.IfName = "eth1"
	w.add(first, w.conf(keys{"name": "plain", "runtimeConfig": port}))
	l.join(second, managed)
	w.must(os.Remove(ended))
	w.Broken = &model.Refusal{Kind: model.ErrVanished, Text: "gone"}
	other := at("other", w.namespace("other"))
	_, err := w.Add(t.Context(), other, w.conf(keys{"name": "plain", "runtimeConfig": port}))
	w.refused(err, errConflict, "8080")
	w.must(w.Del(t.Context(), first, plain))
	if names, n := w.Names(), w.Snapshot().Counts().Endpoints; names != "cni-ended" || n != 1 {
		t.Errorf("sandboxes %q with %d endpoints, want the one with a lease", names, n)
	}
	w.must(w.GC(t.Context(), w.conf(keys{"ipam": keys{"type": "leaser"}, keyValid: []keys{}})))
	w.add(other, w.conf(keys{"name": "plain", "runtimeConfig": port}))
	if names, left := w.Names(), l.left(); names != "cni-other" || left != "" {
		t.Errorf("after GC: sandboxes %q, leases %q", names, left)
	}
}

// STATUS calls the IPAM plugin if that supports STATUS, and else fails, as ADD would.
func TestStatusOfTheIPAMPlugin(t *testing.T) {
	w := newWorld(t)
	t.Setenv("CNI_PATH", t.TempDir())
	conf := w.conf(keys{"ipam": keys{"type": "leaser"}})
	w.refused(w.Plugin.Status(t.Context(), conf), types.ErrPluginNotAvailable, `"leaser"`)
	w.leaser(`"1.0.0"`)
	w.refused(w.Plugin.Status(t.Context(), conf), types.ErrPluginNotAvailable, "leaser does not support version 1.1.0")
	l := w.leaser(`"1.1.0"`)
	w.must(w.Plugin.Status(t.Context(), conf))
	if calls := l.calls(); !strings.HasPrefix(calls, "STATUS") {
		t.Errorf("calls of the IPAM plugin: %q", calls)
	}
}
