// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// Addresses of two machines with a cable between them.
const (
	firstAddress, secondAddress = "10.99.0.1", "10.99.0.2"

	// copied is where a machine has what vagrant/provision.sh needs of the repository.
	copied = "/var/fairlead"
)

// provision runs vagrant/provision.sh.
func (m *machine) provision(name, address, store string) world.Result {
	m.Helper()
	return m.inside(copied+"/vagrant/provision.sh", "--name", name, "--advertise", address, "--store", store, "--token", "/var/token")
}

// newDebian boots a machine that has a release of Debian, as debootstrap installs it.
func newDebian(t *testing.T, suite string) *machine {
	t.Helper()
	cmd := exec.Command("./root.sh", suite)
	cmd.Stderr = os.Stderr
	root, err := cmd.Output()
	if err != nil {
		t.Fatalf("root.sh %s: %v", suite, err)
	}
	m := newBareMachine(t, strings.TrimSpace(string(root)))
	for _, program := range []string{"dockerd", "docker", "make", "go"} {
		if r := m.inside("sh", "-c", "command -v "+program); r.Code == 0 {
			t.Errorf("Debian %s has %s before provision.sh installs it", suite, program)
		}
	}
	return m
}

// TestProvision makes two machines the nodes of a cluster as vagrant/README.md says, and containers of their
// engines reach each other. Nothing is restarted when it runs again without a change.
func TestProvision(t *testing.T) {
	t.Parallel()
	first, second := newDebian(t, "bookworm"), newDebian(t, "trixie")
	if err := world.Cable(
		world.End{Host: first.host, Device: "eth1", Addresses: []string{firstAddress + "/24"}},
		world.End{Host: second.host, Device: "eth1", Addresses: []string{secondAddress + "/24"}},
	); err != nil {
		t.Fatal(err)
	}
	if _, err := staged(); err != nil { // which builds
		t.Fatal(err)
	}
	for _, m := range []*machine{first, second} {
		m.must("mkdir", copied)
		m.Must(m.Host, "sh", "-c", "cp -a --no-preserve=ownership ../../Makefile ../../bin ../../deploy ../../vagrant "+m.path(copied))
		for text, args := range map[string][]string{
			"usage: vagrant/provision.sh": {"--name", "x"},
			"make one with":               {"--name", "x", "--advertise", firstAddress, "--store", "embed", "--token", "/absent"},
		} {
			if r := m.inside(append([]string{copied + "/vagrant/provision.sh"}, args...)...); r.Code == 0 || !strings.Contains(r.Stderr, text) {
				t.Errorf("provision.sh %q: status %d, %s", args, r.Code, r.Output())
			}
		}
	}
	token := first.must(copied+"/bin/fairlead", "cluster", "token", "--new")
	for _, m := range []*machine{first, second} {
		m.must("sh", "-c", "umask 077; echo "+token+" >/var/token")
	}
	store := "etcd://" + firstAddress + ":2379"
	run := func(m *machine, name, address, store string) {
		t.Helper()
		if r := m.provision(name, address, store); r.Code != 0 {
			t.Fatalf("provision.sh on %s: status %d\n%s", name, r.Code, r.Output())
		}
	}
	run(first, "first", firstAddress, "embed")
	run(second, "second", secondAddress, store)
	nodes := func(want string) {
		t.Helper()
		second.Eventually(patience, func() error {
			if r := second.inside("fairlead", "node", "ls", "--format", "{{.Name}} {{.Status}}"); strings.TrimSpace(r.Output()) != want {
				return fmt.Errorf("nodes: %q", r.Output())
			}
			return nil
		})
	}
	nodes("first up\nsecond up")
	first.must("fairlead", "network", "create", "-d", "overlay", "shop")
	for _, m := range []*machine{first, second} {
		m.Eventually(10*time.Second, func() error {
			if r := m.inside("fairlead", "network", "inspect", "shop"); r.Code != 0 {
				return fmt.Errorf("%s", r.Stderr)
			}
			return nil
		})
		m.docker("network", "create", "-d", "fairlead", "--ipam-driver", "fairlead", "--ipam-opt", "fairlead.network=shop", "shop")
		m.WriteImage(m.path("/var/rootfs.tar"))
		m.docker("import", "--change", lab.ImageCommand, "/var/rootfs.tar", image)
	}
	first.docker("run", "-d", "--network", "shop", "--name", "anna", image)
	anna := first.docker("inspect", "--format", "{{.NetworkSettings.Networks.shop.IPAddress}}", "anna")
	reached := func() {
		t.Helper()
		second.must("fairlead", "run", "--rm", "--network", "shop", "ping", "-c", "3", "-i", "0.2", "-W", "2", anna)
	}
	reached()
	before := second.property("fairlead.service", "MainPID")
	run(second, "second", secondAddress, store)
	if after := second.property("fairlead.service", "MainPID"); after != before {
		t.Errorf("provision.sh restarted the daemon without a change: it was %s, is %s", before, after)
	}
	run(second, "renamed", secondAddress, store)
	nodes("first up\nrenamed up")
	reached()
}

// TestVagrantfile checks the file with the program that reads it.
func TestVagrantfile(t *testing.T) {
	cmd := exec.Command("vagrant", "validate", "--ignore-provider")
	cmd.Dir = "../../vagrant"
	cmd.Env = append(cmd.Environ(), "VAGRANT_HOME="+t.TempDir(), "VAGRANT_CHECKPOINT_DISABLE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("vagrant validate: %v\n%s", err, out)
	}
}
