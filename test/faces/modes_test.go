// SPDX-License-Identifier: Apache-2.0

package faces

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// modeColumns are the faces whose network modes and names are compared, the reference first.
var modeColumns = []column{
	{"docker", engine20.bridge},
	{"docker 29", engine29.bridge},
	{"fairlead", startCLI},
}

// modes is a face with containers in every network mode.
type modes struct {
	*stage
	do      func(args ...string) (string, error)
	program []string // what runs in containers
	serial  atomic.Int32
}

// mode is a behaviour of a mode or of names.
type mode struct {
	name    string
	observe func(m *modes) string
}

// modeList are all, in the order of the page. The lists are observed side by side, each in order.
func modeLists() [][]mode {
	return [][]mode{macvlanModes, hostModes, noneModes, joinedModes, nameModes, defaultModes, verbModes}
}

func modeBehaviours() (all []behaviour) {
	for _, list := range modeLists() {
		for _, m := range list {
			all = append(all, behaviour{name: m.name})
		}
	}
	return all
}

// The network modes and the names of the command line are Docker's, save for what is explained.
func TestModes(t *testing.T) {
	build(t)
	table := newTable(modeBehaviours(), modeColumns, explainedModes)
	t.Run("faces", func(t *testing.T) {
		for _, c := range modeColumns {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				m := newModes(c.start(t))
				var wg sync.WaitGroup
				for _, list := range modeLists() {
					wg.Go(func() {
						for _, one := range list {
							table.put(one.name, c.name, m.try(behaviour{one.name, func(*stage) string { return one.observe(m) }}))
						}
					})
				}
				wg.Wait()
			})
		}
	})
	table.print(t)
	table.judge(t)
	if !t.Failed() {
		table.document(t, modesHead)
	}
}

// The addresses of members of the macvlan network, which are those of the link outside.
const (
	mia, max0  = "192.0.2.70", "192.0.2.71"
	spare, pia = "192.0.2.72", "192.0.2.73"
)

func newModes(l *lab.Lab, f face) *modes {
	m := &modes{stage: &stage{Lab: l, face: f, entered: map[string]*world.Host{}}}
	switch f := f.(type) {
	case *docker:
		m.do, m.program = f.do, []string{"peer", "/peer"}
	case cli:
		m.do, m.program = f.do, []string{peer}
	}
	for _, args := range []string{
		"-d macvlan -o parent=eth0 --subnet 192.0.2.0/24 --ip-range 192.0.2.128/26 --gateway " + lab.Outside4 + " lan",
		"--subnet 10.77.0.0/24 web",
		"--subnet 10.78.0.0/24 other",
	} {
		must[string](l)(m.do(append([]string{"network", "create"}, strings.Fields(args)...)...))
	}
	for name, flags := range map[string]string{
		"mia":  "--network lan --ip " + mia,
		"max":  "--network lan --ip " + max0 + " --mac-address 02:00:00:00:00:71 -p 18171:80",
		"nora": "--network none -p 18172:80",
		"ben":  "--network web --hostname box --network-alias benjamin --network-alias shared -p 18101:8101",
		"anna": "--network web --link ben:store --add-host db:192.0.2.99 --network-alias shared --dns-search corp.example",
		"gail": "--network web --add-host host:host-gateway --dns " + lab.Outside4,
		"dora": "",
	} {
		if err := m.starts(name, flags, "80"); err != nil {
			l.Fatal(err)
		}
	}
	if err := m.starts("emil", "--link dora:d", "80"); err != nil { // dora exists by then
		l.Fatal(err)
	}
	for _, args := range []string{"--name jon --network container:ben", "--name hugo --network host -p 18173:8100"} {
		name, port := strings.Fields(args)[1], map[bool]string{true: "8101", false: "8100"}[strings.Contains(args, "ben")]
		l.Cleanup(func() { _, _ = m.do("rm", "-f", name) }) // no namespace of its own ends it
		if _, err := m.do(m.command(args, name, port)...); err != nil {
			l.Fatal(err)
		}
		at := map[string]*world.Host{"8101": m.in("ben"), "8100": l.Host}[port]
		l.Eventually(patience, func() error { _, err := ask(at, "tcp", "127.0.0.1:"+port); return err })
	}
	return m
}

