// SPDX-License-Identifier: Apache-2.0

// Package systemd boots a real systemd, and tests the units that `make install` installs
// together with Debian's Docker Engine and its units.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/topology"
	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
	busy "github.com/fairlead-net/fairlead/test/machine"
)

func TestMain(m *testing.M) {
	if err := topology.Sweep(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lab.MainUnraced(m)
}

const (
	patience = time.Minute
	image    = "answerer"
)

// machine is a set of namespaces of all kinds, with the programs of the machine that the test
// runs on, and systemd as first process. The lab is outside of it: its host stores the
// machine's disk.
type machine struct {
	*lab.Lab
	root   string // with its programs; "" for those of this machine
	cgroup *topology.Cgroup
	power  *world.Process // it exits when the machine is switched off
	pid    string         // of systemd
	host   *world.Host    // the network of the machine
	// took is how long the first start of an engine without containers took; it is longer on
	// a busy machine.
	took  time.Duration
	watch *busy.Watch // since the last boot began
}

// disk is where the disk is mounted: it holds what a machine writes to its /etc, /usr and
// /var, or to its root.
const disk = "/mnt"

// switchOn makes a machine's mounts and executes its systemd. Its arguments are the disk and, unless the machine has the
// programs of the one that the test runs on, the root that it has instead. It does not have what this machine has configured and
// enabled. It can change only the parts of the kernel that belong to its namespaces.
const switchOn = `
	if [ "$2" ]; then
		root=$1/root
		if ! [ -e "$root" ]; then
			mkdir "$root" "$1/upper" "$1/work"
			cp -a "$2/var" "$1/var"
			mkdir -p "$1/local" "$1/dev"
		fi
		mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" root "$root"
	else
		root=
		mount -o remount,bind,ro /
		for dir in etc usr; do
			mkdir -p "$1/$dir/upper" "$1/$dir/work"
			mount -t overlay -o "lowerdir=/$dir,upperdir=$1/$dir/upper,workdir=$1/$dir/work" "$dir" "/$dir"
		done
		if ! [ -e "$1/var" ]; then
			mkdir "$1/var" "$1/local" "$1/dev"
			rm -rf /etc/systemd /etc/init.d /usr/lib/systemd/system-generators /etc/docker /etc/default/docker /etc/containerd
		fi
	fi
	mount --bind "$1/var" "$root/var"
	mount --bind "$1/local" "$root/usr/local"
	for dir in opt root tmp; do mount -t tmpfs "$dir" "$root/$dir"; done
	mount -t tmpfs -o mode=755 run "$root/run"
	mount -t tmpfs -o mode=755 dev "$1/dev"
	(cd /dev && cp -a null zero full random urandom tty "$1/dev")
	mkdir "$1/dev/pts" "$1/dev/shm"
	ln -s pts/ptmx "$1/dev/ptmx"
	mount --move "$1/dev" "$root/dev"
	mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
	mount -t sysfs -o ro sysfs "$root/sys"
	mount -t cgroup2 cgroup "$root/sys/fs/cgroup"
	mount -t bpf bpf "$root/sys/fs/bpf"
	mount -t proc proc "$root/proc"
	for path in "$root/proc/sysrq-trigger" "$root"/proc/sys/*; do
		[ "$path" = "$root/proc/sys/net" ] || ! [ -e "$path" ] || mount --bind -o ro "$path" "$path"
	done
	ip link set lo up
	until [ -e "$root/sys/class/net/eth0" ]; do sleep 0.02; done
	if [ "$root" ]; then
		cd "$root"
		pivot_root . .
		umount -l .
	fi
	exec env -i container=lab PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /usr/lib/systemd/systemd --system`

// newMachine boots a machine where Fairlead is installed and Docker is not enabled.
func newMachine(t *testing.T) *machine {
	t.Helper()
	m := newBareMachine(t, "")
	m.install()
	return m
}

// newBareMachine boots a machine where Docker is not enabled, and Fairlead is not installed. Its programs are those of
// this machine, or those in the given root, where Docker is not installed either.
func newBareMachine(t *testing.T, root string) *machine {
	t.Helper()
	m := &machine{Lab: lab.New(t, lab.Config{NoDaemon: true}), root: root}
	m.Must(m.Host, "mount", "-t", "tmpfs", "disk", disk)
	var err error
	if m.cgroup, err = topology.NewCgroup(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	m.boot()
	return m
}

// boot switches the machine on, plugs its cable in, and waits until it is up.
func (m *machine) boot() {
	m.Helper()
	m.watch = busy.Start()
	m.Cleanup(m.watch.Stop)
	cmd := world.Command(context.Background(), "unshare",
		"--net", "--pid", "--mount", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child", "sh", "-ec", switchOn, "sh", disk, m.root)
	cmd.SysProcAttr = m.cgroup.Attr()
	var err error
	if m.power, err = m.Host.SpawnCommand(cmd); err != nil {
		m.Fatal(err)
	}
	m.whileOn(func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", m.power.Pid()))
		if m.pid = strings.TrimSpace(string(children)); err == nil && m.pid == "" {
			err = errors.New("the machine has no process")
		}
		return err
	})
	if m.host, err = m.Host.Enter("machine", filepath.Join("/proc", m.pid, "ns/net")); err != nil {
		m.Fatal(err)
	}
	m.Run(m.Outside, "ip", "link", "delete", "eth0") // of the last boot; its peer is removed with the namespace
	err = world.Cable(
		world.End{Host: m.host, Device: "eth0", Addresses: []string{lab.Host4 + "/24", lab.Host6 + "/64"}},
		world.End{Host: m.Outside, Device: "eth0", Addresses: []string{lab.Outside4 + "/24", lab.Outside6 + "/64"}},
	)
	if err != nil {
		m.Fatal(err)
	}
	m.IP(m.host, "route add default via "+lab.Outside4, "route add ::/0 via "+lab.Outside6)
	m.whileOn(func() error {
		if r := m.inside("systemctl", "is-system-running"); r.Stdout != "running\n" && r.Stdout != "degraded\n" {
			return fmt.Errorf("the machine is %s", r.Output())
		}
		return nil
	})
}

// whileOn repeats try until it succeeds, unless the machine switches itself off first.
func (m *machine) whileOn(try func() error) {
	m.Helper()
	m.Eventually(patience, func() error {
		select {
		case <-m.power.Done():
			m.Fatalf("the machine did not boot:\n%s", m.power.Output())
		default:
		}
		return try()
	})
}

// reboot makes systemd stop everything and switch the machine off, and boots it.
func (m *machine) reboot() {
	m.Helper()
	m.must("systemctl", "reboot")
	select {
	case <-m.power.Done():
	case <-time.After(patience):
		m.Fatal("the machine does not switch itself off")
	}
	m.host.Close()
	m.host = nil
	m.boot()
}

// close switches the machine off like a power cut.
func (m *machine) close() {
	if m.Failed() && m.host != nil {
		m.Logf("its journal:\n%s%s", m.inside("systemctl", "--failed").Stdout, m.inside("journalctl", "--no-pager", "--lines", "60").Output())
	}
	if m.power != nil {
		m.power.Kill()
	}
	if m.host != nil {
		m.host.Close()
	}
	if err := m.cgroup.Close(); err != nil {
		m.Error(err)
	}
}

// staged returns where `make install` has installed everything, as for a package.
var staged = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "stage")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("make", "-C", "../..", "install", "DESTDIR="+dir)
	cmd.Env = append(os.Environ(), "MAKEFLAGS=") // drops the flags of the make that runs the tests
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make install: %w\n%s", err, out)
	}
	return dir, nil
})

