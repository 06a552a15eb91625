// SPDX-License-Identifier: Apache-2.0

// Peer is what containers run in the tests of faces: a server that tells its clients
// how it sees them, and a resolver. It is one static file, so an image needs no other.
//
//	peer serve NAME PORT…
//	peer lookup HOST
package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) > 2 && args[0] == "serve":
		return serve(args[1], args[2:])
	case len(args) == 2 && args[0] == "lookup":
		return lookup(args[1])
	}
	return fmt.Errorf("usage: peer serve NAME PORT… | peer lookup HOST")
}

// serve answers on the ports, TCP and UDP, until it receives a signal.
func serve(name string, ports []string) error {
	for _, port := range ports {
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		c, err := net.ListenPacket("udp", ":"+port)
		if err != nil {
			return err
		}
		go streams(l, name)
		go datagrams(c.(*net.UDPConn), name)
	}
	// The first process of a container has no default actions.
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	<-end
	return nil
}

func streams(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for lines := bufio.NewScanner(c); lines.Scan(); {
				fmt.Fprintln(c, answer(name, c.RemoteAddr(), c.LocalAddr()))
			}
		}()
	}
}

// datagrams answers with as many bytes as it got, if the answer is not longer.
func datagrams(c *net.UDPConn, name string) {
	b := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			continue // an earlier answer was refused
		}
		text := []byte(answer(name, from, c.LocalAddr()))
		text = append(text, bytes.Repeat([]byte(" "), max(0, n-len(text)))...)
		c.WriteTo(text, from)
	}
}

// answer is "NAME CLIENT PORT".
func answer(name string, client, local net.Addr) string {
	at := netip.MustParseAddrPort(client.String()).Addr().Unmap()
	return fmt.Sprintf("%s %s %d", name, at, netip.MustParseAddrPort(local.String()).Port())
}

// lookup prints the addresses of a name, one a line.
func lookup(host string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	addresses, err := new(net.Resolver).LookupHost(ctx, host)
	for _, a := range addresses {
		fmt.Println(a)
	}
	return err
}