// command is that of a container with these flags.
func (m *modes) command(flags, name, port string) []string {
	args := append([]string{"run", "-d"}, strings.Fields(flags)...)
	return append(append(args, m.program...), "serve", name, port)
}

// starts starts a container, and enters it once it serves.
func (m *modes) starts(name, flags, port string) error {
	if _, err := m.do(m.command("--name "+name+" "+flags, name, port)...); err != nil {
		return err
	}
	return m.serves(name)
}

// tries says whether a container with these flags is accepted, and removes it.
func (m *modes) tries(flags string) string {
	name := fmt.Sprint("try", m.serial.Add(1))
	_, err := m.do(m.command("--name "+name+" "+flags, name, "8200")...)
	_, _ = m.do("rm", "-f", name) // what could not be started may have been made
	return accepted(err)
}

// takes says whether another container can have a name.
func (m *modes) takes(name string) string {
	_, err := m.do(append(append([]string{"run", "-d", "--name", name}, m.program...), "serve", name, "80")...)
	return accepted(err)
}

// verb says whether a command is accepted.
func (m *modes) verb(args string) string {
	_, err := m.do(strings.Fields(args)...)
	return accepted(err)
}

func accepted(err error) string {
	if err != nil {
		return "refused"
	}
	return "accepted"
}

// answers says which server answers, if any does.
func answers(from *world.Host, address string, port int) string {
	got, err := ask(from, "tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	switch {
	case err == nil:
		name, _, _ := strings.Cut(got, " ")
		return name
	case word(err) == "unreachable":
		return "no"
	}
	return word(err)
}

// finds says whether programs in a container find a name, with that address.
func (m *modes) finds(container, name, address string) string {
	return m.named(container, name, address)
}

// digs asks the name server of a container, and returns what it answers in short.
func (m *modes) digs(container string, args ...string) string {
	out, err := on(m.in(container), "dig", append([]string{"+tries=1", "+time=4", "@127.0.0.11"}, args...)...)
	if err != nil {
		return "no"
	}
	status, records := "", []string{}
	for line := range strings.Lines(out) {
		if _, rest, ok := strings.Cut(line, "status: "); ok {
			status, _, _ = strings.Cut(rest, ",")
		}
		if f := strings.Fields(line); len(f) >= 5 && !strings.HasPrefix(f[0], ";") {
			records = append(records, f[1]+" "+f[4])
		}
	}
	return strings.TrimSpace(status + " " + strings.Join(records, " "))
}

// holders counts the addresses of a name.
func (m *modes) holders(container, name string) string {
	return strconv.Itoa(strings.Count(m.digs(container, name), " 10.77."))
}

