// SPDX-License-Identifier: Apache-2.0

package demo

import "time"

// scene is a statement about Fairlead and the steps that demonstrate it.
type scene struct {
	text  string
	steps []step
}

// step is a command line, run on the host or on the external machine, and its expected outcome.
type step struct {
	outside bool
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
	startDaemon         // and wait until it is ready
	killDaemon          // like a crash
	startOutside        // a web server on the external machine
	stopDaemon
)

// soon is how long a server may take to start.
const soon = 5 * time.Second

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
			{outside: true, line: "curl -s http://192.0.2.1:8080/", wants: []string{"server, you are 192.0.2.2"}},
			{outside: true, line: "curl -s 'http://[2001:db8::1]:8080/'", wants: []string{"server, you are 2001:db8::2"}},
		}},
		{"It answers on the host itself, and no other program can take the port.", []step{
			{line: "curl -s http://127.0.0.1:8080/", wants: []string{"server, you are"}},
			{line: "curl -s 'http://[::1]:8080/'", wants: []string{"server, you are"}},
			{line: "timeout 2 iperf3 -s -1 -p 8080", refused: true, wants: []string{"in use"}},
			{line: "fairlead run --rm -p 8080:80 true", refused: true, wants: []string{"8080"}},
		}},
		{"Sandboxes reach the world outside under the host's address: masquerade.", []step{
			{do: startOutside},
			{line: "fairlead exec server ping -c 3 -i 0.2 192.0.2.2", wants: []string{" 0% packet loss"}},
			{line: "fairlead run --rm --network web curl -s http://192.0.2.2/", wants: []string{"outside, you are 192.0.2.1"}, within: soon},
			{line: "fairlead run --rm --network web curl -s 'http://[2001:db8::2]/'", wants: []string{"outside, you are 2001:db8::1"}},
			{line: "fairlead ct ls", wants: []string{"icmp", "tcp"}},
		}},
		{"Traffic is blocked between networks, out of an internal one, and from outside to a sandbox's address.", []step{
			{line: "fairlead run --rm --network bridge curl -s --max-time 1 http://10.5.0.10/", refused: true},
			{line: "fairlead run --rm --network vault ping -c 1 -W 1 192.0.2.2", refused: true},
			{outside: true, line: "ip route add 10.5.0.0/24 via 192.0.2.1"},
			{outside: true, line: "curl -s --max-time 1 http://10.5.0.10/", refused: true},
		}},
		{"The daemon is killed, and traffic continues. A new daemon adopts the existing state.", []step{
			{do: killDaemon, line: "kill -9 $(pidof fairlead)"},
			{outside: true, line: "curl -s http://192.0.2.1:8080/", wants: []string{"server, you are 192.0.2.2"}},
			{do: startDaemon, line: "fairlead daemon &"},
			{outside: true, line: "curl -s 'http://[2001:db8::1]:8080/'", wants: []string{"server, you are 2001:db8::2"}},
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
	}
}
