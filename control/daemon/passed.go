// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"net"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/fairlead-net/fairlead/control/dns"
	"github.com/fairlead-net/fairlead/control/fdstore"
)

// takePassed takes the descriptors that systemd passed: sockets of fairlead.socket, and what an earlier daemon
// stored. Programs that the daemon starts get neither.
func (d *daemon) takePassed() {
	var stored []*os.File
	d.passed, stored = sortPassed(activation.Files(true))
	d.stored = fdstore.New(stored, dns.KeptPrefix, d.log)
}

// sortPassed separates Unix sockets that listen from what earlier daemons stored, which is never used for anything else. A
// descriptor of a socket unit that is not such a socket is nil.
func sortPassed(files []*os.File) (sockets []net.Listener, stored []*os.File) {
	for _, f := range files {
		if strings.HasPrefix(f.Name(), dns.KeptPrefix) {
			stored = append(stored, f)
			continue
		}
		l, err := net.FileListener(f)
		if err == nil && l.Addr().Network() != "unix" {
			_ = l.Close() // a copy
			l = nil
		}
		if l == nil && !strings.HasSuffix(f.Name(), ".socket") {
			stored = append(stored, f)
			continue
		}
		sockets = append(sockets, l)
		_ = f.Close() // l is a copy
	}
	return sockets, stored
}
