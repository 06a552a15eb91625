// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
)

// beginRequest sends the plugin the first half of an engine's request. The function it
// returns sends the other, and returns the answer.
func (d *docker) beginRequest() (finish func() string) {
	d.Helper()
	c, err := d.Host.Dial(net.Dialer{}, "unix", filepath.Join(plugins, "fairlead.sock"))
	if err != nil {
		d.Fatal(err)
	}
	const body = `{"EndpointID":"none"}`
	if _, err := fmt.Fprintf(c, "POST /NetworkDriver.EndpointOperInfo HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:5]); err != nil {
		d.Fatal(err)
	}
	return func() string {
		d.Helper()
		defer c.Close()
		if _, err := io.WriteString(c, body[5:]); err != nil {
			d.Error(err)
		}
		answer, err := io.ReadAll(c)
		if err != nil {
			d.Error(err)
		}
		return string(answer)
	}
}
