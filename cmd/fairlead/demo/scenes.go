// SPDX-License-Identifier: Apache-2.0

package demo

import "time"

// scene is a statement about Fairlead and the steps that demonstrate it.
type scene struct {
	text  string
	steps []step
}

// step is a command line, run on one of the machines, and its expected outcome.
type step struct {
	on      role
	line    string
	wants   []string      // all in its output
	refused bool          // it must fail
	within  time.Duration // how long to retry, for servers that are just starting
	do      action        // what to do instead of running the line
}

// action is what a step does instead of running a command line.
type action int

const (
	typed        action = iota
	startDaemon         // as the line says, and wait until it is ready
	killDaemon          // like a crash
	startOutside        // a web server on the external machine
	stopDaemon
)

// soon is how long a server may take to start, and a host to learn of a change on the other.
const soon = 5 * time.Second

// The daemons of a cluster.
const (
	firstDaemon  = "fairlead daemon --node-name host --store embed &"
	secondDaemon = "fairlead daemon --node-name second --store etcd://192.0.2.1:2379 --store-token token &"
)

func scenes() []scene {
	return []scene{
		{"A host with one uplink, and a machine outside. A daemon starts on the host.", []step{
			{do: startDaemon, line: "fairlead daemon &"},
			{line: "fairlead status", wants: []string{"eth0"}},
		}},
		{"Two networks, the second without external access.", []step{
			{line: "fairlead network create --ipv6 --subnet 10.5.0.0/24 --subnet fd00:5::/64 web"},
			{line: "fairlead network create --ipv6 --subnet 10.6.0.0/24 --subnet fd00:6::/64 --internal vault"},
			{line: "fairlead network ls", wants: []string{"web", "vault", "bridge"}},
		}},
		{"A web server in the first, published at port 8080, and a server for iperf3.", []step{
			{line: "fairlead run -d --name server --network web --ip 10.5.0.10 --ip6 fd00:5::10 -p 8080:80 nginx -p . -c server.conf"},
			{line: "fairlead run -d --name perf --network web --ip 10.5.0.11 iperf3 -s"},
			{line: "fairlead ps", wants: []string{"server", "8080->80/tcp", "perf"}},
		}},
		{"Sandboxes of one network reach each other.", []step{
			{line: "fairlead run --rm --network web ping -c 3 -i 0.2 10.5.0.10", wants: []string{" 0% packet loss"}},
			{line: "fairlead run --rm --network web ping -c 3 -i 0.2 fd00:5::10", wants: []string{" 0% packet loss"}},
			{line: "fairlead run --rm --network web --ip 10.5.0.20 curl -s http://10.5.0.10/", wants: []string{"server, you are 10.5.0.20"}, within: soon},
			{line: "fairlead run --rm --network web iperf3 -c 10.5.0.11 -t 1", wants: []string{"receiver"}, within: soon},
		}},
		{"The published port answers to the external machine, and the server sees the client's own address.", []step{
			{on: outside, line: "curl -s http://192.0.2.1:8080/", wants: []string{"server, you are 192.0.2.2"}},
			{on: outside, line: "curl -s 'http://[2001:db8::1]:8080/'", wants: []string{"server, you are 2001:db8::2"}},
		}},
		{"It answers on the host itself, and no other program can take the port.", []step{
			{line: "curl -s http://127.0.0.1:8080/", wants: []string{"server, you are"}},
			{line: "curl -s 'http://[::1]:8080/'", wants: []string{"server, you are"}},
			{line: "timeout 2 iperf3 -s -1 -p 8080", refused: true, wants: []string{"in use"}},
			{line: "fairlead run --rm -p 8080:80 true", refused: true, wants: []string{"8080"}},
		}},
		{"Sandboxes reach the world outside under the host's address: masquerade.", []step{
			{on: outside, do: startOutside},
			{line: "fairlead exec server ping -c 3 -i 0.2 192.0.2.2", wants: []string{" 0% packet loss"}},
			{line: "fairlead run --rm --network web curl -s http://192.0.2.2/", wants: []string{"outside, you are 192.0.2.1"}, within: soon},
			{line: "fairlead run --rm --network web curl -s 'http://[2001:db8::2]/'", wants: []string{"outside, you are 2001:db8::1"}},
			{line: "fairlead ct ls", wants: []string{"icmp", "tcp"}},
		}},
		{"Traffic is blocked between networks, out of an internal one, and from outside to a sandbox's address.", []step{
			{line: "fairlead run --rm --network bridge curl -s --max-time 1 http://10.5.0.10/", refused: true},
			{line: "fairlead run --rm --network vault ping -c 1 -W 1 192.0.2.2", refused: true},
			{on: outside, line: "ip route add 10.5.0.0/24 via 192.0.2.1"},
			{on: outside, line: "curl -s --max-time 1 http://10.5.0.10/", refused: true},
		}},
		{"The daemon is killed, and traffic continues. A new daemon adopts the existing state.", []step{
			{do: killDaemon, line: "kill -9 $(pidof fairlead)"},
			{on: outside, line: "curl -s http://192.0.2.1:8080/", wants: []string{"server, you are 192.0.2.2"}},
			{do: startDaemon, line: "fairlead daemon &"},
			{on: outside, line: "curl -s 'http://[2001:db8::1]:8080/'", wants: []string{"server, you are 2001:db8::2"}},
			{line: "fairlead ps -q | wc -l", wants: []string{"2"}},
		}},
		{"Every packet is counted: forwarded ones by path, dropped ones by reason.", []step{
			{line: "curl -s http://127.0.0.1:9477/metrics | grep -E '^fairlead_(forwarded|dropped)_packets_total.* [1-9]'",
				wants: []string{"path=\"peer\"", "reason=\"isolated\"", "reason=\"direct\""}},
		}},
		{"Everything is removed again.", []step{
			{line: "fairlead rm -f server perf", wants: []string{"server", "perf"}},
			{line: "fairlead network rm web vault"},
			{do: stopDaemon, line: "kill $(pidof fairlead)"},
			{line: "fairlead cleanup"},
			{line: "ip -brief link", wants: []string{"eth0"}},
		}},
		{"Two hosts form a cluster. The first also runs its store; the second joins with a token.", []step{
			{do: startDaemon, line: firstDaemon},
			{line: "fairlead cluster token > token"},
			{on: second, do: startDaemon, line: secondDaemon},
			{on: second, line: "fairlead node ls", wants: []string{"192.0.2.1", "198.51.100.1", " up "}, within: soon},
		}},
		{"A network spans both hosts: sandboxes reach each other as on one host.", []step{
			{line: "fairlead network create -d overlay --ipv6 --subnet 10.7.0.0/24 --subnet fd00:7::/64 shop"},
			{line: "fairlead run -d --name db --network shop --ip 10.7.0.10 --ip6 fd00:7::10 iperf3 -s"},
			{on: second, line: "fairlead network inspect --format '{{.Driver}}' shop", wants: []string{"overlay"}, within: soon},
			{on: second, line: "fairlead run --rm --network shop ping -c 3 -i 0.2 10.7.0.10", wants: []string{" 0% packet loss"}, within: soon},
			{on: second, line: "fairlead run --rm --network shop ping -c 3 -i 0.2 fd00:7::10", wants: []string{" 0% packet loss"}},
			{on: second, line: "fairlead run --rm --network shop iperf3 -c 10.7.0.10 -t 1", wants: []string{"receiver"}},
			{on: second, line: "fairlead ipam ls shop", wants: []string{"10.7.0.10"}},
		}},
		{"A published service answers on every host; its only backend is on the second, and sees the client's own address.", []step{
			{line: "fairlead service create --network shop -p 8080:80 web"},
			{on: second, line: "fairlead run -d --name backend --network shop --network-alias web nginx -p . -c server.conf", within: soon},
			{line: "fairlead service ls", wants: []string{"web"}},
			{on: outside, line: "curl -s http://192.0.2.1:8080/", wants: []string{"server, you are 192.0.2.2"}, within: soon},
			{on: outside, line: "curl -s 'http://[2001:db8::1]:8080/'", wants: []string{"server, you are 2001:db8::2"}, within: soon},
			{on: outside, line: "curl -s http://198.51.100.1:8080/", wants: []string{"server, you are 198.51.100.2"}, within: soon},
		}},
		{"The first daemon is killed, and the store with it, while data is transferred. Traffic does not need either.", []step{
			{on: second, line: "fairlead run --rm --network shop iperf3 --forceflush -c 10.7.0.10 -b 100M -t 4 >transfer 2>&1 &"},
			{on: second, line: "grep connected transfer", wants: []string{"port 5201"}, within: soon},
			{do: killDaemon, line: "kill -9 $(pidof fairlead)"},
			{on: outside, line: "curl -s http://192.0.2.1:8080/", wants: []string{"server, you are 192.0.2.2"}},
			{on: second, line: "fairlead network create -d overlay other", refused: true, wants: []string{"store"}},
			{on: second, line: "fairlead run --rm curl -s http://192.0.2.2/", wants: []string{"outside, you are 198.51.100.1"}},
			{on: second, line: "tail -n 12 transfer", wants: []string{"receiver"}, within: 2 * soon},
		}},
		{"It starts again, with the store, and shared networks can be changed again.", []step{
			{do: startDaemon, line: firstDaemon},
			{on: second, line: "fairlead network create -d overlay other", within: 2 * soon},
			{line: "fairlead network ls", wants: []string{"shop", "other"}, within: soon},
		}},
		{"Everything is removed from both hosts.", []step{
			{line: "fairlead service rm web"},
			{line: "fairlead rm -f db"},
			{on: second, line: "fairlead rm -f backend"},
			{line: "fairlead network rm shop", within: soon},
			{line: "fairlead network rm other"},
			{on: second, do: stopDaemon, line: "kill $(pidof fairlead)"},
			{do: stopDaemon, line: "kill $(pidof fairlead)"},
			{on: second, line: "fairlead cleanup"},
			{line: "fairlead cleanup"},
			{on: second, line: "ip -brief link", wants: []string{"eth0"}},
		}},
	}
}
