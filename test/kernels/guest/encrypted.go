// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/bench/vm/guest"
	"github.com/fairlead-net/fairlead/control/api"
)

// The daemon of the other host, which is the outside one.
const (
	otherHost = "unix:///run/other/api.sock"
	otherDirs = "--state-dir /var/other --run-dir /run/other --bpf-dir /sys/fs/bpf/other"
)

// encrypted makes this host and the outside one nodes of a cluster with an encrypted network, which is refused
// until the kernel has WireGuard. The kernel's device carries all traffic of the network, also while a
// daemon is away, and is removed in the end.
func (w *world) encrypted() (err error) {
	before, err := holdings()
	if err != nil {
		return err
	}
	own := []string{"--store", "embed", "--store-token", "none", "--advertise", uplink4, "--node-name", "own", "--docker-plugin-dir="}
	if w.daemon, err = startDaemon(own...); err != nil {
		return err
	}
	const create = "network create -d overlay --ipv6 -o encrypted secret"
	err = eventually(func() error { // the store starts
		_, err := fairlead(create)
		if err == nil || strings.Contains(err.Error(), "CONFIG_WIREGUARD") {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if _, err := fairlead(create); err == nil || !strings.Contains(err.Error(), "CONFIG_WIREGUARD") {
		return fmt.Errorf("an encrypted network without WireGuard: %v", err)
	}
	if err := guest.LoadModules("/wireguard"); err != nil {
		return err
	}
	var other *daemon
	err = w.outside.do(func() (err error) {
		args := append(strings.Fields(otherDirs), "--store", "etcd://"+uplink4+":2379", "--advertise", outside4, "--node-name", "other",
			"--metrics-listen=", "--docker-plugin-dir=")
		other, err = startDaemonAt(otherHost, args...)
		return err
	})
	if other != nil {
		defer func() { // shows the log if this fails
			if err != nil {
				w.report.failed = true
			}
			other.end(w.report)
		}()
	}
	if err != nil {
		return err
	}
	if _, err := fairlead(create); err != nil {
		return err
	}
	if err := w.members(); err != nil {
		return err
	}
	if err := w.secret(); err != nil {
		return err
	}
	if err := w.daemon.kill(); err != nil {
		return err
	}
	if err := w.two.ping("-c", "1", "-W", "5", w.one.ip4); err != nil {
		return fmt.Errorf("without this host's daemon: %w", err)
	}
	if w.daemon, err = startDaemon(own...); err != nil {
		return err
	}
	if err := w.secret(); err != nil {
		return fmt.Errorf("after a restart: %w", err)
	}
	if _, err := fairleadAt(otherHost, "rm -f two"); err != nil {
		return err
	}
	if _, err := fairlead("rm -f one"); err != nil {
		return err
	}
	if err := errors.Join(other.stop(), w.daemon.stop()); err != nil {
		return err
	}
	err = w.outside.do(func() error {
		_, err := fairlead("cleanup " + otherDirs)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := fairlead("cleanup"); err != nil {
		return err
	}
	return eventually(func() error {
		after, err := holdings()
		// The kernel's driver switches redirects off when a WireGuard device comes up (wg_open).
		redirects := func(line string) bool { return strings.Contains(line, "/ipv4/conf/all/send_redirects ") }
		before, after = slices.DeleteFunc(before, redirects), slices.DeleteFunc(after, redirects)
		if gone, left := difference(before, after); err == nil && len(gone)+len(left) > 0 {
			err = fmt.Errorf("cleanup left:\n%s\nand removed:\n%s", strings.Join(left, "\n"), strings.Join(gone, "\n"))
		}
		return err
	})
}

// members makes a sandbox on each host, which serves.
func (w *world) members() error {
	for _, m := range []struct {
		host, name string
		box        *sandbox
	}{{api.DefaultHost, "one", &w.one}, {otherHost, "two", &w.two}} {
		err := eventually(func() error {
			_, err := fairleadAt(m.host, "run -d --name "+m.name+" --network secret guest serve 80")
			return err
		})
		if err != nil {
			return err
		}
		if *m.box, err = enteredAt(m.host, m.name); err != nil {
			return err
		}
	}
	return nil
}

// secret sends between the members, small and large packets, and checks that the kernel's device does it.
func (w *world) secret() error {
	errs := []error{eventually(func() error { return w.one.ping("-c", "1", "-W", "1", w.two.ip4) })}
	for _, pair := range [][2]sandbox{{w.one, w.two}, {w.two, w.one}} {
		from, to := pair[0], pair[1]
		for own, addr := range map[string]string{from.ip4: to.ip4, from.ip6: to.ip6} {
			for _, size := range []string{"56", "8000"} {
				errs = append(errs, from.ping("-c", "2", "-W", "5", "-s", size, addr))
			}
			for _, protocol := range []string{"tcp", "udp"} {
				at := net.JoinHostPort(addr, "80")
				errs = append(errs, expect(from.name+" to "+at+"/"+protocol, own, func() (string, error) { return from.ask(protocol, at) }))
			}
		}
	}
	all, err := devices()
	if !slices.Contains(all, `device flwg0 wireguard "fairlead:wireguard"`) {
		errs = append(errs, fmt.Errorf("the kernel's device is not among %q", all))
	}
	shaken, shakenErr := fairlead("node inspect --format {{.LastHandshake}} other")
	if !strings.HasPrefix(shaken, "20") {
		errs = append(errs, fmt.Errorf("node inspect shows handshake %q", shaken))
	}
	return errors.Join(append(errs, err, shakenErr)...)
}
