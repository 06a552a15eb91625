// SPDX-License-Identifier: Apache-2.0

package names

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// echo answers each line on every connection to a port with the line.
func (n *names) echo(h *world.Host, port string) {
	n.Helper()
	l, err := h.Listen("tcp", ":"+port)
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for s := bufio.NewScanner(c); s.Scan(); {
					fmt.Fprintln(c, s.Text())
				}
			}()
		}
	}()
}

// session is a connection to an echo server.
type session struct {
	net.Conn
	*bufio.Reader
}

func dial(h *world.Host, address string) (*session, error) {
	c, err := h.Dial(net.Dialer{Timeout: time.Second}, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &session{c, bufio.NewReader(c)}, nil
}

func (s *session) echoes() error {
	if err := s.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(s.Conn, "hello"); err != nil {
		return err
	}
	line, err := s.ReadString('\n')
	if err == nil && line != "hello\n" {
		err = fmt.Errorf("echo of %q", line)
	}
	return err
}

// Ports can be published and withdrawn while a sandbox runs: all that are named or none. Connections by other ports
// continue.
func TestPublishLater(t *testing.T) {
	t.Parallel()
	n := &names{Lab: lab.New(t, lab.Config{})}
	n.Fairlead("network", "create", "web")
	a := n.Sandbox("anna", "--network", "web", "-p", "8080:80")
	ben := n.Sandbox("ben", "--network", "web", "-p", "9090:80")
	n.contains(n.Must(ben.Host, "dig", "+short", "@"+resolver, "_80._tcp.anna", "SRV"), "0 0 80 anna.web.")
	n.digs(ben.Host, "NOERROR", "@"+resolver, "_https._tcp.anna", "SRV")
	n.echo(a.Host, "80")
	n.echo(a.Host, "443")
	at := func(port string) string { return net.JoinHostPort(lab.Host4, port) }
	old, err := dial(n.Outside, at("8080"))
	if err != nil {
		t.Fatal(err)
	}
	reaches := func(port string, want bool) {
		t.Helper()
		for _, h := range []*world.Host{n.Outside, n.Host} {
			s, err := dial(h, at(port))
			if err == nil {
				err = s.echoes()
				s.Close()
			}
			if (err == nil) != want {
				t.Errorf("%s reaches port %s: %v, want it to: %t", h.Name, port, err, want)
			}
		}
		if err := old.echoes(); err != nil {
			t.Fatalf("the connection by port 8080: %v", err)
		}
	}
	reaches("8443", false)
	n.Fairlead("publish", "add", "anna", "-p", "8443:443", "-p", "8444:443")
	reaches("8443", true)
	reaches("8444", true)
	n.contains(n.Must(ben.Host, "dig", "+short", "@"+resolver, "_https._tcp.anna", "SRV"), "0 0 443 anna.web.")
	// All or none.
	n.Refused(1, []string{"port is already allocated", `sandbox "ben"`}, "publish", "add", "anna", "-p", "8445:443", "-p", "9090:443")
	n.Refused(1, []string{"port is already allocated", `sandbox "anna"`}, "publish", "add", "anna", "-p", "8443:443")
	n.Refused(1, []string{"does not publish port 443/tcp at host port 8445", "fairlead port anna"}, "publish", "rm", "anna", "-p", "8443:443", "-p", "8445:443")
	reaches("8443", true)
	n.KillDaemon()
	n.StartDaemon()
	reaches("8444", true)
	n.Fairlead("publish", "rm", "anna", "-p", "8444:443")
	reaches("8444", false)
	reaches("8443", true)
	n.Fairlead("publish", "add", "ben", "-p", "8444:443")
	n.Fairlead("publish", "rm", "anna", "-p", "443")
	reaches("8443", false)
	n.Fairlead("publish", "add", "anna", "-p", "443")
	if got := n.Fairlead("port", "anna"); !strings.Contains(got, "443/tcp -> 0.0.0.0:") {
		t.Errorf("published are\n%s", got)
	}
	n.Fairlead("sandbox", "create", "--network", "host", "host")
	n.Refused(1, []string{"network mode host"}, "publish", "add", "host", "-p", "80")
	n.Refused(2, []string{"--publish"}, "publish", "add", "anna")
	n.Refused(2, []string{"publish"}, "publish", "add", "anna", "-p", "x")
	n.Refused(1, []string{"no such sandbox"}, "publish", "rm", "nobody", "-p", "80")
}
