// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// longStream is a TCP connection with an echo server whose ends send continuously.
type longStream struct {
	name string
	conn net.Conn

	mu   sync.Mutex
	back bytes.Buffer // what came back recently
	err  error
}

// newLongStream connects, and sends at times that differ from those of others.
func newLongStream(l *lab.Lab, h *world.Host, address string, phase time.Duration) *longStream {
	l.Helper()
	c, err := h.Dial(net.Dialer{Timeout: lab.Patient, KeepAlive: -1}, "tcp", address)
	if err != nil {
		l.Fatal(err)
	}
	s := &longStream{name: fmt.Sprintf("%s to %s", c.LocalAddr(), address), conn: c}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 1<<16)
		for {
			n, err := c.Read(b)
			s.note(b[:n], err)
			if err != nil {
				return
			}
		}
	})
	wg.Go(func() {
		time.Sleep(phase)
		for {
			if _, err := c.Write([]byte(".")); err != nil {
				s.note(nil, err)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	l.Cleanup(func() {
		c.Close()
		wg.Wait()
	})
	return s
}

func (s *longStream) note(back []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.back.Write(back)
	if s.back.Len() > 1<<16 {
		s.back.Next(s.back.Len() - 1<<12)
	}
	if s.err == nil {
		s.err = err
	}
}

// lives expects the stream to return something that was sent just now.
func (s *longStream) lives(l *lab.Lab, after string) {
	l.Helper()
	s.conn.Write([]byte(after)) // an error shows when it does not come back
	l.Eventually(20*time.Second, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err != nil {
			l.Fatalf("%s: %s: %v", after, s.name, s.err)
		}
		if !bytes.Contains(s.back.Bytes(), []byte(after)) {
			return fmt.Errorf("%s: %s: nothing comes back", after, s.name)
		}
		return nil
	})
}

// streams holds streams of each family, from outside to a published port and from a sandbox
// to outside.
type streams []*longStream

func newStreams(l *lab.Lab) (list streams) {
	l.Helper()
	web := network(l, "web")
	a := l.Sandbox("anna", "--network", web)
	b := l.Sandbox("ben", "--network", web, "-p", "7070:7")
	l.Echo(b.Host, 7)
	l.Echo(l.Outside, 7)
	for _, f := range lab.Families() {
		for i := range 8 {
			phase := time.Duration(i) * 3 * time.Millisecond
			list = append(list,
				newLongStream(l, l.Outside, net.JoinHostPort(f.Of(lab.Host4, lab.Host6), "7070"), phase),
				newLongStream(l, a.Host, net.JoinHostPort(f.Of(lab.Outside4, lab.Outside6), "7"), phase))
		}
	}
	return list
}

func (list streams) live(l *lab.Lab, after string) {
	l.Helper()
	for _, s := range list {
		s.lives(l, after)
	}
}

// bringUp sets the uplink up and configures it again: the kernel has removed IPv6 addresses
// and routes.
func bringUp(l *lab.Lab, device string) {
	l.Helper()
	l.IP(l.Host, "link set "+device+" up", "addr replace "+lab.Host6+"/64 dev "+device,
		"route replace default via "+lab.Outside4, "route replace ::/0 via "+lab.Outside6)
}

// Streams survive whatever happens to the uplink, and none of their packets reaches the
// host's stack, which would reset them.
func TestStreamsOutliveTheUplink(t *testing.T) {
	t.Parallel()
	for _, pinned := range []bool{false, true} {
		var cfg lab.Config
		name := "found"
		if pinned {
			name, cfg.DaemonArgs = "pinned", []string{"--uplink", "eth0"}
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			modes(t, cfg, func(t *testing.T, l *lab.Lab) {
				list := newStreams(l)
				list.live(l, "at first")
				l.IP(l.Host, "link set eth0 down")
				time.Sleep(time.Second)
				bringUp(l, "eth0")
				list.live(l, "down for a second")
				for range 10 {
					l.IP(l.Host, "link set eth0 down")
					time.Sleep(200 * time.Millisecond)
					bringUp(l, "eth0")
					time.Sleep(200 * time.Millisecond)
				}
				list.live(l, "ten flaps")
				l.IP(l.Outside, "link set eth0 down")
				time.Sleep(time.Second)
				l.IP(l.Outside, "link set eth0 up", "addr replace "+lab.Outside6+"/64 dev eth0 nodad")
				list.live(l, "carrier lost")
				remake(l)
				list.live(l, "another device")
				if pinned {
					return
				}
				l.IP(l.Host, "link set eth0 down", "link set eth0 name wan0")
				bringUp(l, "wan0")
				list.live(l, "renamed")
			})
		})
	}
}

// remake replaces the uplink's device, like a driver that is reloaded: the device exists
// before it has addresses.
func remake(l *lab.Lab) {
	l.Helper()
	l.IP(l.Host, "link del dev eth0")
	time.Sleep(time.Second)
	if err := world.Cable(world.End{Host: l.Host, Device: "eth0"}, world.End{Host: l.Outside, Device: "eth0"}); err != nil {
		l.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	l.IP(l.Outside, "addr add "+lab.Outside4+"/24 dev eth0", "addr replace "+lab.Outside6+"/64 dev eth0 nodad")
	l.IP(l.Host, "addr add "+lab.Host4+"/24 dev eth0")
	bringUp(l, "eth0")
}
