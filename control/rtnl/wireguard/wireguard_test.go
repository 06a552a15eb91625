// SPDX-License-Identifier: Apache-2.0

package wireguard

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/fairlead-net/fairlead/control/model"
)

// TestKey makes a key, finds it again, and makes another after the file was lost. Only root reads the file,
// and no error repeats what is in it.
func TestKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	open := func() *Device {
		t.Helper()
		d, err := New(Config{KeyFile: path, Port: 1})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := open()
	if key, port := d.Key(); !key.IsZero() || port != 0 {
		t.Errorf("before there was a device the key is %v, port %d", key, port)
	}
	if err := d.ensureKey(); err != nil {
		t.Fatal(err)
	}
	first, port := d.Key()
	if again, _ := open().Key(); again != first || first.IsZero() || port != 1 {
		t.Errorf("the key is %v, and %v after a restart; port %d", first, again, port)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("the key's file: %v, %v", st.Mode(), err)
	}
	secret, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, secret[:len(secret)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{KeyFile: path}); err == nil || !strings.Contains(err.Error(), "remove the file") || strings.Contains(err.Error(), string(secret[:10])) {
		t.Errorf("a damaged key: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	d = open()
	if err := d.ensureKey(); err != nil {
		t.Fatal(err)
	}
	if second, _ := d.Key(); second == first {
		t.Error("a lost key was found again")
	}
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
		t.Errorf("files: %v, %v", files, err)
	}
}

// TestChanges compares peers: only what differs is written, and a peer that moved by itself is left alone.
func TestChanges(t *testing.T) {
	a, b, c := model.PublicKey{1}, model.PublicKey{2}, model.PublicKey{3}
	at := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	peer := func(k model.PublicKey, endpoint string) wgtypes.Peer {
		return wgtypes.Peer{PublicKey: wgtypes.Key(k), Endpoint: net.UDPAddrFromAddrPort(at(endpoint)), AllowedIPs: []net.IPNet{hostNet(k.TunnelAddr())}}
	}
	stray := peer(b, "192.0.2.2:1")
	stray.AllowedIPs = append(stray.AllowedIPs, net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)})
	for _, tt := range []struct {
		name  string
		have  []wgtypes.Peer
		want  []model.EncryptedPeer
		set   map[model.PublicKey]netip.AddrPort
		keep  bool
		moved string // what the changes are, in words
	}{
		{"the same", []wgtypes.Peer{peer(a, "192.0.2.1:1")}, []model.EncryptedPeer{{Key: a, Endpoint: at("192.0.2.1:1")}}, nil, false, ""},
		{"new", nil, []model.EncryptedPeer{{Key: a, Endpoint: at("192.0.2.1:1")}}, nil, false, "1:allowed:endpoint "},
		{"moved by itself", []wgtypes.Peer{peer(a, "192.0.2.9:9")}, []model.EncryptedPeer{{Key: a, Endpoint: at("192.0.2.1:1")}},
			map[model.PublicKey]netip.AddrPort{a: at("192.0.2.1:1")}, false, ""},
		{"another record", []wgtypes.Peer{peer(a, "192.0.2.9:9")}, []model.EncryptedPeer{{Key: a, Endpoint: at("192.0.2.3:1")}},
			map[model.PublicKey]netip.AddrPort{a: at("192.0.2.1:1")}, false, "1:endpoint "},
		{"after a restart", []wgtypes.Peer{peer(a, "192.0.2.9:9")}, []model.EncryptedPeer{{Key: a, Endpoint: at("192.0.2.1:1")}}, nil, false, "1:endpoint "},
		{"other addresses", []wgtypes.Peer{stray}, []model.EncryptedPeer{{Key: b, Endpoint: at("192.0.2.2:1")}}, nil, false, "2:allowed "},
		{"removed", []wgtypes.Peer{peer(a, "192.0.2.1:1"), peer(c, "192.0.2.3:1")}, []model.EncryptedPeer{{Key: c, Endpoint: at("192.0.2.3:1")}}, nil, false, "1:removed "},
		{"not listed yet", []wgtypes.Peer{peer(a, "192.0.2.1:1")}, nil, nil, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &Device{endpoints: tt.set}
			changes, _ := d.changes(tt.have, tt.want, tt.keep)
			text := ""
			for _, ch := range changes {
				text += string('0' + rune(ch.PublicKey[0]))
				if ch.Remove {
					text += ":removed"
				}
				if ch.AllowedIPs != nil && ch.ReplaceAllowedIPs {
					text += ":allowed"
				}
				if ch.Endpoint != nil {
					text += ":endpoint"
				}
				text += " "
			}
			if text != tt.moved {
				t.Errorf("changes %q, want %q", text, tt.moved)
			}
		})
	}
}