var macvlanModes = []mode{
	{"macvlan: member to member: the server sees", func(m *modes) string { return m.seen(m.in("mia"), "tcp", max0, 80) }},
	{"macvlan: member to outside: the server sees", func(m *modes) string { return m.seen(m.in("mia"), "tcp", lab.Outside4, outsidePort) }},
	{"macvlan: member to the internet, by the gateway of the network", func(m *modes) string { return m.seen(m.in("mia"), "tcp", lab.Internet4, outsidePort) }},
	{"macvlan: outside to member", func(m *modes) string { return answers(m.Outside, mia, 80) }},
	{"macvlan: host to member", func(m *modes) string { return answers(m.Host, mia, 80) }},
	{"macvlan: member to host", func(m *modes) string { return answers(m.in("mia"), lab.Host4, 8100) }},
	{"macvlan: a fixed MAC", func(m *modes) string {
		d, err := m.device("max", "eth0")
		if err != nil {
			return failed(err)
		}
		return map[bool]string{true: "yes", false: "no"}[d.HardwareAddr.String() == "02:00:00:00:00:71"]
	}},
	{"macvlan: -p: from outside at the host's address", func(m *modes) string { return answers(m.Outside, lab.Host4, 18171) }},
	{"macvlan: the name of a member", func(m *modes) string { return m.finds("mia", "max", max0) }},
	{"macvlan: a public name", func(m *modes) string { return m.finds("mia", "example.com", lab.Internet4) }},
	{"macvlan: an address that a member has", func(m *modes) string { return m.tries("--network lan --ip " + mia) }},
	{"macvlan: an address outside of the subnet", func(m *modes) string { return m.tries("--network lan --ip 10.1.2.3") }},
	{"macvlan: a second network on the parent", func(m *modes) string {
		defer func() { _, _ = m.do("network", "rm", "lan2") }()
		return m.verb("network create -d macvlan -o parent=eth0 --subnet 10.91.0.0/24 lan2")
	}},
	{"macvlan: lo as the parent", func(m *modes) string {
		return m.verb("network create -d macvlan -o parent=lo --subnet 10.92.0.0/24 lan3")
	}},
	{"macvlan: an unknown mode", func(m *modes) string {
		return m.verb("network create -d macvlan -o parent=eth0 -o macvlan_mode=any --subnet 10.93.0.0/24 lan4")
	}},
	{"macvlan: a bridge's container joins: outside reaches it", func(m *modes) string {
		if err := m.starts("pia", "--network other", "80"); err != nil {
			return failed(err)
		}
		if got := m.verb("network connect --ip " + pia + " lan pia"); got != "accepted" {
			return got
		}
		return answers(m.Outside, pia, 80)
	}},
	{"macvlan: and leaves", func(m *modes) string {
		if got := m.verb("network disconnect lan pia"); got != "accepted" {
			return got
		}
		return answers(m.Outside, pia, 80)
	}},
	{"macvlan: removal while it is in use", func(m *modes) string { return m.verb("network rm lan") }},
}

var hostModes = []mode{
	{"host: outside to its server", func(m *modes) string { return m.seen(m.Outside, "tcp", lab.Host4, 8100) }},
	{"host: a bridge's container to its server, at the gateway", func(m *modes) string { return answers(m.in("ben"), "10.77.0.1", 8100) }},
	{"host: -p: the port", func(m *modes) string { return answers(m.Outside, lab.Host4, 18173) }},
	{"host: it finds the name of a container", func(m *modes) string { return m.finds2("hugo", "ben") }},
	{"host: network connect", func(m *modes) string { return m.verb("network connect web hugo") }},
	{"host: network disconnect", func(m *modes) string { return m.verb("network disconnect host hugo") }},
	{"host: --hostname", func(m *modes) string { return m.tries("--network host --hostname h1") }},
	{"host: --ip", func(m *modes) string { return m.tries("--network host --ip 10.77.0.9") }},
	{"host: --network-alias", func(m *modes) string { return m.tries("--network host --network-alias a") }},
	{"host: --mac-address", func(m *modes) string { return m.tries("--network host --mac-address 02:00:00:00:00:72") }},
	{"host: --sysctl net.ipv4.ip_forward=1", func(m *modes) string { return m.tries("--network host --sysctl net.ipv4.ip_forward=1") }},
	{"host: and another network", func(m *modes) string { return m.tries("--network host --network web") }},
	{"host: --dns", func(m *modes) string { return m.tries("--network host --dns 192.0.2.53") }},
}

