package rules_test

import (
	"encoding/json"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/archive"
	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules"
	"github.com/napitune/napitune/rules/plan"
)

// everyHost runs a law over all captured hosts and a few generated ones with faults.
func everyHost(t *testing.T, law func(t *testing.T, samples []*host.Host)) {
	t.Helper()
	for name, spec := range generatedFaults {
		t.Run("generated/"+name, func(t *testing.T) {
			samples, err := hosttest.Generate(spec)
			if err != nil {
				t.Fatal(err)
			}
			law(t, samples)
		})
	}
	dir := hostsDir(t)
	archives, err := filepath.Glob(filepath.Join(dir, "*", "*.tar.gz"))
	if err != nil || len(archives) < 100 {
		t.Fatalf("%d captured hosts (%v)", len(archives), err)
	}
	for _, path := range archives {
		rel, _ := filepath.Rel(dir, path)
		t.Run(strings.TrimSuffix(rel, ".tar.gz"), func(t *testing.T) {
			capture, err := archive.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			law(t, capture.Samples)
		})
	}
}

func observe(t *testing.T, samples []*host.Host) *detect.Observation {
	t.Helper()
	var snaps []*detect.Snapshot
	for _, h := range samples {
		s, err := detect.Collect(h)
		if err != nil {
			t.Fatal(err)
		}
		snaps = append(snaps, s)
	}
	return detect.Between(snaps...)
}

func planFor(o *detect.Observation, policy profiles.Policy) ([]plan.Finding, plan.Plan) {
	findings := rules.Evaluate(o, policy)
	return findings, plan.Build(findings, plan.Input{States: o.Last.Knobs, View: o.Last.View()})
}

// TestDeterminism: the same observation gives the same findings and the same
// plan to the byte, whatever the order of what was observed.
func TestDeterminism(t *testing.T) {
	everyHost(t, func(t *testing.T, samples []*host.Host) {
		o := observe(t, samples)
		random := rand.New(rand.NewPCG(1, 2))
		for _, policy := range everyPolicy(t) {
			first := encode(t, o, policy)
			disorder(random, o)
			if again := encode(t, o, policy); again != first {
				t.Fatalf("another plan from the same observation:\n%s\n%s", first, again)
			}
		}
	})
}

// TestDeterminismOfScenes is the same for what no captured host has: probes, threads
// with their times, and devices of every kind.
func TestDeterminismOfScenes(t *testing.T) {
	hold := func(name string, make func() *scene) {
		t.Run(name, func(t *testing.T) {
			s := make()
			policy := profiles.Balanced()
			policy.Latency = s.latency
			if s.policy != nil {
				s.policy(&policy)
			}
			first := encode(t, s.obs, policy)
			random := rand.New(rand.NewPCG(3, 4))
			for range 4 {
				disorder(random, s.obs)
				if again := encode(t, s.obs, policy); again != first {
					t.Fatalf("another plan from the same observation:\n%s\n%s", first, again)
				}
			}
		})
	}
	for _, tc := range allCases() {
		hold(tc.rule+"/"+tc.name, tc.make)
	}
	for _, sc := range allScenarios() {
		hold(sc.name, sc.make)
	}
}

// disorder puts everything that has an order by chance into another one.
func disorder(random *rand.Rand, o *detect.Observation) {
	snaps := []*detect.Snapshot{o.Last}
	if o.First != o.Last {
		snaps = append(snaps, o.First)
	}
	for _, s := range snaps {
		shuffle(random, s.IRQs.Rows)
		shuffle(random, s.Processes)
		shuffle(random, s.Devices)
		shuffle(random, s.Links)
		shuffle(random, s.Gaps)
		shuffle(random, s.Contests)
		shuffle(random, s.Topo.Nodes)
		for _, d := range s.Devices {
			shuffle(random, d.Queues)
			shuffle(random, d.Lower)
			shuffle(random, d.Upper)
			shuffle(random, d.OtherIRQs)
			shuffle(random, d.Stats)
		}
	}
	if p := o.Probes; p != nil {
		shuffle(random, p.CPUs)
		shuffle(random, p.NAPIs)
		shuffle(random, p.IRQs)
		shuffle(random, p.Virtio)
		shuffle(random, p.GRO)
		shuffle(random, p.Windows)
		shuffle(random, p.Drops)
		shuffle(random, p.Latency)
		shuffle(random, p.Control)
		shuffle(random, p.ControlReads)
	}
}

func shuffle[S ~[]E, E any](random *rand.Rand, of S) {
	random.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
}

func encode(t *testing.T, o *detect.Observation, policy profiles.Policy) string {
	t.Helper()
	findings, p := planFor(o, policy)
	data, err := json.Marshal(struct {
		Findings []plan.Finding
		Plan     plan.Plan
	}{findings, p})
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestFixpoint: a host on which the plan was carried out needs no other plan.
func TestFixpoint(t *testing.T) {
	everyHost(t, func(t *testing.T, samples []*host.Host) {
		for _, policy := range everyPolicy(t) {
			settle(t, samples, policy)
		}
	})
}

func everyPolicy(t *testing.T) []profiles.Policy {
	t.Helper()
	var out []profiles.Policy
	for _, name := range profiles.Names() {
		policy, err := profiles.ByName(name)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, policy)
	}
	return out
}

// settle plans and carries out until nothing is left to do.
func settle(t *testing.T, samples []*host.Host, policy profiles.Policy) {
	t.Helper()
	memory, err := hosttest.NewMemory(samples)
	if err != nil {
		t.Fatal(err)
	}
	const rounds = 3 // a channel change defers what follows from it
	for round := range rounds {
		_, p := planFor(observe(t, memory.Hosts()), policy)
		if !p.Applyable { // nothing to do, or a capture without the settings themselves
			return
		}
		if round == rounds-1 {
			t.Fatalf("%s: still %d changes after %d rounds, such as %s %s → %s", policy.Name, len(p.Changes), rounds-1, p.Changes[0].Ref, p.Changes[0].Before, p.Changes[0].After)
		}
		carryOut(t, memory, p)
	}
}

