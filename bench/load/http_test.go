// SPDX-License-Identifier: Apache-2.0

package load

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const wrkReport = `Running 1s test @ http://127.0.0.1:8080/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   635.91us    0.89ms  12.92ms   93.69%
    Req/Sec    36.07k     3.25k   41.46k    66.67%
  Latency Distribution
     50%  250.00us
     75%  491.00us
     90%  700.00us
     99%    5.80ms
  36068 requests in 1.01s, 5.76MB read
Requests/sec:  35811.09
Transfer/sec:      5.72MB
`

func TestParseWrk(t *testing.T) {
	got, err := parseWrk(wrkReport)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Measures{"p50": 250, "p99": 5800, "rate": 35811.09}, got); diff != "" {
		t.Errorf("measures (-want +got):\n%s", diff)
	}
	for _, bad := range []string{
		strings.Replace(wrkReport, "Requests/sec", "  Socket errors: connect 0, read 3, write 0, timeout 0\nRequests/sec", 1),
		strings.Replace(wrkReport, "Requests/sec", "  Non-2xx or 3xx responses: 7\nRequests/sec", 1),
		strings.Replace(wrkReport, "50%", "", 1),
		"",
	} {
		if got, err := parseWrk(bad); err == nil {
			t.Errorf("%q gives %v", bad, got)
		}
	}
}
