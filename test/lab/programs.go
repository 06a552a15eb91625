// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
)

// Run runs a program on h, with a limit high enough for it to exit by itself even on a busy
// machine.
func (l *Lab) Run(h *world.Host, name string, args ...string) world.Result {
	l.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	r, err := h.Run(ctx, name, args...)
	l.must(err)
	return r
}

// Must runs a program on h that has to succeed and returns its stdout.
func (l *Lab) Must(h *world.Host, name string, args ...string) string {
	l.Helper()
	r := l.Run(h, name, args...)
	if r.Code != 0 {
		l.Fatalf("%s: %s %s: status %d\n%s", h.Name, name, strings.Join(args, " "), r.Code, r.Output())
	}
	return r.Stdout
}

// Spawn starts a program on h that runs until the test ends, and shows its
// output if it failed.
func (l *Lab) Spawn(h *world.Host, name string, args ...string) *world.Process {
	l.Helper()
	p, err := h.Spawn(name, args...)
	l.must(err)
	l.Cleanup(func() {
		p.Kill()
		if l.Failed() {
			l.Logf("output of %s on %s:\n%s", name, h.Name, short(p.Output(), shownLines))
		}
	})
	return p
}

// Ping sends three echo requests from h and expects as many replies.
func (l *Lab) Ping(h *world.Host, address string, flags ...string) {
	l.Helper()
	r := l.Run(h, "ping", append([]string{"-n", "-c", "3", "-i", "0.05", "-W", "2", address}, flags...)...)
	if r.Code != 0 || !strings.Contains(r.Stdout, " 0% packet loss") || strings.Contains(r.Stdout, "DUP!") {
		l.Errorf("%s: ping %s: status %d\n%s", h.Name, address, r.Code, r.Output())
	}
}

// PingSoon is Ping after the first echo request that is answered, within seconds: another host learns of a new member
// some time after it exists.
func (l *Lab) PingSoon(h *world.Host, address string, flags ...string) {
	l.Helper()
	l.Eventually(10*time.Second, func() error {
		if r := l.Run(h, "ping", "-n", "-c", "1", "-W", "1", address); r.Code != 0 {
			return fmt.Errorf("%s: ping %s: status %d\n%s", h.Name, address, r.Code, r.Output())
		}
		return nil
	})
	l.Ping(h, address, flags...)
}

// NoPing expects no reply to echo requests from h.
func (l *Lab) NoPing(h *world.Host, address string) {
	l.Helper()
	r := l.Run(h, "ping", "-n", "-c", "2", "-i", "0.05", "-W", "0.3", address)
	if r.Code == 0 {
		l.Errorf("%s: ping %s was answered:\n%s", h.Name, address, r.Output())
	}
}

// HTTP starts nginx on every address of h. Each response is one line: the name, the client's
// address, and its port.
func (l *Lab) HTTP(h *world.Host, name string, ports ...int) *world.Process {
	l.Helper()
	dir, err := os.MkdirTemp(l.dir, "nginx")
	l.must(err)
	var listen strings.Builder
	for _, port := range ports {
		fmt.Fprintf(&listen, "listen %d reuseport; listen [::]:%d ipv6only=on reuseport;\n", port, port)
	}
	config := filepath.Join(dir, "nginx.conf")
	l.must(os.WriteFile(config, fmt.Appendf(nil, nginxConfig, dir, listen.String(), dir, name), 0o644))
	p := l.Spawn(h, "nginx", "-p", dir, "-e", filepath.Join(dir, "error.log"), "-c", config)
	for _, port := range ports {
		l.WaitTCP(h, fmt.Sprintf("127.0.0.1:%d", port))
	}
	return p
}

// nginxConfig configures a single process without privileges to drop. The arguments: its
// directory, the listen lines, the directory, the name.
const nginxConfig = `
daemon off; master_process off; worker_processes 1; pid %s/pid; user root;
events { worker_connections 2048; }
http {
  access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi; keepalive_requests 100000;
  server {
    %s
    root %s;
    location = / { return 200 "%s $remote_addr $remote_port\n"; }
  }
}
`

// WaitTCP waits until something listens on the port.
func (l *Lab) WaitTCP(h *world.Host, address string) {
	l.Helper()
	l.Eventually(5*time.Second, func() error {
		c, err := h.Dial(net.Dialer{Timeout: time.Second}, "tcp", address)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// curl requests the line from a server that HTTP started.
func (l *Lab) curl(h *world.Host, address string, port int, flags ...string) world.Result {
	l.Helper()
	url := "http://" + net.JoinHostPort(address, fmt.Sprint(port)) + "/"
	return l.Run(h, "curl", append([]string{"-sS", "--noproxy", "*", "--max-time", "20", url}, flags...)...)
}

// Get expects a response from the named server that saw the client at an address, or at any
// address if that is "".
func (l *Lab) Get(h *world.Host, address string, port int, name, client string) {
	l.Helper()
	r := l.curl(h, address, port)
	got := strings.Fields(r.Stdout)
	if r.Code != 0 || len(got) != 3 || got[0] != name || (client != "" && got[1] != client) {
		l.Errorf("%s: curl %s port %d: got %q (status %d %s), want an answer by %s to %s",
			h.Name, address, port, r.Stdout, r.Code, strings.TrimSpace(r.Stderr), name, client)
	}
}

// NoGet expects no response: either a refusal or a timeout.
func (l *Lab) NoGet(h *world.Host, address string, port int) {
	l.Helper()
	r := l.curl(h, address, port, "--max-time", "0.7")
	if r.Code == 0 {
		l.Errorf("%s: curl %s port %d was answered: %s", h.Name, address, port, r.Stdout)
	}
}

// UDP answers datagrams on every address of h with socat: name, the client's address, and the
// data it sent.
func (l *Lab) UDP(h *world.Host, name string, port int) {
	l.Helper()
	for _, family := range Families() {
		l.Spawn(h, "socat", fmt.Sprintf("UDP%s-RECVFROM:%d,fork,reuseaddr%s", family, port, family.Of("", ",ipv6only=1")),
			fmt.Sprintf(`SYSTEM:echo %s $SOCAT_PEERADDR $(cat)`, name))
	}
}

// Answer answers datagrams to one address of h like UDP, at any rate, until the socket that
// it returns is closed. "" stands for every address; if h has several, the source address of
// a reply may then differ from the address that the request was sent to.
func (l *Lab) Answer(h *world.Host, name, address string, port int) io.Closer {
	l.Helper()
	c, err := h.ListenPacket("udp", net.JoinHostPort(address, fmt.Sprint(port)))
	l.must(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if at, ok := from.(*net.UDPAddr); ok && err == nil {
				fmt.Fprintf(to{c, from}, "%s %s %s", name, Expand(at.AddrPort().Addr().Unmap().String()), b[:n])
			}
		}
	}()
	l.Cleanup(func() {
		c.Close()
		<-done
	})
	return c
}

// to sends datagrams to one address.
type to struct {
	net.PacketConn
	address net.Addr
}

func (t to) Write(b []byte) (int, error) { return t.WriteTo(b, t.address) }
