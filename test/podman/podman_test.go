// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// Containers of podman's are published, reach each other, start again, and leave
// nothing.
func TestPodman(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.installPlugin()
	e.importImage()
	e.podman("network", "create", "-d", "fairlead", "--subnet", "10.77.0.0/16", "--ipv6", "-o", "mtu=1400", "pods")
	for _, part := range []struct {
		name string
		try  func(*engine)
	}{
		{"published", published}, {"pod", pod}, {"together", together}, {"connected", connected}, {"refused", refused}, {"created", created}, {"gated", gated},
		{"IPv6 alone", ipv6Alone}, {"IPv6 switched off", switchedOff},
	} {
		t.Run(part.name, func(t *testing.T) {
			c := *e
			c.Lab = e.With(t)
			part.try(&c)
			c.podman("rm", "--all", "--force", "--time", "0")
			c.want(0)
			e.Daemon = c.Daemon // which a part may have started again
		})
	}
}

// published: ports outside and on the host, of every kind of podman's, over restarts
// of the container and of the daemon.
func published(e *engine) {
	e.httpd("web", "--network", "pods", "-p", "8080:80", "-p", "127.0.0.1:8081:80", "-p", "9000-9002:79-81", "-p", "[::1]:8082:80")
	served := func() {
		e.Helper()
		for _, url := range []string{lab.Host4 + ":8080", "[" + lab.Host6 + "]:8080", lab.Host4 + ":9001"} {
			e.served(e.Outside, "http://"+url+"/")
		}
		for _, url := range []string{"127.0.0.1:8080", "127.0.0.1:8081", "[::1]:8082", "127.0.0.1:9001"} {
			e.served(e.Host, "http://"+url+"/")
		}
	}
	served()
	if r := e.Run(e.Outside, "curl", "-sS", "--noproxy", "*", "--max-time", "1", "http://"+lab.Host4+":8081/"); r.Code == 0 {
		e.Errorf("the port of 127.0.0.1 is served outside: %s", r.Output())
	}
	e.want(1, "web/pods")
	id := e.podman("inspect", "--format", "{{.Id}}", "web")
	if got := e.Inspect("web").Config.Labels; got["fairlead.netavark.container"] != id || got["io.kubernetes.pod.name"] != "web" {
		e.Errorf("labels %v, want podman's ID and name", got)
	}
	if got := e.podman("exec", "web", "cat", "/sys/class/net/eth0/mtu"); got != "1400" {
		e.Errorf("MTU %s, want 1400", got)
	}
	e.podman("restart", "--time", "0", "web")
	served()
	e.podman("stop", "--time", "0", "web")
	e.want(0)
	e.KillDaemon()
	e.Timed("start without a daemon", 10*time.Second, func() {
		e.refused("no daemon listens at /run/fairlead/api.sock", "start", "web")
	})
	e.StartDaemon()
	e.podman("start", "web")
	served()
	e.podman("rename", "web", "shop") // its removal is by the ID
	e.podman("rm", "--force", "--time", "0", "shop")
	e.want(0)
}

// pod: its containers share the sandbox, which has the pod's name.
func pod(e *engine) {
	e.podman("pod", "create", "--name", "shop", "--infra-image", image, "--infra-command", "/bin/sleep 1000", "--network", "pods", "-p", "8080:80")
	e.httpd("web", "--pod", "shop")
	e.served(e.Outside, "http://"+lab.Host4+":8080/")
	e.want(1, "shop/pods")
	e.podman("pod", "rm", "--force", "--time", "0", "shop")
	e.want(0)
}

// address is what podman shows of a container in a network.
type address struct {
	IPAddress, MacAddress, Gateway, GlobalIPv6Address string
}

func (e *engine) address(container, network string) address {
	e.Helper()
	var state []struct {
		NetworkSettings struct{ Networks map[string]address }
	}
	if err := json.Unmarshal([]byte(e.podman("inspect", container)), &state); err != nil {
		e.Fatal(err)
	}
	return state[0].NetworkSettings.Networks[network]
}

// ping sends one from a container.
func (e *engine) ping(container, ip string) world.Result {
	e.Helper()
	return e.try("exec", container, "ping", "-c", "1", "-W", "2", ip)
}

