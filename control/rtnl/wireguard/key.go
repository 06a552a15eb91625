// SPDX-License-Identifier: Apache-2.0

package wireguard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// readKey reads a private key. Errors do not contain what is in the file.
func readKey(path string) (wgtypes.Key, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return wgtypes.Key{}, fmt.Errorf("read the host's WireGuard key: %w", err)
	}
	key, err := wgtypes.ParseKey(strings.TrimSpace(string(b)))
	if err != nil || key == (wgtypes.Key{}) {
		return wgtypes.Key{}, fmt.Errorf("the host's WireGuard key in %q is damaged (remove the file; the next start makes another key, which other nodes accept)", path)
	}
	return key, nil
}

// ensureKey makes a private key unless there is one.
func (d *Device) ensureKey() error {
	if d.key != (wgtypes.Key{}) {
		return nil
	}
	key, err := readKey(d.cfg.KeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		if key, err = wgtypes.GeneratePrivateKey(); err == nil {
			err = writeKey(d.cfg.KeyFile, key)
		}
	}
	if err != nil {
		return err
	}
	d.key = key
	return nil
}

// writeKey writes a private key so that the file is whole or does not exist.
func writeKey(path string, key wgtypes.Key) (retErr error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+"-*") // with mode 0600
	if err != nil {
		return fmt.Errorf("store the host's WireGuard key: %w", err)
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(fmt.Errorf("store the host's WireGuard key: %w", retErr), os.Remove(f.Name()))
		}
	}()
	_, err = f.WriteString(key.String() + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
