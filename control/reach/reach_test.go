// SPDX-License-Identifier: Apache-2.0

package reach

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

func TestOutcome(t *testing.T) {
	var w window
	for i := range kept + 5 {
		w.add(time.Duration(i)*time.Millisecond, i%5 == 4)
	}
	w.add(0, true)
	got := w.outcome()
	// Kept are the probes 6 to 24, of which 9, 14, 19 and 24 are lost, and the last one, which is lost too.
	if want := (Outcome{Sent: kept, Lost: 5, InRow: 2, RoundTrip: 15 * time.Millisecond}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// The other node's own probes tell the direction that fails.
func TestState(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	good := Outcome{Sent: 20, Answered: ago(time.Second), Heard: ago(time.Second)}
	silent := Outcome{Sent: 20, Lost: 9, InRow: 9, Answered: ago(20 * time.Second), Heard: ago(19 * time.Second)}
	heard := silent
	heard.Heard = ago(time.Second)
	old := heard // it was heard after the last answer, but is not any more
	old.Answered, old.Heard = ago(5*time.Minute), ago(time.Minute)
	never := Outcome{Sent: 3, Lost: 3, InRow: 3}
	first := never
	first.Heard = ago(time.Second)
	for _, test := range []struct {
		name         string
		small, large Outcome
		want         model.PathState
	}{
		{"all answered", good, good, model.PathWorks},
		{"two lost", Outcome{Sent: 20, Lost: 2, InRow: 2}, good, model.PathWorks},
		{"just begun", Outcome{Sent: 2, Lost: 2, InRow: 2}, Outcome{}, model.PathUnknown},
		{"nothing arrives", silent, silent, model.PathSilent},
		{"nothing has arrived since long", old, old, model.PathSilent},
		{"never anything", never, never, model.PathSilent},
		{"only theirs arrive", heard, heard, model.PathOutbound},
		{"only theirs ever arrived", first, first, model.PathOutbound},
		{"large ones get lost", good, silent, model.PathLarge},
		{"large ones get lost there", good, heard, model.PathLargeOutbound},
		{"small ones get lost", silent, good, model.PathSilent},
	} {
		r := Result{Small: test.small, Large: test.large}
		if got := r.State(now); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// A namespace's own kernel answers probes of both families. Those to an address without a host are lost.
func TestProbe(t *testing.T) {
	v4, v6, none := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.9")
	p := New(Config{Log: slog.New(slog.DiscardHandler), Targets: func() []Target {
		return []Target{
			{Node: "own", From: v4, To: v4, Size: 1450}, {Node: "own", Encrypted: true, From: v6, To: v6, Size: 8000},
			{Node: "none", From: v4, To: none, Size: 1450},
		}
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good, as it is in another namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ended <- err
			return
		}
		err := rtnltest.IP("link set lo up mtu 9000", "addr add 192.0.2.1/32 dev lo", "addr add 2001:db8::1/128 dev lo nodad", "route add blackhole 192.0.2.9")
		if err != nil {
			ended <- err
			return
		}
		ended <- p.Run(ctx)
	}()
	var own, lost []Result
	for ctx.Err() == nil {
		if own, lost = p.Results("own"), p.Results("none"); len(own) == 2 && len(lost) == 1 && own[0].Large.Sent > 0 && own[1].Large.Sent > 0 && lost[0].Large.Sent > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(own) != 2 || len(lost) != 1 {
		t.Fatalf("results are %+v and %+v", own, lost)
	}
	for _, r := range own {
		for _, o := range []Outcome{r.Small, r.Large} {
			if o.Sent == 0 || o.Lost > 0 || o.RoundTrip <= 0 || o.Heard.IsZero() || o.Answered.IsZero() {
				t.Errorf("to itself: %+v", r)
			}
		}
	}
	if own[0].Encrypted || !own[1].Encrypted {
		t.Errorf("order: %+v", own)
	}
	if o := lost[0].Small; o.Lost == 0 || o.Lost != o.Sent {
		t.Errorf("to nobody: %+v", lost[0])
	}
}