// install installs Fairlead on the machine.
func (m *machine) install() {
	m.Helper()
	dir, err := staged()
	if err != nil {
		m.Fatal(err)
	}
	m.Must(m.Host, "cp", "-a", "--no-preserve=ownership", filepath.Join(dir, "usr"), filepath.Join(dir, "opt"), m.path("/"))
}

// path returns the path of a file of the machine, as the test sees it.
func (m *machine) path(name string) string { return filepath.Join("/proc", m.pid, "root", name) }

// inside runs a program on the machine.
func (m *machine) inside(args ...string) world.Result {
	m.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := world.Command(ctx, "nsenter", slices.Concat([]string{
		"--target", m.pid, "--all", "--", "env", "-i", "HOME=/root",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}, args)...)
	cmd.SysProcAttr = m.cgroup.Attr()
	r, err := m.Host.RunCommand(cmd)
	if err != nil {
		m.Fatal(err)
	}
	return r
}

// must runs a program that must succeed and returns what it wrote to stdout, without the
// last newline.
func (m *machine) must(args ...string) string {
	m.Helper()
	r := m.inside(args...)
	if r.Code != 0 {
		m.Fatalf("%s: status %d\n%s", strings.Join(args, " "), r.Code, r.Output())
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// property returns a property of a unit.
func (m *machine) property(unit, name string) string {
	m.Helper()
	return m.must("systemctl", "show", "--property", name, "--value", unit)
}

// moment returns when something happened to a unit, by the monotonic clock.
func (m *machine) moment(unit, name string) time.Duration {
	m.Helper()
	text := m.property(unit, name+"TimestampMonotonic")
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n == 0 {
		m.Fatalf("%s of %s is %q", name, unit, text)
	}
	return time.Duration(n) * time.Microsecond
}
