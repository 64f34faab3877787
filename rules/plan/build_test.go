package plan

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/knob"
)

func known(value string) knob.State { return knob.State{Status: knob.Known, Value: value} }

func want(ref knob.Ref, value string, mode Mode) Want {
	return Want{Ref: ref, Value: value, Mode: mode, Why: "test"}
}

// outline is a plan in words: "change REF BEFORE→AFTER", "kept REF", …
func outline(p Plan) []string {
	var out []string
	for _, c := range p.Changes {
		out = append(out, "change "+c.Ref.String()+" "+c.Before+"→"+c.After)
	}
	for _, k := range p.Kept {
		out = append(out, "kept "+k.Ref.String())
	}
	for _, b := range p.Blocked {
		out = append(out, "blocked "+b.Ref.String()+": "+b.Reason)
	}
	for _, d := range p.Deferred {
		out = append(out, "deferred "+d.Ref.String())
	}
	for _, c := range p.Conflicts {
		out = append(out, "conflict "+c.Ref.String())
	}
	return out
}

func TestBuild(t *testing.T) {
	budget, backlog := knob.Global("net.core.netdev_budget"), knob.Global("net.core.netdev_max_backlog")
	irq := knob.Rx("eth0", 1, "irq.affinity")
	for _, tc := range []struct {
		name   string
		wants  []Want
		states map[knob.Ref]knob.State
		forbid []string
		want   []string
	}{
		{"a change", []Want{want(budget, "600", Set)}, map[knob.Ref]knob.State{budget: known("300")}, nil, []string{"change net.core.netdev_budget 300→600"}},
		{"already so", []Want{want(budget, "300", Set)}, map[knob.Ref]knob.State{budget: known("300")}, nil, []string{"kept net.core.netdev_budget"}},
		{"a raise that is exceeded", []Want{want(budget, "600", Raise)}, map[knob.Ref]knob.State{budget: known("1200")}, nil, []string{"kept net.core.netdev_budget"}},
		{"a lowering that is undercut", []Want{want(budget, "600", Lower)}, map[knob.Ref]knob.State{budget: known("300")}, nil, []string{"kept net.core.netdev_budget"}},
		{"two raises: the higher", []Want{want(backlog, "2000", Raise), want(backlog, "4000", Raise)}, map[knob.Ref]knob.State{backlog: known("1000")}, nil,
			[]string{"change net.core.netdev_max_backlog 1000→4000"}},
		{"two lowerings: the lower", []Want{want(backlog, "2000", Lower), want(backlog, "1500", Lower)}, map[knob.Ref]knob.State{backlog: known("9000")}, nil,
			[]string{"change net.core.netdev_max_backlog 9000→1500"}},
		{"two values", []Want{want(budget, "600", Set), want(budget, "900", Set)}, map[knob.Ref]knob.State{budget: known("300")}, nil, []string{"conflict net.core.netdev_budget"}},
		{"a raise against a lowering", []Want{want(budget, "600", Raise), want(budget, "200", Lower)}, map[knob.Ref]knob.State{budget: known("300")}, nil, []string{"conflict net.core.netdev_budget"}},
		{"locked", []Want{want(budget, "600", Set)}, map[knob.Ref]knob.State{budget: {Status: knob.Locked, Value: "300", Reason: "fixed"}}, nil, []string{"blocked net.core.netdev_budget: fixed"}},
		{"locked but right", []Want{want(budget, "300", Set)}, map[knob.Ref]knob.State{budget: {Status: knob.Locked, Value: "300", Reason: "fixed"}}, nil, []string{"kept net.core.netdev_budget"}},
		{"not told", []Want{want(budget, "600", Set)}, nil, nil, []string{"blocked net.core.netdev_budget: the host did not tell its present value, so it could not be put back"}},
		{"not told but seen", []Want{{Ref: irq, Value: "3", Seen: "0"}}, map[knob.Ref]knob.State{irq: {Status: knob.Unknown, Reason: "not captured"}}, nil, []string{"change eth0/rx-1/irq.affinity 0→3"}},
		{"out of range", []Want{want(budget, "600", Set)}, map[knob.Ref]knob.State{budget: {Value: "300", Bounds: knob.Bounds{Min: 1, Max: 500}}}, nil,
			[]string{`blocked net.core.netdev_budget: 600 is outside 1 to 500`}},
		{"forbidden", []Want{want(budget, "600", Set)}, map[knob.Ref]knob.State{budget: known("300")}, []string{"net.core.netdev_budget"}, []string{"blocked net.core.netdev_budget: the policy forbids changing it"}},
		{"behind a channel change", []Want{want(irq, "3", Set), want(knob.Device("eth0", "channels.combined"), "4", Raise), want(knob.Rx("eth1", 0, "irq.affinity"), "1", Set)},
			map[knob.Ref]knob.State{irq: known("0"), knob.Device("eth0", "channels.combined"): known("1"), knob.Rx("eth1", 0, "irq.affinity"): known("0")}, nil,
			[]string{"change eth0/channels.combined 1→4", "change eth1/rx-0/irq.affinity 0→1", "deferred eth0/rx-1/irq.affinity"}},
		{"no such setting", []Want{want(knob.Global("net.core.nonsense"), "1", Set)}, nil, nil, []string{"blocked net.core.nonsense: napitune has no such setting"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := Build([]Finding{{ID: "x", Wants: tc.wants}}, Input{States: tc.states, Forbidden: tc.forbid})
			if diff := cmp.Diff(tc.want, outline(p)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestBuildOrder(t *testing.T) {
	refs := []knob.Ref{
		knob.Device("eth0", "ring.rx"), knob.Device("eth0", "feature.rx-gro"), knob.Global("net.core.netdev_budget"),
		knob.Rx("eth0", 0, "rps.cpus"), knob.Tx("eth0", 0, "xps.cpus"),
		knob.Rx("eth2", 2, "irq.affinity"), knob.Tx("eth2", 2, "irq.affinity"), knob.Rx("eth2", 10, "irq.affinity"), knob.Rx("eth10", 0, "irq.affinity"),
	}
	values := map[string]string{"ring.rx": "1024", "feature.rx-gro": "on", "net.core.netdev_budget": "600", "rps.cpus": "1", "xps.cpus": "1", "irq.affinity": "1"}
	states := map[knob.Ref]knob.State{}
	var findings []Finding
	for i, ref := range refs {
		states[ref] = known("0")
		findings = append(findings, Finding{ID: string(rune('a' + i)), Wants: []Want{want(ref, values[ref.Kind], Set)}})
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		random.Shuffle(len(findings), func(i, j int) { findings[i], findings[j] = findings[j], findings[i] })
		p := Build(findings, Input{States: states})
		var got []knob.Ref
		for i, c := range p.Changes {
			if c.Seq != i+1 {
				t.Errorf("change %d has number %d", i+1, c.Seq)
			}
			got = append(got, c.Ref)
		}
		if !slices.Equal(got, refs) {
			t.Fatalf("order %v, want %v", got, refs)
		}
	}
}

// TestBuildOrderWithinStage: the kernel allocates a flow limit table in the
// length that is in force when a CPU's bit is set (net/core/sysctl_net_core.c
// flow_limit_cpu_sysctl), so the length must be there before.
func TestBuildOrderWithinStage(t *testing.T) {
	bitmap, length := knob.Global("net.core.flow_limit_cpu_bitmap"), knob.Global("net.core.flow_limit_table_len")
	p := Build([]Finding{{ID: "x", Wants: []Want{want(bitmap, "0-3", Set), want(length, "8192", Raise)}}},
		Input{States: map[knob.Ref]knob.State{bitmap: known(""), length: known("4096")}})
	if len(p.Changes) != 2 || p.Changes[0].Ref != length || p.Changes[1].Ref != bitmap {
		t.Errorf("changes %v, want %s before %s", outline(p), length, bitmap)
	}
}

func TestBooleans(t *testing.T) {
	ref := knob.Rx("eth0", 0, "irq.affinity")
	states := map[knob.Ref]knob.State{ref: {Status: knob.Unknown}}
	seen := Build([]Finding{{ID: "x", Wants: []Want{{Ref: ref, Value: "1", Seen: "0"}}}}, Input{States: states})
	if seen.Applyable || !seen.Complete || !seen.Changes[0].BeforeSeen {
		t.Errorf("a change whose present value is only seen must not be applyable: %+v", seen)
	}
	empty := Build(nil, Input{})
	if empty.Applyable || !empty.Complete || empty.Changes == nil || empty.Blocked == nil {
		t.Errorf("an empty plan has nothing to apply and no null lists: %+v", empty)
	}
}
