package report

import (
	"bytes"
	"strings"
	"testing"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// Each owner is named once, with what to do.
func TestPlanNamesOwners(t *testing.T) {
	t.Parallel()
	a := stackedAdvice()
	for i := range a.Plan.Changes {
		a.Plan.Changes[i].Owners = []plan.Owner{
			{Name: "irqbalance", Undoes: true, When: "every 10 s", Source: "it is running", Tellable: true, Remedy: "a policy script"},
		}
	}
	last := &a.Plan.Changes[len(a.Plan.Changes)-1]
	last.Owners = append(last.Owners, plan.Owner{Name: "sysctl.d", When: "at boot", Value: "300", Source: "/etc/sysctl.d/x.conf", Remedy: "change it there"})
	var out bytes.Buffer
	if err := Text(&out, a, Style{Width: 1000}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"more as well, every 10 s: apply with --owner ban, which tells it to leave them alone, or --owner leave or take; lasting: a policy script",
		"sysctl.d writes " + last.Ref.String() + " as well, at boot (to 300, /etc/sysctl.d/x.conf); lasting: change it there",
	} {
		if strings.Count(out.String(), want) != 1 {
			t.Errorf("not once in the text: %s\n%s", want, &out)
		}
	}
	var document bytes.Buffer
	if err := JSON(&document, a); err != nil {
		t.Fatal(err)
	}
	if err := compileSchema(t, "advice").Validate(decode(t, document.Bytes())); err != nil {
		t.Errorf("schema: %v", err)
	}
}

// A change that was left to an owner says to whom.
func TestTransactionNamesOwners(t *testing.T) {
	t.Parallel()
	r := NewTransaction("apply", apply.Result{ID: "20260101-120000-001", State: apply.Confirmed, Complete: true, Skipped: []apply.Skipped{
		{Ref: knob.Rx("eth0", 1, "irq.affinity"), Disruption: "none", Owner: "irqbalance"},
		{Ref: knob.Device("eth0", "ring.rx"), Disruption: "link"},
	}})
	var out, document bytes.Buffer
	if err := r.Text(&out, Style{Width: 200}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"eth0/rx-1/irq.affinity: left out: irqbalance writes it as well", "eth0/ring.rx: left out: it disturbs traffic (link)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("not in the text: %s\n%s", want, &out)
		}
	}
	if err := JSON(&document, r); err != nil {
		t.Fatal(err)
	}
	if err := compileSchema(t, "transaction").Validate(decode(t, document.Bytes())); err != nil {
		t.Errorf("schema: %v", err)
	}
}