var noneModes = []mode{
	{"none: its own loopback", func(m *modes) string { return answers(m.in("nora"), "127.0.0.1", 80) }},
	{"none: to outside", func(m *modes) string { return answers(m.in("nora"), lab.Outside4, outsidePort) }},
	{"none: -p: the port", func(m *modes) string { return answers(m.Outside, lab.Host4, 18172) }},
	{"none: it finds the name of a container", func(m *modes) string { return m.finds2("nora", "ben") }},
	{"none: network connect", func(m *modes) string { return m.verb("network connect web nora") }},
	{"none: --ip", func(m *modes) string { return m.tries("--network none --ip 10.77.0.9") }},
	{"none: --network-alias", func(m *modes) string { return m.tries("--network none --network-alias a") }},
	{"none: --sysctl net.ipv4.ip_forward=1", func(m *modes) string { return m.tries("--network none --sysctl net.ipv4.ip_forward=1") }},
	{"none: and another network", func(m *modes) string { return m.tries("--network none --network web") }},
}

var joinedModes = []mode{
	{"container: its server at the other's address: a neighbour reaches", func(m *modes) string { return answers(m.in("anna"), m.ip("ben"), 8101) }},
	{"container: the other's published port of its server, from outside", func(m *modes) string { return answers(m.Outside, lab.Host4, 18101) }},
	{"container: it finds the name of a container", func(m *modes) string { return m.finds2("jon", "anna") }},
	{"container: it finds its own name", func(m *modes) string { return m.finds2("jon", "jon") }},
	{"container: network connect", func(m *modes) string { return m.verb("network connect other jon") }},
	{"container: of an unknown one", func(m *modes) string { return m.tries("--network container:nobody") }},
	{"container: -p", func(m *modes) string { return m.tries("--network container:ben -p 18102:80") }},
	{"container: -P", func(m *modes) string { return m.tries("--network container:ben -P") }},
	{"container: --expose", func(m *modes) string { return m.tries("--network container:ben --expose 80") }},
	{"container: --hostname", func(m *modes) string { return m.tries("--network container:ben --hostname h") }},
	{"container: --dns", func(m *modes) string { return m.tries("--network container:ben --dns 192.0.2.53") }},
	{"container: --add-host", func(m *modes) string { return m.tries("--network container:ben --add-host a:192.0.2.9") }},
	{"container: --mac-address", func(m *modes) string { return m.tries("--network container:ben --mac-address 02:00:00:00:00:73") }},
	{"container: --link", func(m *modes) string { return m.tries("--network container:ben --link anna") }},
	{"container: --network-alias", func(m *modes) string { return m.tries("--network container:ben --network-alias a") }},
	{"container: --ip", func(m *modes) string { return m.tries("--network container:ben --ip 10.77.0.9") }},
	{"container: and another network", func(m *modes) string { return m.tries("--network container:ben --network other") }},
	{"container: removal of the other by force", func(m *modes) string {
		if err := m.starts("owner", "--network other", "80"); err != nil {
			return failed(err)
		}
		if _, err := m.do(m.command("--name guest --network container:owner", "guest", "8102")...); err != nil {
			return failed(err)
		}
		return m.verb("rm -f owner")
	}},
}

