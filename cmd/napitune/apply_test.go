package main

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
