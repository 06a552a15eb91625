// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

// Containers of a runtime reach each other, and the world their published ports.
func TestContainers(t *testing.T) {
	t.Parallel()
	r := newRuntime(t, lab.Config{})
	pods := r.list("1.1.0", "pods", config{"subnets": []config{{"subnet": "10.77.0.0/24"}, {"subnet": "fd00:77::/64"}}, "mtu": 1400})
	a := r.container("anna", nil)
	b := r.container("ben", config{"portMappings": []config{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}})
	a4, b4 := a.ip(pods), b.ip(pods)
	r.Ping(a.Host, b4)
	r.Ping(b.Host, a4)
	r.Ping(a.Host, lab.Internet4)
	r.Ping(a.Host, lab.Internet6)
	r.HTTP(b.Host, "ben", 80)
	r.Get(r.Outside, lab.Host4, 8080, "ben", lab.Outside4)
	r.Get(r.Outside, lab.Host6, 8080, "ben", lab.Outside6)
	r.Get(r.Host, "127.0.0.1", 8080, "ben", "")
	r.Get(a.Host, lab.Host4, 8080, "ben", "10.77.0.1") // the gateway stands for clients on this host
	r.wantSandboxes("cni-ben pods\ncni-anna pods", 2)
	b.del(pods)
	a.del(pods)
	r.wantSandboxes("", 0)
}
