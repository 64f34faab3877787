package main

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// Nobody says yes to more than was announced.
func TestAgreed(t *testing.T) {
	t.Parallel()
	first := plan.Plan{Deferred: []plan.Deferred{{Ref: knob.Rx("eth0", 0, "irq.affinity")}}}
	announced := plan.Change{Ref: knob.Rx("eth0", 3, "irq.affinity"), After: "3"}
	next := plan.Plan{Complete: true, Changes: []plan.Change{
		announced,
		{Ref: knob.Rx("eth1", 0, "irq.affinity"), After: "1"},
		{Ref: knob.Device("eth0", "ring.rx"), After: "4096"},
		{Ref: knob.Global("net.core.netdev_budget"), After: "600"},
	}}
	want := plan.Plan{Complete: true, Changes: []plan.Change{announced}}
	if diff := cmp.Diff(want, agreed(next, first)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestAsk(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]answer{
		"y\n": yes, "Yes \n": yes, "y": yes, "\n": no, "yep\n": no, "n\n": no, "no": no, "": silence,
	} {
		var out strings.Builder
		got, err := newAudience(env{Stdin: strings.NewReader(text), Stderr: &out}).ask(context.Background(), "Well?")
		if err != nil || got != want || out.String() != "Well? [y/N] " {
			t.Errorf("%q: %v, %v, want %v; asked %q", text, got, err, want, out.String())
		}
	}
}

func FuzzParsePlan(f *testing.F) {
	for _, seed := range []string{
		"", "null", "{}", `{"changes":[{"ref":"eth0/ring.rx","before":"1","after":"2"}]}`, `{"x":1}`, `{} {}`, `{"changes":[{"ref":"../x"}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parsePlan(data)
		if err != nil && !cmp.Equal(p, plan.Plan{}) {
			t.Errorf("error %v with %+v", err, p)
		}
		for _, c := range p.Changes {
			if _, err := knob.ParseRef(c.Ref.String()); c.Ref != (knob.Ref{}) && err != nil {
				t.Errorf("took the address %q: %v", c.Ref, err)
			}
		}
	})
}

// What is left of a transaction is told with the step that can succeed.
func TestUnfinishedText(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		s          apply.Summary
		want, lack string
	}{
		"crashed":                {apply.Summary{State: apply.Applying}, "napitune rollback 1 puts the host back", "forget"},
		"dirty":                  {apply.Summary{State: apply.Dirty}, "napitune rollback 1 tries again, napitune forget 1 leaves the host as it is", "damaged"},
		"damaged":                {apply.Summary{State: apply.Confirmed, Damage: "line 4"}, "napitune rollback 1 undoes what it still tells", "forget"},
		"damaged and dirty":      {apply.Summary{State: apply.Dirty, Damage: "line 4"}, "damaged (line 4), and a rollback could not restore everything: napitune rollback 1 tries again, napitune forget 1", "puts"},
		"damaged and all undone": {apply.Summary{State: apply.Dirty, Damage: "line 4", Undone: true}, "nothing that it still tells is left to undo: look at the host, then napitune forget 1", "rollback"},
	} {
		test.s.ID = "1"
		if got := unfinishedText(test.s); !strings.Contains(got, test.want) || strings.Contains(got, test.lack) {
			t.Errorf("%s: %s", name, got)
		}
	}
}
