package boot_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/archive"
	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/profiles/boot"
	"github.com/napitune/napitune/rules"
	"github.com/napitune/napitune/rules/plan"
)

// generated are machines of several drivers whose interrupts are all on one CPU.
var generated = map[string]hosttest.Spec{
	"virtio":       {CPUs: 4, QueuesPerNIC: 2, MaxQueues: 4, IRQStacked: true},
	"virtio rings": {CPUs: 4, QueuesPerNIC: 4, VirtioFeatures: []int{40, 52, 53}, IRQStacked: true},
	"i40e":         {CPUs: 8, Driver: "i40e", QueuesPerNIC: 4, MaxQueues: 8, Nodes: 2, IRQStacked: true},
	"ice":          {CPUs: 8, Driver: "ice", QueuesPerNIC: 4, MaxQueues: 8, NICs: 2, SMT: 2, IRQStacked: true},
	"mlx5":         {CPUs: 8, Driver: "mlx5_core", QueuesPerNIC: 8, Isolated: "4-7", IRQStacked: true},
}

// What apply --owner ban told irqbalance is numbers of this boot, which no boot could
// make stand.
func TestSaveLeavesOutWhatDoesNotLast(t *testing.T) {
	t.Parallel()
	s := machine(t, small)
	affinity := knob.Rx(s.Devices[0].Name, 1, "irq.affinity")
	for _, solve := range []bool{false, true} {
		values := map[knob.Ref]string{knob.Global("irqbalance.banned"): "30,31,33", affinity: "2"}
		p, err := boot.Save(values, s, boot.Saving{Name: "edge", By: boot.ByBus, Solve: solve})
		if err != nil {
			t.Fatal(err)
		}
		again, err := boot.Parse("edge.yaml", p.Format())
		if err != nil {
			t.Errorf("%v in\n%s", err, p.Format())
		}
		if _, problems := again.Plan(s, boot.Scope{}); len(problems) > 0 || len(p.Entries) != 1 {
			t.Errorf("problems %v with\n%s", problems, p.Format())
		}
	}
}

// everyHost runs a law over generated and all captured hosts.
func everyHost(t *testing.T, law func(t *testing.T, samples []*host.Host)) {
	for name, spec := range generated {
		t.Run(name, func(t *testing.T) {
			samples, err := hosttest.Generate(spec)
			if err != nil {
				t.Fatal(err)
			}
			law(t, samples)
		})
	}
	dir := os.Getenv("NAPITUNE_HOSTS")
	if dir == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("NAPITUNE_HOSTS is not set: CI must test the captured hosts")
		}
		t.Log("NAPITUNE_HOSTS is not set: no captured hosts are tested")
		return
	}
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

