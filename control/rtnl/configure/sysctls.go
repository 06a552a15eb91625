// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// chosen reports whether the user chose another value of a setting of the device.
func (d *Device) chosen(own rtnl.Sysctl) bool {
	for _, s := range d.Settings {
		if s.Sets(model.Sysctl{Family: own.Family, Table: "conf", Key: own.Key}) {
			return true
		}
	}
	return false
}

func isDisableIPv6(s model.Sysctl) bool {
	return s.Sets(model.Sysctl{Family: "ipv6", Table: "conf", Key: disableIPv6})
}

// choose writes the settings that the user chose and that differ. The kernel rounds some: one that reads the same
// afterwards does not count as changed.
func (s *sandbox) choose(l rtnl.Link, d *Device) error {
	var errs []error
	for _, want := range d.Settings {
		path := filepath.Join("/proc/sys/net", want.Family, want.Table, l.Name, want.Key)
		is, err := readSetting(path)
		if err == nil && is == want.Value {
			continue
		}
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			err = os.WriteFile(path, []byte(want.Value), 0)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = model.Refuse(model.ErrInvalid, "sysctl %s does not exist in this kernel (leave it out)", want.Name())
		case err != nil:
			err = model.Refuse(model.ErrInvalid, "sysctl %s cannot be %s: %v (choose another value)", want.Name(), want.Value, errors.Unwrap(err))
		}
		if now, _ := readSetting(path); now != is {
			s.changes.Sysctls++
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// readSetting returns a setting, with single blanks in it.
func readSetting(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.Join(strings.Fields(string(b)), " "), err
}
