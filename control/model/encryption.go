// SPDX-License-Identifier: Apache-2.0

package model

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"time"
)

// PublicKey is the public key of a node's WireGuard device.
type PublicKey [32]byte

// String formats the key in base64, as wg(8).
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// MarshalText implements [encoding.TextMarshaler].
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (k *PublicKey) UnmarshalText(text []byte) error {
	b, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil || len(b) != len(k) {
		return fmt.Errorf("%q is not a public key (want %d bytes in base64)", text, len(k))
	}
	*k = PublicKey(b)
	return nil
}

// IsZero reports whether there is no key.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// TunnelPrefix is the prefix of the addresses that nodes have inside of WireGuard. It is the same in all
// clusters: a prefix that followed from the store would change when the store is emptied, and these
// addresses are seen on nodes' WireGuard devices only. 40 bits were chosen at random (RFC 4193).
var TunnelPrefix = netip.MustParsePrefix("fdb7:5c1e:93f0:fa1e::/64")

// TunnelAddr returns the address that a node has inside of WireGuard. It follows from the key, so that
// nothing has to be allocated.
func (k PublicKey) TunnelAddr() netip.Addr {
	a, sum := TunnelPrefix.Addr().As16(), sha256.Sum256(k[:])
	copy(a[8:], sum[:8])
	return netip.AddrFrom16(a)
}

// WireGuardOverhead returns the size of what WireGuard adds to a packet that is sent over a family, in bytes:
// the headers of IP, UDP and WireGuard, and the authentication tag.
func WireGuardOverhead(f Family) int {
	if f == V4 {
		return 20 + 8 + 16 + 16
	}
	return 40 + 8 + 16 + 16
}

// EncryptedPeer is a node that traffic is encrypted for.
type EncryptedPeer struct {
	Key      PublicKey
	Endpoint netip.AddrPort // where its WireGuard device receives
}

// EncryptingDevice is this node's WireGuard device.
type EncryptingDevice struct {
	IfIndex uint32
	Key     PublicKey
	MTU     int // in bytes
}

// Handshakes are the times of the last handshakes with other nodes.
type Handshakes map[PublicKey]time.Time