// together: addresses as asked for, of both families, and no way into another network.
func together(e *engine) {
	e.httpd("anna", "--network", "pods:ip=10.77.3.4,mac=02:00:00:00:03:04,interface_name=net7")
	e.httpd("ben", "--network", "pods", "--network-alias", "benjamin")
	anna, ben := e.address("anna", "pods"), e.address("ben", "pods")
	if anna.IPAddress != "10.77.3.4" || anna.MacAddress != "02:00:00:00:03:04" || anna.Gateway != "10.77.0.1" || anna.GlobalIPv6Address == "" {
		e.Errorf("podman shows %+v", anna)
	}
	if got := e.podman("exec", "anna", "ip", "addr", "show", "net7"); !strings.Contains(got, "10.77.3.4/16") || !strings.Contains(got, "02:00:00:00:03:04") {
		e.Errorf("inside:\n%s", got)
	}
	if aliases := e.Inspect("ben").NetworkSettings.Networks["pods"].Aliases; !slices.Contains(aliases, "benjamin") {
		e.Errorf("aliases %v, want benjamin", aliases)
	}
	for _, from := range []string{"anna", "ben"} {
		for _, name := range []string{"ben", "benjamin", "anna.pods"} {
			if got := e.try("exec", from, "wget", "-qO-", "http://"+name+"/"); got.Stdout != "served\n" {
				e.Errorf("http://%s/ from %s: %s", name, from, got.Output())
			}
		}
	}
	if got := e.podman("exec", "anna", "cat", "/etc/resolv.conf"); !strings.Contains(got, "nameserver 10.77.0.1\n") {
		e.Errorf("resolv.conf:\n%s", got)
	}
	e.podman("network", "create", "-d", "fairlead", "--internal", "--disable-dns", "back")
	e.httpd("carl", "--network", "back")
	for _, way := range []struct {
		from, to string
		open     bool
	}{
		{"ben", anna.IPAddress, true}, {"anna", ben.GlobalIPv6Address, true}, {"anna", lab.Internet4, true},
		{"anna", e.address("carl", "back").IPAddress, false}, {"carl", lab.Internet4, false},
	} {
		if r := e.ping(way.from, way.to); (r.Code == 0) != way.open {
			e.Errorf("ping %s from %s: want open: %t\n%s", way.to, way.from, way.open, r.Output())
		}
	}
	e.podman("rm", "--force", "--time", "0", "carl")
	e.podman("network", "rm", "back")
}

// connected: several networks, while the container runs.
func connected(e *engine) {
	e.podman("network", "create", "-d", "fairlead", "front")
	e.podman("network", "create", "-d", "fairlead", "back")
	e.httpd("web", "--network", "front", "--network", "pods", "-p", "8080:80")
	e.want(2, "web/front,pods")
	e.served(e.Outside, "http://"+lab.Host4+":8080/")
	e.httpd("db", "--network", "back")
	db := e.address("db", "back").IPAddress
	if r := e.ping("web", db); r.Code == 0 {
		e.Errorf("web reaches a network it is not in:\n%s", r.Output())
	}
	e.podman("network", "connect", "back", "web")
	e.want(4, "db/back", "web/back,front,pods")
	if r := e.ping("web", db); r.Code != 0 {
		e.Errorf("web does not reach the network it joined:\n%s", r.Output())
	}
	e.podman("network", "disconnect", "front", "web")
	e.want(3, "db/back", "web/back,pods")
	e.served(e.Outside, "http://"+lab.Host4+":8080/") // through another now
	e.podman("network", "disconnect", "pods", "web")
	e.podman("network", "disconnect", "back", "web")
	e.want(1, "db/back")
	e.podman("network", "connect", "pods", "web")
	e.served(e.Outside, "http://"+lab.Host4+":8080/")
	e.podman("network", "rm", "--force", "--time", "0", "front", "back")
}

// gated: a network whose members reach the outside only through a container.
func gated(e *engine) {
	e.podman("network", "create", "-d", "fairlead", "-o", "fairlead.gateway=vpn", "gated")
	e.httpd("member", "--network", "gated", "-p", "8085:80")
	closed := func() {
		e.Helper()
		e.Dropped("no_gateway", 1, func() {
			if r := e.ping("member", lab.Outside4); r.Code == 0 {
				e.Errorf("without its gateway the member reaches the outside:\n%s", r.Output())
			}
		})
		e.served(e.Outside, "http://"+lab.Host4+":8085/")
	}
	closed()
	e.podman("run", "-d", "--name", "vpn", "--network", "pods", "--sysctl", "net.ipv4.ip_forward=1", image, "sleep", "1000")
	e.podman("network", "connect", "gated", "vpn")
	e.Must(e.Entered("vpn").Host, "nft", `table ip vpn { chain out { type nat hook postrouting priority srcnat; oifname "eth0" masquerade; }; }`)
	e.Eventually(patience, func() error {
		if r := e.ping("member", lab.Outside4); r.Code != 0 {
			return fmt.Errorf("through its gateway the member does not reach the outside:\n%s", r.Output())
		}
		return nil
	})
	e.served(e.Outside, "http://"+lab.Host4+":8085/")
	e.podman("stop", "--time", "0", "vpn")
	closed()
	e.podman("rm", "--force", "--time", "0", "vpn", "member")
	e.podman("network", "rm", "gated")
}

