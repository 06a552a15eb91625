// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

// A container of podman's is published, starts again, and is gone without a trace.
func TestPodman(t *testing.T) {
	t.Parallel()
	e := newEngine(t, true)
	e.importImage()
	e.podman("network", "create", "-d", "fairlead", "--subnet", "10.77.0.0/16", "pods")
	e.httpd("web", "--network", "pods", "-p", "8080:80")
	served := func() {
		t.Helper()
		e.served(e.Outside, "http://"+lab.Host4+":8080/")
		e.served(e.Host, "http://127.0.0.1:8080/")
	}
	served()
	e.want(1, "web/pods")
	e.podman("restart", "--time", "0", "web")
	served()
	e.podman("rm", "--force", "--time", "0", "web")
	e.want(0)
}
