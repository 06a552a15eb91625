// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// The network of the scenario, its gateway, and the sandbox web in it, whose
// port 80 is published.
const (
	subnet4  = "10.5.0.0/24"
	subnet6  = "fd00:5::/64"
	gateway4 = "10.5.0.1"
	gateway6 = "fd00:5::1"
	web4     = "10.5.0.9"
	web6     = "fd00:5::9"
	webPort  = "8080"
)

// world is one run of Fairlead on this machine.
type world struct {
	report  *report
	daemon  *daemon
	outside *outside
	before  []string      // the kernel's objects before the daemon ran
	box     sandbox       // the one without a program
	open    *conversation // from outside to web, kept open throughout

	one, two sandbox // the members of the encrypted network
}

// scenario makes sandboxes talk to each other and to and from the outside, with a daemon,
// without it, and with another one, and checks that nothing is left at the end. Each step
// depends on the previous ones.
func scenario(r *report, tcx bool) {
	w := &world{report: r}
	for _, s := range []struct {
		name string
		run  func() error
	}{
		{"start", w.start},
		{"attachments", func() error { return checkAttachments(uplink, tcx) }},
		{"traffic", w.traffic},
		{"layouts", w.layouts},
		{"modes", w.modes},
		{"limits", w.limits},
		{"killed", w.kill},
		{"restarted", w.restart},
		{"cleanup", w.cleanup},
		{"encrypted", w.encrypted},
	} {
		if !r.step(s.name, s.run) {
			break
		}
	}
	if w.daemon != nil {
		w.daemon.end(r)
	}
}

// start makes the outside host, a daemon, a network and two sandboxes.
func (w *world) start() error {
	var err error
	if w.outside, err = newOutside(); err != nil {
		return err
	}
	if err := eventually(nothingLoaded); err != nil { // by the previous steps
		return err
	}
	if w.before, err = holdings(); err != nil {
		return err
	}
	if w.daemon, err = startDaemon(); err != nil {
		return err
	}
	for _, command := range []string{
		"network create --ipv6 --subnet " + subnet4 + " --subnet " + subnet6 + " lab",
		"sandbox create --network lab box",
		"run -d --name web --network lab --ip " + web4 + " --ip6 " + web6 +
			" -p " + webPort + ":80 -p " + webPort + ":80/udp guest serve 80",
	} {
		if _, err := fairlead(command); err != nil {
			return err
		}
	}
	if w.box, err = entered("box"); err != nil {
		return err
	}
	return eventually(func() error {
		_, err := fairlead("exec web guest ask tcp 127.0.0.1:80")
		return err
	})
}

// traffic uses every path once, in both families, with new flows. It returns the errors of
// all paths that do not work.
func (w *world) traffic() error {
	if w.open == nil {
		var err error
		if err = w.keepOpen(); err != nil {
			return fmt.Errorf("connect from outside to the published port: %w", err)
		}
	}
	errs := []error{expect("an open connection", outside4, w.open.ask)}
	for _, target := range []string{web4, web6, gateway4, gateway6, outside4, outside6} {
		errs = append(errs, w.box.ping("-c", "1", "-W", "5", target))
	}
	for _, protocol := range []string{"tcp", "udp"} {
		errs = append(errs, w.published(protocol), w.masqueraded(protocol))
	}
	return errors.Join(errs...)
}

// keepOpen opens the connection from outside that has to outlive the daemon.
func (w *world) keepOpen() error {
	return w.outside.do(func() (err error) {
		w.open, err = converse("tcp", net.JoinHostPort(uplink4, webPort))
		return err
	})
}

// published connects to web through its published port: from outside and from another
// sandbox, whose addresses web sees, and from the host.
func (w *world) published(protocol string) error {
	var errs []error
	for _, f := range []struct{ uplink, loopback, outside, gateway string }{
		{uplink4, "127.0.0.1", outside4, gateway4}, {uplink6, "::1", outside6, gateway6},
	} {
		addr := net.JoinHostPort(f.uplink, webPort)
		errs = append(errs, expect("outside to "+addr+"/"+protocol, f.outside, func() (string, error) {
			return w.outside.ask(protocol, addr)
		}))
		for _, host := range []string{f.loopback, f.uplink} {
			addr := net.JoinHostPort(host, webPort)
			errs = append(errs, expect("host to "+addr+"/"+protocol, f.gateway, func() (string, error) {
				return ask(protocol, addr)
			}))
		}
		_, err := w.box.ask(protocol, addr)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// masqueraded connects to the outside service from a sandbox: the service sees the uplink's
// address.
func (w *world) masqueraded(protocol string) error {
	var errs []error
	for seen, target := range map[string]string{uplink4: outside4, uplink6: outside6} {
		addr := net.JoinHostPort(target, outsidePort)
		errs = append(errs, expect("box to "+addr+"/"+protocol, seen, func() (string, error) { return w.box.ask(protocol, addr) }))
	}
	return errors.Join(errs...)
}

// expect checks that the service has seen the client under an address.
func expect(what, seen string, ask func() (string, error)) error {
	got, err := ask()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if got = strings.TrimSpace(got); got != seen {
		return fmt.Errorf("%s: the service saw %s, want %s", what, got, seen)
	}
	return nil
}

// kill kills the daemon, as in a crash; what it made continues to work, except for commands
// that need the daemon, so the sandbox is entered without it.
func (w *world) kill() error {
	if err := w.daemon.kill(); err != nil {
		return err
	}
	errs := []error{expect("an open connection", outside4, w.open.ask)}
	for _, protocol := range []string{"tcp", "udp"} {
		for _, f := range []struct{ uplink, outside string }{{uplink4, outside4}, {uplink6, outside6}} {
			addr := net.JoinHostPort(f.uplink, webPort)
			errs = append(errs, expect("outside to "+addr+"/"+protocol, f.outside, func() (string, error) {
				return w.outside.ask(protocol, addr)
			}))
			addr = net.JoinHostPort(f.outside, outsidePort)
			errs = append(errs, expect("box to "+addr+"/"+protocol, f.uplink, func() (string, error) { return w.box.ask(protocol, addr) }))
		}
	}
	return errors.Join(errs...)
}

// restart starts another daemon, which adopts what exists without changes.
func (w *world) restart() error {
	before, err := programs()
	if err != nil {
		return err
	}
	if w.daemon, err = startDaemon(); err != nil {
		return err
	}
	after, err := programs()
	if err != nil {
		return err
	}
	if gone, made := difference(before, after); len(gone)+len(made) > 0 {
		return fmt.Errorf("the new daemon replaced programs or tables: removed %q, new %q", gone, made)
	}
	return w.traffic()
}

// cleanup removes everything, and checks that nothing is left.
func (w *world) cleanup() error {
	w.open.Close()
	for _, command := range []string{"rm -f web", "status"} { // cleanup removes the rest
		if _, err := fairlead(command); err != nil {
			return err
		}
	}
	if err := w.daemon.stop(); err != nil {
		return err
	}
	if _, err := fairlead("cleanup"); err != nil {
		return err
	}
	return eventually(func() error { // the kernel frees programs and tables asynchronously
		after, err := holdings()
		if err != nil {
			return err
		}
		if gone, left := difference(w.before, after); len(gone)+len(left) > 0 {
			return fmt.Errorf("cleanup left:\n%s\nand removed:\n%s", strings.Join(left, "\n"), strings.Join(gone, "\n"))
		}
		return nil
	})
}