// refused: what fails leaves nothing.
func refused(e *engine) {
	e.httpd("first", "--network", "pods:ip=10.77.0.9", "-p", "8080:80")
	run := func(text string, flags ...string) {
		e.Helper()
		e.refused(text, slices.Concat([]string{"run", "--rm"}, flags, []string{image, "sleep", "1"})...)
	}
	run("port is already allocated (by sandbox \"first\"", "--network", "pods", "-p", "8080:80")
	run("sctp", "--network", "pods", "-p", "8081:80/sctp")
	run("not supported", "--network", "pods:vrf=red")
	e.want(1, "first/pods")

	// podman keeps the ports itself if it is not told to leave that to Fairlead.
	e.write("etc/reserving.conf", "[engine]\nenable_port_reservation = true\n")
	r := e.inside("env", "CONTAINERS_CONF_OVERRIDE=/etc/reserving.conf", "podman", "run", "--rm", "--network", "pods", "-p", "8082:80", image, "sleep", "1")
	if r.Code == 0 || !strings.Contains(r.Stderr, "enable_port_reservation = false") {
		e.Errorf("with podman's reservation: status %d, want a message that says how to end it\n%s", r.Code, r.Output())
	}
	e.want(1, "first/pods")

	// One of Fairlead's has the name, and an address that podman knows nothing of.
	e.Fairlead("sandbox", "create", "--network", "pods", "--ip", "10.77.0.77", "web")
	run("10.77.0.77", "--network", "pods:ip=10.77.0.77")
	e.httpd("web", "--network", "pods")
	id := e.podman("inspect", "--format", "{{.Id}}", "web")[:12]
	e.want(3, "first/pods", "web-"+id+"/pods", "web/pods")
	e.podman("rm", "--force", "--time", "0", "web")
	e.want(2, "first/pods", "web/pods")
	e.Fairlead("rm", "web")
}

// created: networks are checked when they are made.
func created(e *engine) {
	create := []string{"network", "create", "-d", "fairlead"}
	for text, flags := range map[string][]string{
		`unknown option nonsense`: {"-o", "nonsense=1"},
		"mtu":                     {"-o", "mtu=big"},
		"isolate=false":           {"-o", "isolate=false"},
		"Pool overlaps":           {"--subnet", "10.77.0.0/24"},
		"routes":                  {"--subnet", "10.78.0.0/24", "--route", "10.9.0.0/16,10.78.0.7"},
		"interface name":          {"--interface-name", "br7"},
		"IPAM driver":             {"--ipam-driver", "none"},
	} {
		e.refused(text, slices.Concat(create, flags, []string{"odd"})...)
	}
	e.podman(slices.Concat(create, []string{"-o", "isolate=true", "-o", "com.docker.network.bridge.enable_icc=false", "--subnet", "10.79.0.0/24", "alone"})...)
	if n := e.Network("alone"); n.IPAM.Config[0].Subnet != "10.79.0.0/24" || n.Options["com.docker.network.bridge.enable_icc"] != "false" {
		e.Errorf("network %+v", n)
	}
	e.podman("network", "rm", "alone")
	e.podman(slices.Concat(create, []string{"--subnet", "10.80.0.0/24", "alone"})...) // again
	if n := e.Network("alone"); n.IPAM.Config[0].Subnet != "10.80.0.0/24" {
		e.Errorf("network %+v", n)
	}
	e.Fairlead("network", "rm", "alone")
	e.httpd("one", "--network", "alone") // podman's configuration makes it again
	e.want(1, "one/alone")
	e.podman("network", "rm", "--force", "--time", "0", "alone")
}

// ipv6Alone: a network whose subnets are of IPv6 has no IPv4, unless --ipv6 asks for both.
func ipv6Alone(e *engine) {
	e.podman("network", "create", "-d", "fairlead", "--subnet", "fd88::/64", "six")
	e.podman("network", "create", "-d", "fairlead", "--ipv6", "--subnet", "fd89::/64", "both")
	e.httpd("web", "--network", "six", "-p", "8080:80")
	e.httpd("two", "--network", "both")
	if a := e.address("web", "six"); a.IPAddress != "" || !strings.HasPrefix(a.GlobalIPv6Address, "fd88::") {
		e.Errorf("podman shows %+v", a)
	}
	if a := e.address("two", "both"); a.IPAddress == "" || !strings.HasPrefix(a.GlobalIPv6Address, "fd89::") {
		e.Errorf("podman shows %+v", a)
	}
	if got := e.podman("exec", "web", "ip", "-4", "addr", "show", "dev", "eth0"); got != "" {
		e.Errorf("inside:\n%s", got)
	}
	e.served(e.Outside, "http://["+lab.Host6+"]:8080/")
	e.served(e.Outside, "http://"+lab.Host4+":8080/")
	if r := e.ping("web", lab.Internet6); r.Code != 0 {
		e.Errorf("ping by IPv6: %s", r.Output())
	}
	e.podman("network", "rm", "--force", "--time", "0", "six", "both")
}

// switchedOff checks that the daemon leaves a container's own settings unchanged.
func switchedOff(e *engine) {
	e.httpd("web", "--network", "pods", "--sysctl", "net.ipv6.conf.all.disable_ipv6=1")
	time.Sleep(5 * time.Second)
	if got := e.podman("exec", "web", "ip", "-6", "addr", "show", "dev", "eth0"); got != "" {
		e.Errorf("inside:\n%s", got)
	}
	for kind, n := range e.Metrics().Repairs() {
		if n > 0 {
			e.Errorf("%v repairs of kind %s, want none", n, kind)
		}
	}
	if r := e.ping("web", lab.Internet4); r.Code != 0 {
		e.Errorf("ping by IPv4: %s", r.Output())
	}
}