var nameModes = []mode{
	{"names: the name", func(m *modes) string { return m.finds("anna", "ben", m.ip("ben")) }},
	{"names: in capitals", func(m *modes) string { return m.finds("anna", "BEN", m.ip("ben")) }},
	{"names: with a dot at the end", func(m *modes) string { return m.finds("anna", "ben.", m.ip("ben")) }},
	{"names: with the network", func(m *modes) string { return m.finds("anna", "ben.web", m.ip("ben")) }},
	{"names: the host name", func(m *modes) string { return m.finds("anna", "box", m.ip("ben")) }},
	{"names: the host name with the network", func(m *modes) string { return m.finds("anna", "box.web", m.ip("ben")) }},
	{"names: an alias", func(m *modes) string { return m.finds("anna", "benjamin", m.ip("ben")) }},
	{"names: an alias of two: addresses", func(m *modes) string { return m.holders("gail", "shared") }},
	{"names: one's own", func(m *modes) string { return m.finds("ben", "ben", m.ip("ben")) }},
	{"names: one's own host name", func(m *modes) string { return m.finds("ben", "box", m.ip("ben")) }},
	{"names: a link's alias", func(m *modes) string { return m.finds("anna", "store", m.ip("ben")) }},
	{"names: a link's alias, from a neighbour", func(m *modes) string { return m.finds("gail", "store", m.ip("ben")) }},
	{"names: of another network", func(m *modes) string { return m.finds2("anna", "pia") }},
	{"names: unknown", func(m *modes) string { return m.finds2("anna", "nobody") }},
	{"names: unknown, the answer", func(m *modes) string { return m.digs("anna", "nobody.example") }},
	{"names: the name for an address", func(m *modes) string {
		return strings.TrimSpace(strings.ReplaceAll(m.digs("anna", "-x", m.ip("ben")), "600 ", "5 "))
	}},
	{"names: seconds that an answer is valid", func(m *modes) string {
		f := strings.Fields(m.digs("anna", "ben"))
		if len(f) < 2 {
			return "no"
		}
		return f[1]
	}},
	{"names: the IPv6 address of one with IPv4", func(m *modes) string { return m.digs("anna", "ben", "AAAA") }},
	{"names: over TCP", func(m *modes) string {
		return map[bool]string{true: "yes", false: "no"}[strings.Contains(m.digs("anna", "+tcp", "ben"), m.ip("ben"))]
	}},
	{"names: MX", func(m *modes) string { return m.digs("anna", "ben", "MX") }},
	{"names: a public name", func(m *modes) string { return m.finds("anna", "example.com", lab.Internet4) }},
	{"names: a public name, by --dns", func(m *modes) string { return m.finds("gail", "example.com", lab.Internet4) }},
	{"names: a line of --add-host", func(m *modes) string { return m.finds("anna", "db", "192.0.2.99") }},
	{"names: host-gateway is the gateway of", func(m *modes) string {
		got, err := m.exec("gail", "lookup", "host")
		switch {
		case err != nil:
			return failed(err)
		case strings.Contains(got, "10.77.0.1"):
			return "its network"
		}
		return "bridge"
	}},
	{"names: after rename, the new one", func(m *modes) string {
		if got := m.verb("rename gail gwen"); got != "accepted" {
			return got
		}
		return m.finds("anna", "gwen", m.ip("gail"))
	}},
	{"names: after rename, the former one", func(m *modes) string { return m.finds2("anna", "gail") }},
	{"names: after network disconnect", func(m *modes) string {
		if got := m.verb("network disconnect web gwen"); got != "accepted" {
			return got
		}
		return m.finds2("anna", "gwen")
	}},
	{"names: after network connect --alias", func(m *modes) string {
		if got := m.verb("network connect --alias late --ip 10.77.0.99 web gwen"); got != "accepted" {
			return got
		}
		return m.finds("anna", "late", "10.77.0.99")
	}},
	{"names: of a container that was removed", func(m *modes) string {
		if got := m.verb("rm -f gwen"); got != "accepted" {
			return got
		}
		return m.finds2("anna", "gwen")
	}},
}

var defaultModes = []mode{
	{"default network: the name of a neighbour", func(m *modes) string { return m.finds2("dora", "emil") }},
	{"default network: a link's alias", func(m *modes) string { return m.finds("emil", "d", m.ip("dora")) }},
	{"default network: a link to one that does not exist", func(m *modes) string { return m.tries("--link nobody:n") }},
	{"default network: --network-alias", func(m *modes) string { return m.tries("--network-alias a") }},
	{"default network: that alias", func(m *modes) string {
		if err := m.starts("alix", "--network-alias aly", "80"); err != nil {
			_, _ = m.do("rm", "-f", "alix")
			return "no"
		}
		return m.finds2("dora", "aly")
	}},
	{"default network: the address of --ip", func(m *modes) string {
		want := netip.MustParseAddr(m.ip("dora")).As4()
		want[3] = 77
		err := m.starts("ida", "--ip "+netip.AddrFrom4(want).String(), "80")
		defer func() { _, _ = m.do("rm", "-f", "ida") }()
		switch {
		case err != nil:
			return "refused"
		case m.ip("ida") == netip.AddrFrom4(want).String():
			return "yes"
		}
		return "another"
	}},
	{"default network: a public name", func(m *modes) string { return m.finds("dora", "example.com", lab.Internet4) }},
	{"default network: removal", func(m *modes) string { return m.verb("network rm bridge") }},
}

