// SPDX-License-Identifier: Apache-2.0

package open_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/cluster/kv/open"
)

// What cannot work is refused when it is opened, in words that contain no password.
func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage.pem")
	if err := os.WriteFile(garbage, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		url  string
		opts open.Options
		want string
	}{
		{"", open.Options{}, "is not the URL of a store"},
		{"host:2379", open.Options{}, "is not the URL of a store"},
		{"redis://host", open.Options{}, "is not the URL of a store"},
		{"tls://host", open.Options{}, "is not the URL of a store"},
		{"etcd://", open.Options{}, "is not HOST"},
		{"etcd://a,,b", open.Options{}, "is not HOST"},
		{"etcd://a:0", open.Options{}, "is not a port"},
		{"etcd://a:65536", open.Options{}, "is not a port"},
		{"etcd://a:port", open.Options{}, "is not HOST"},
		{"etcd://a/path", open.Options{}, "is not HOST"},
		{"etcd://a?x=y", open.Options{}, "is not HOST"},
		{"etcd://root:secret@a", open.Options{}, "user or password"},
		{"http://root:secret@a", open.Options{}, "is not the URL of a store"},
		{"consul://a,b", open.Options{}, "one address"},
		{"etcd://a", open.Options{User: "root"}, "without a password"},
		{"etcd://a", open.Options{CACert: filepath.Join(dir, "absent")}, "read the CA"},
		{"zk://a", open.Options{CACert: garbage}, "contains no certificate"},
		{"consul://a", open.Options{Cert: garbage}, "needs its key"},
		{"consul://a", open.Options{Key: garbage}, "its certificate"},
		{"consul://a", open.Options{Cert: garbage, Key: garbage}, "read the certificate"},
	} {
		s, err := open.Open(c.url, c.opts)
		if err == nil {
			_ = s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("open %q with %+v: %v, want %q", c.url, c.opts, err, c.want)
		}
	}
}

// A store that does not answer is opened nevertheless: a daemon starts without it.
func TestOpensWithoutAServer(t *testing.T) {
	for _, url := range []string{"etcd://127.0.0.1:1", "etcd+tls://127.0.0.1:1,[::1]", "consul://127.0.0.1:1", "consul+tls://[::1]:1/", "zk://127.0.0.1:1,host.invalid"} {
		for _, opts := range []open.Options{{}, {User: "root", Password: "secret"}} {
			s, err := open.Open(url, opts)
			if err != nil {
				t.Errorf("open %s: %v", url, err)
				continue
			}
			if h := s.Health(); h.Store != url || h.Reachable {
				t.Errorf("health of %s: %+v", url, h)
			}
			if err := s.Close(); err != nil {
				t.Errorf("close %s: %v", url, err)
			}
		}
	}
}
