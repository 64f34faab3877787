package report

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/apply/guard"
	"github.com/napitune/napitune/detect/knob"
)

func TestGuardLines(t *testing.T) {
	t.Parallel()
	ref := knob.Rx("eth0", 1, "rps.cpus")
	for _, test := range []struct {
		action guard.Action
		want   string
	}{
		{guard.Action{Kind: guard.Restored, Ref: ref, After: "1-3", Cause: "queue change of eth0", Took: 79 * time.Millisecond}, "restored eth0/rx-1/rps.cpus: (none) → 1-3 in 79ms: queue change of eth0"},
		{guard.Action{Kind: guard.Set, Ref: ref, Before: "1", After: "2"}, "set eth0/rx-1/rps.cpus: 1 → 2"},
		{guard.Action{Kind: guard.LeftIt, Ref: ref, Before: "1", After: "2", Reason: "written 2 times", By: "sh"}, "eth0/rx-1/rps.cpus is left alone, it is 1 and was to be 2: written 2 times, by sh"},
		{guard.Action{Kind: guard.LeftIt, Ref: ref, Before: "1", After: "2", Reason: "written 2 times", By: "a\x1b[2Jb"}, "eth0/rx-1/rps.cpus is left alone, it is 1 and was to be 2: written 2 times, by " + clean("a\x1b[2Jb")},
		{guard.Action{Kind: guard.TookUp, Ref: ref, After: "2", Reason: "transaction X set it again"}, "eth0/rx-1/rps.cpus is kept again at 2: transaction X set it again"},
		{guard.Action{Kind: guard.Refused, Ref: ref, After: "2", Reason: "EIO"}, "eth0/rx-1/rps.cpus was not set to 2: EIO"},
		{guard.Action{Kind: guard.Waiting, Reason: "locked"}, "waiting: locked"},
	} {
		got := GuardLine(test.action)
		if diff := cmp.Diff(test.want, got); diff != "" || strings.ContainsRune(got, 0x1b) {
			t.Errorf("%s:\n%s", test.action.Kind, diff)
		}
	}
}

func TestContested(t *testing.T) {
	t.Parallel()
	r := guard.Report{Left: []guard.Left{{Ref: knob.Global("net.core.dev_weight"), Reason: "the host refuses it"}}}
	if got := Contested(r); got != nil {
		t.Errorf("not contested: %q", got)
	}
	for q := range 5 {
		r.Left = append(r.Left, guard.Left{Ref: knob.Rx("eth0", q, "irq.affinity"), Want: fmt.Sprint(q), By: "irqbalance", Reason: "written 2 times by somebody else within 10s", Contested: true})
	}
	got := Contested(r)
	if len(got) != contestedLines+1 || !strings.Contains(got[0], "eth0/rx-0/irq.affinity does not stay at 0") || !strings.Contains(got[0], "by irqbalance") || !strings.Contains(got[contestedLines], "2 more") {
		t.Errorf("%q", got)
	}
}

func TestStatusOfGuard(t *testing.T) {
	t.Parallel()
	s := NewStatus(nil)
	s.Guard = &guard.Report{
		Profile: "edge", Keeps: 12, Restorations: 3, Waiting: "locked",
		Last: &guard.Action{Kind: guard.Restored, Ref: knob.Rx("eth0", 1, "rps.cpus"), After: "1"},
		Left: []guard.Left{{Ref: knob.Rx("eth0", 0, "irq.affinity"), Want: "1", Present: "0", By: "irqbalance", Reason: "written 2 times", Contested: true}},
	}
	var out bytes.Buffer
	if err := s.Text(&out, Style{Width: 200}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"keeps 12 settings of edge, restored 3", "waiting: locked", "restored eth0/rx-1/rps.cpus", "eth0/rx-0/irq.affinity is left alone: written 2 times by irqbalance; it was 0 and should be 1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not told:\n%s", want, out.String())
		}
	}
	s.Guard.Ended = true
	out.Reset()
	if err := s.Text(&out, Style{Width: 200}); err != nil || !strings.Contains(out.String(), "has ended") || strings.Contains(out.String(), "waiting") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
