// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/api/client"
)

func TestUnreachable(t *testing.T) {
	c, err := client.New("unix:///nonexistent/api.sock")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Status(t.Context())
	if !errors.Is(err, client.ErrUnreachable) || !strings.Contains(err.Error(), `no daemon listens at /nonexistent/api.sock; start it with "fairlead daemon"`) {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"", "tcp://1.2.3.4:80", "unix://relative", "/run/x"} {
		if _, err := client.New(bad); err == nil {
			t.Errorf("host %q accepted", bad)
		}
	}
}