var verbModes = []mode{
	{"network create: a name that exists", func(m *modes) string { return m.verb("network create web") }},
	{"network create: host", func(m *modes) string { return m.verb("network create host") }},
	{"network create -d host", func(m *modes) string { return m.verb("network create -d host h2") }},
	{"network create: a subnet that overlaps another's", func(m *modes) string { return m.verb("network create --subnet 10.77.0.128/25 n1") }},
	{"network create: a gateway outside of the subnet", func(m *modes) string { return m.verb("network create --subnet 10.94.0.0/24 --gateway 10.95.0.1 n2") }},
	{"network create: a range outside of the subnet", func(m *modes) string {
		return m.verb("network create --subnet 10.94.0.0/24 --ip-range 10.95.0.0/25 n3")
	}},
	{"network create: two subnets of one family", func(m *modes) string { return m.verb("network create --subnet 10.94.0.0/24 --subnet 10.95.0.0/24 n4") }},
	{"network create: a subnet with host bits", func(m *modes) string { return m.verb("network create --subnet 10.94.0.7/24 n5") }},
	{"network rm: unknown", func(m *modes) string { return m.verb("network rm nothing") }},
	{"network connect: unknown network", func(m *modes) string { return m.verb("network connect nothing anna") }},
	{"network connect: unknown container", func(m *modes) string { return m.verb("network connect web nobody") }},
	{"network connect: twice", func(m *modes) string { return m.verb("network connect web anna") }},
	{"network connect: an address that a member has", func(m *modes) string { return m.verb("network connect --ip " + m.ip("ben") + " web emil") }},
	{"network disconnect: not connected", func(m *modes) string { return m.verb("network disconnect other anna") }},
	{"run: a name that exists", func(m *modes) string { return m.takes("anna") }},
	{"run: a name with a blank", func(m *modes) string { return m.takes("a b") }},
	{"run: --link-local-ip", func(m *modes) string { return m.tries("--network web --link-local-ip 169.254.7.7") }},
	{"run: a network twice", func(m *modes) string { return m.tries("--network web --network web") }},
	{"run: --sysctl of the namespace", func(m *modes) string { return m.tries("--network web --sysctl net.ipv4.ip_forward=1") }},
	{"run: --sysctl that does not exist", func(m *modes) string { return m.tries("--network web --sysctl net.ipv4.bogus=1") }},
	{"run: --sysctl of the host alone", func(m *modes) string { return m.tries("--network web --sysctl kernel.panic=1") }},
	{"run: --net, as it was called", func(m *modes) string { return m.tries("--net web --net-alias a") }},
	{"rename: a name that exists", func(m *modes) string { return m.verb("rename anna ben") }},
	{"rename: unknown", func(m *modes) string { return m.verb("rename nobody somebody") }},
}

// finds2 says whether programs in a container find a name, whatever its address.
func (m *modes) finds2(container, name string) string {
	_, err := m.exec(container, "lookup", name)
	switch {
	case err == nil:
		return "yes"
	case strings.Contains(err.Error(), "peer: lookup"):
		return "no"
	}
	return failed(errors.Join(err))
}

const modesHead = `## Modes and names

The same for what Docker's command line has beside bridge networks: the modes macvlan, host, none and ` + "`container:`" + `, names, and
what is refused. ` + "`TestModes`" + ` gives the same commands to both engines and to ` + "`fairlead`" + `.

`
