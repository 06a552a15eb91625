// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// External programs that the http loads use. They must exist wherever such a load runs.
const (
	Nginx = "nginx"
	Wrk   = "wrk"
)

// nginxConfig configures one process that answers from memory. It never writes temporary
// files, although it requires directories for them.
const nginxConfig = `
daemon off; master_process off; user root root; error_log stderr; pid /proc/self/fd/%d;
events { worker_connections 1024; }
http {
	access_log off; keepalive_requests 1000000000;
	server { listen %s; location / { return 200 "hello\n"; } }
}
`

// serveHTTP replaces the process with nginx. Its configuration is a file in memory, so that
// nothing remains when it is killed.
func serveHTTP(o Options) error {
	path, err := exec.LookPath(Nginx)
	if err != nil {
		return err
	}
	config, err := unix.MemfdCreate("nginx.conf", 0)
	if err != nil {
		return fmt.Errorf("make nginx's configuration: %w", err)
	}
	pid, err := unix.MemfdCreate("nginx.pid", 0)
	if err != nil {
		return fmt.Errorf("make nginx's pid file: %w", err)
	}
	if err := writeAll(config, fmt.Appendf(nil, nginxConfig, pid, o.Address)); err != nil {
		return err
	}
	// Debian's nginx makes directories in it.
	if err := os.MkdirAll("/var/lib/nginx", 0o755); err != nil {
		return err
	}
	err = unix.Exec(path, []string{Nginx, "-e", "stderr", "-c", fmt.Sprintf("/proc/self/fd/%d", config)}, os.Environ())
	return fmt.Errorf("become %s: %w", path, err)
}

// runHTTP makes wrk send requests over Streams persistent connections, runHTTPClose over a
// new connection for each request.
func runHTTP(o Options) (Measures, error)      { return runWrk(o) }
func runHTTPClose(o Options) (Measures, error) { return runWrk(o, "--header", "Connection: close") }

func runWrk(o Options, more ...string) (Measures, error) {
	repeat(func() error {
		fd, err := dial(unix.SOCK_STREAM, o.Address)
		if err == nil {
			unix.Close(fd)
		}
		return err
	})
	// wrk takes whole seconds.
	seconds := max(1, int((o.Duration+time.Second-1)/time.Second))
	args := append([]string{
		"--threads", "1", "--connections", strconv.Itoa(o.Streams), "--duration", fmt.Sprint(seconds, "s"), "--latency",
	}, more...)
	// wrk inherits the CPU affinity of this thread.
	out, err := exec.Command(Wrk, append(args, fmt.Sprintf("http://%s/", o.Address))...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("wrk: %w: %s", err, out)
	}
	return parseWrk(string(out))
}

var (
	wrkRate     = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	wrkQuantile = regexp.MustCompile(`(50|99)%\s+([\d.]+)(us|ms|s)\n`)
	wrkErrors   = regexp.MustCompile(`(Socket errors: .*|Non-2xx or 3xx responses: .*)`)
)

// parseWrk parses wrk's report. A response that is not a success is an error.
func parseWrk(out string) (Measures, error) {
	if bad := wrkErrors.FindString(out); bad != "" {
		return nil, errors.New("wrk: " + bad)
	}
	m := make(Measures)
	for _, q := range wrkQuantile.FindAllStringSubmatch(out, -1) {
		v, err := strconv.ParseFloat(q[2], 64)
		if err != nil {
			return nil, fmt.Errorf("read wrk's report: %w", err)
		}
		m["p"+q[1]] = v * map[string]float64{"us": 1, "ms": 1e3, "s": 1e6}[q[3]]
	}
	rate := wrkRate.FindStringSubmatch(out)
	if len(rate) == 0 || len(m) != 2 {
		return nil, fmt.Errorf("wrk reports no rate or no latency:\n%s", out)
	}
	var err error
	m["rate"], err = strconv.ParseFloat(rate[1], 64)
	return m, err
}