func carryOut(t *testing.T, memory *hosttest.Memory, p plan.Plan) {
	t.Helper()
	for _, change := range p.Changes {
		kind, ok := knob.Lookup(change.Ref.Kind)
		if !ok {
			t.Fatalf("no kind %s", change.Ref.Kind)
		}
		if err := kind.Write(memory.View(), memory.Writer(), change.Ref, change.After); err != nil {
			t.Fatalf("an impossible change was planned: %s %s → %s: %v", change.Ref, change.Before, change.After, err)
		}
		if now := kind.Read(memory.View(), change.Ref); now.Value != change.After {
			t.Fatalf("%s: wrote %s, reads %s", change.Ref, change.After, now.Value)
		}
	}
}

// generatedFaults are machines of many shapes, most with a fault.
var generatedFaults = map[string]hosttest.Spec{
	"virtio 4q healthy":     {},
	"virtio 4q stacked":     {IRQStacked: true},
	"virtio 8q stacked SMT": {CPUs: 16, SMT: 2, QueuesPerNIC: 8, IRQStacked: true},
	"virtio 1 of 4":         {CPUs: 8, QueuesPerNIC: 1, MaxQueues: 4},
	"virtio 2 NICs stacked": {CPUs: 8, NICs: 2, IRQStacked: true},
	"i40e two nodes":        {CPUs: 32, Nodes: 2, SMT: 2, NICs: 2, QueuesPerNIC: 8, Driver: "i40e", IRQStacked: true},
	"ice isolated":          {CPUs: 16, NICs: 1, QueuesPerNIC: 8, Driver: "ice", Isolated: "4-15"},
	"mlx5 2 of 16":          {CPUs: 32, NICs: 2, QueuesPerNIC: 2, MaxQueues: 16, Driver: "mlx5_core"},
	"ixgbe 64":              {CPUs: 128, Nodes: 4, SMT: 2, NICs: 4, QueuesPerNIC: 16, Driver: "ixgbe", IRQStacked: true},
}

// TestExpectations: every change says what it should do to something that can
// be measured again: what, in which direction, to which value. Where the finding
// shows the present value of the same thing, the prediction lies beyond it. A
// finding that names another as its cause names one that is there. What the
// placement moves, some finding asks to move.
func TestExpectations(t *testing.T) {
	for _, tc := range allCases() {
		t.Run(tc.rule+"/"+tc.name, func(t *testing.T) { expects(t, tc.make()) })
	}
	for _, sc := range allScenarios() {
		t.Run(sc.name, func(t *testing.T) { expects(t, sc.make()) })
	}
	everyHost(t, func(t *testing.T, samples []*host.Host) {
		o := observe(t, samples)
		for _, policy := range everyPolicy(t) {
			findings, p := planFor(o, policy)
			expectsOf(t, findings, p)
			asksForMoves(t, o, policy, findings)
		}
	})
}

func expects(t *testing.T, s *scene) {
	t.Helper()
	for _, policy := range everyPolicy(t) {
		if s.policy != nil {
			s.policy(&policy)
		}
		findings, p := planFor(s.obs, policy)
		expectsOf(t, findings, p)
		asksForMoves(t, s.obs, policy, findings)
		policy.HarmOnly = true
		asksForMoves(t, s.obs, policy, rules.Evaluate(s.obs, policy))
	}
}

// asksForMoves: the placement, from which predictions, XPS masks and what is said
// of irqbalance follow, moves no interrupt that no finding asks to move.
func asksForMoves(t *testing.T, o *detect.Observation, policy profiles.Policy, findings []plan.Finding) {
	t.Helper()
	for ref, cpu := range rules.Placed(o, policy) {
		asked := func(w plan.Want) bool { return w.Ref == ref && w.Value == strconv.Itoa(cpu) }
		if !slices.ContainsFunc(findings, func(f plan.Finding) bool { return slices.ContainsFunc(f.Wants, asked) }) {
			t.Errorf("%s is placed on CPU %d and no finding asks for that", ref, cpu)
		}
	}
}

func expectsOf(t *testing.T, findings []plan.Finding, p plan.Plan) {
	t.Helper()
	for _, c := range p.Changes {
		e := c.Expect
		if e.Metric == "" || e.Unit == "" || e.Predicted == nil || e.Direction != "up" && e.Direction != "down" {
			t.Errorf("%s → %s expects %+v", c.Ref, c.After, e)
			continue
		}
		for _, f := range findings {
			for _, seen := range f.Evidence {
				asks := slices.ContainsFunc(f.Wants, func(w plan.Want) bool { return w.Ref == c.Ref })
				if !asks || seen.Metric != e.Metric {
					continue
				}
				if e.Direction == "down" && *e.Predicted >= seen.Value || e.Direction == "up" && *e.Predicted <= seen.Value {
					t.Errorf("%s → %s: %s should go %s from %g and is predicted as %g", c.Ref, c.After, e.Metric, e.Direction, seen.Value, *e.Predicted)
				}
			}
		}
	}
	for _, c := range p.Conflicts {
		t.Errorf("conflict: %+v", c)
	}
	for _, f := range findings {
		named := func(g plan.Finding) bool { return f.Because == g.ID+"/"+g.Subject }
		if f.Because != "" && (named(f) || !slices.ContainsFunc(findings, named)) {
			t.Errorf("%s on %s is because of %s, which is not among the findings", f.ID, f.Subject, f.Because)
		}
	}
}