func memory(t *testing.T, samples []*host.Host) *hosttest.Memory {
	t.Helper()
	m, err := hosttest.NewMemory(samples)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func snapshots(t *testing.T, m *hosttest.Memory) []*detect.Snapshot {
	t.Helper()
	var out []*detect.Snapshot
	for _, h := range m.Hosts() {
		s, err := detect.Collect(h)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

func newest(t *testing.T, m *hosttest.Memory) *detect.Snapshot {
	t.Helper()
	s, err := detect.Collect(m.Host(m.Samples() - 1))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// carryOut writes the changes of a plan; false where a change cannot be made
// here, since captures do not tell what every driver would do.
func carryOut(t *testing.T, m *hosttest.Memory, changes []plan.Change) bool {
	t.Helper()
	for _, c := range changes {
		kind, ok := knob.Lookup(c.Ref.Kind)
		if !ok {
			t.Fatalf("no kind %s", c.Ref.Kind)
		}
		if err := kind.Write(m.View(), m.Writer(), c.Ref, c.After); err != nil {
			t.Logf("%s: %v", c.Ref, err)
			return false
		}
	}
	return true
}

// settle plans and carries out until nothing is left, as apply does.
func settle(t *testing.T, m *hosttest.Memory, p boot.Profile) (rounds int, problems []boot.Problem, ok bool) {
	t.Helper()
	const most = 4
	for rounds = range most {
		todo, problems := p.Plan(newest(t, m), boot.Scope{})
		if len(todo.Changes) == 0 {
			return rounds, problems, true
		}
		if !carryOut(t, m, todo.Changes) {
			return rounds, problems, false
		}
	}
	t.Fatalf("after %d rounds there is still something to change", most)
	return most, nil, false
}

// A profile saved from what the advice brought stands on the host where it was
// saved, makes it so again on the host as it was, and then stands there too.
func TestSavedProfilesStand(t *testing.T) {
	stood, restored := 0, 0
	everyHost(t, func(t *testing.T, samples []*host.Host) {
		m := memory(t, samples)
		o := detect.Between(snapshots(t, m)...)
		p := plan.Build(rules.Evaluate(o, profiles.Balanced()), plan.Input{States: o.Last.Knobs, View: o.Last.View()})
		if len(p.Changes) == 0 || !p.Applyable || !carryOut(t, m, p.Changes) {
			return
		}
		s := newest(t, m)
		values := map[knob.Ref]string{}
		for _, c := range p.Changes {
			values[c.Ref] = s.Knobs[c.Ref].Value
		}
		for _, saving := range []boot.Saving{{By: boot.ByBus}, {By: boot.ByName}, {By: boot.ByBus, Solve: true}, {By: boot.ByName, Solve: true}} {
			saving.Name = "saved"
			profile, err := boot.Save(values, s, saving)
			if err != nil {
				t.Fatalf("%+v: %v", saving, err)
			}
			profile = reread(t, profile)
			if !saving.Solve {
				todo, problems := profile.Plan(s, boot.Scope{})
				if len(todo.Changes)+len(todo.Deferred)+len(problems) > 0 {
					t.Errorf("%+v: it was just saved, and there is something to do: %+v %v\n%s", saving, todo.Changes, problems, profile.Format())
				}
				stood++
			}
			again := memory(t, samples)
			rounds, problems, ok := settle(t, again, profile)
			if ok && len(problems) > 0 {
				t.Errorf("%+v: %v\n%s", saving, problems, profile.Format())
			}
			if ok && rounds > 0 {
				restored++
			}
		}
	})
	if stood == 0 || restored == 0 {
		t.Errorf("%d stood, %d restored: nothing was tested", stood, restored)
	}
	t.Logf("%d profiles stood where they were saved, %d were restored on the host as it was", stood, restored)
}

func reread(t *testing.T, p boot.Profile) boot.Profile {
	t.Helper()
	again, err := boot.Parse("saved.yaml", p.Format())
	if err != nil {
		t.Fatalf("%v in\n%s", err, p.Format())
	}
	unplaced := cmp.Options{
		cmpopts.IgnoreFields(boot.Setting{}, "Line"), cmpopts.IgnoreFields(boot.Entry{}, "Line"), cmpopts.EquateEmpty(),
	}
	if diff := cmp.Diff(p, again, unplaced); diff != "" {
		t.Fatalf("(-want +got)\n%s", diff)
	}
	return again
}

// fleet is one profile for hosts of every size.
const fleet = `boot-profile: 1
name: fleet
host:
  net.core.netdev_budget: 600
devices:
  - match: {name: "*"}
    settings:
      channels.combined: solve
      rss.table: even
      rx-*/irq.affinity: solve
      tx-*/irq.affinity: solve
      tx-*/xps.cpus: solve
      rx-*/rps.cpus: solve
`

// One profile serves hosts of all sizes: what it makes of each stands when it
// is looked at again, and every interrupt is on
// one CPU that may take it.
func TestFleet(t *testing.T) {
	p, err := boot.Parse("fleet.yaml", []byte(fleet))
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	everyHost(t, func(t *testing.T, samples []*host.Host) {
		m := memory(t, samples)
		rounds, _, ok := settle(t, m, p)
		if !ok {
			return
		}
		if rounds > 0 {
			changed++
		}
		s := newest(t, m)
		for ref, state := range s.Knobs {
			if ref.Kind != "irq.affinity" || state.Status != knob.Known {
				continue
			}
			cpu, err := strconv.Atoi(state.Value)
			if err != nil || !s.AllowedCPUs().Has(cpu) {
				t.Errorf("%s is %q, allowed are %s", ref, state.Value, s.AllowedCPUs())
			}
		}
	})
	if changed == 0 {
		t.Error("no host was changed: nothing was tested")
	}
	t.Logf("%d hosts were changed", changed)
}
