package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/archive"
	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/host/tree"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules/plan"
)

// What the laws saw when they were written: fewer means that they test less.
// anything allows every change.
var anything = apply.Options{MaxDisruption: knob.DisruptsLink}

const (
	leastCaptures = 118
	leastPairs    = 708 // captures × profiles
	leastOwn      = 61  // pairs with at least one change on the capture itself
	leastChanged  = 700 // pairs with at least one change, on the capture or a generated machine
)

// mill runs the laws of transactions over machines in memory, with plans that
// rules and profiles make.
type mill struct {
	t    *testing.T
	rng  *rand.Rand
	all  bool // every crash point instead of a few
	sums map[string]int
}

// site is one machine under one profile.
type site struct {
	name    string
	samples []*host.Host
	plan    plan.Plan
	before  string
}

// Laws over all captures and profiles, on the machine in memory: identity, crash
// anywhere (every journal record and write, torn records), full disk, foreign
// writes, and random walks between profiles. Where a capture lacks the
// settings to change, a machine is generated instead. Each pair meets one law at
// a few points; all of them at all points with:
//
//	NAPITUNE_LAWS=all go test ./cmd/napitune -run TestLaws -v -timeout 2h
func TestLaws(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("NAPITUNE_HOSTS")
	switch {
	case dir != "":
	case os.Getenv("CI") == "true":
		t.Fatal("NAPITUNE_HOSTS is not set: CI must test the captured hosts")
	default:
		t.Skip("NAPITUNE_HOSTS is not set: no captured hosts to test")
	}
	m := &mill{t: t, rng: chance(t), all: os.Getenv("NAPITUNE_LAWS") == "all", sums: map[string]int{}}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".tar.gz") {
			return err
		}
		c, err := archive.Open(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		m.capture(filepath.Base(path), c)
		if t.Failed() {
			return errors.New("stopped at the first failure")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v", m.sums)
	for what, least := range map[string]int{"captures": leastCaptures, "pairs": leastPairs, "pairs on captures": leastOwn, "pairs with changes": leastChanged} {
		if m.sums[what] < least {
			t.Errorf("%d %s, and there were %d", m.sums[what], what, least)
		}
	}
	for _, law := range []string{"identities", "crashes", "torn records", "full disks", "foreign writes", "walks"} {
		if m.sums[law] < leastCaptures/2 {
			t.Errorf("%d %s: too few to mean anything", m.sums[law], law)
		}
	}
}

func (m *mill) capture(name string, c *archive.Capture) {
	m.t.Helper()
	m.sums["captures"]++
	substitute := m.generate()
	for _, profile := range profiles.Names() {
		m.sums["pairs"]++
		s := m.site(name+" under "+profile, m.furnished(c.Samples, profile), profile)
		if len(s.plan.Changes) > 0 {
			m.sums["pairs on captures"]++
		} else {
			s = m.site(fmt.Sprintf("generated for %s under %s", name, profile), substitute, profile)
		}
		if len(s.plan.Changes) == 0 {
			continue
		}
		m.sums["pairs with changes"]++
		m.sums["changes"] += len(s.plan.Changes)
		laws := []func(site){m.identity, m.crashes, m.fullDisk, m.foreign}
		if !m.all {
			at := m.rng.IntN(len(laws))
			laws = laws[at : at+1]
		}
		for _, law := range laws {
			law(s)
		}
	}
	m.walk("generated for "+name, substitute)
}

// furnished gives a capture the files of settings whose present value was only
// seen by its effect, such as the CPU on which an interrupt fired.
func (m *mill) furnished(samples []*host.Host, profile string) []*host.Host {
	m.t.Helper()
	measured, made := m.judgement(samples, profile)
	files := map[string]string{}
	for _, c := range made.Changes {
		irq, err := measured.Last.View().IRQ(c.Ref.Dev, c.Ref.Tx, c.Ref.Queue)
		if c.Ref.Kind == "irq.affinity" && c.BeforeSeen && err == nil {
			files[fmt.Sprintf("proc/irq/%d/smp_affinity_list", irq)] = c.Before
		}
	}
	out := make([]*host.Host, len(samples))
	for i, h := range samples {
		own := *h
		if from, ok := h.FS.(*tree.Tree); ok {
			to := from.Clone()
			for name, text := range files {
				cpus, err := cpuset.ParseList(text)
				if err == nil {
					err = errors.Join(to.WriteFile(name, []byte(text+"\n")), to.WriteFile(strings.TrimSuffix(name, "_list"), []byte(cpus.Mask()+"\n")))
				}
				if err != nil {
					m.t.Fatal(err)
				}
			}
			own.FS = to
		}
		out[i] = &own
	}
	return out
}

// generate makes a machine with something to mend: interrupts on one CPU.
func (m *mill) generate() []*host.Host {
	m.t.Helper()
	pick := func(words ...string) string { return words[m.rng.IntN(len(words))] }
	cpus := 2 << m.rng.IntN(4)
	queues := 2 << m.rng.IntN(2)
	samples, err := hosttest.Generate(hosttest.Spec{
		CPUs: cpus, QueuesPerNIC: min(queues, cpus), MaxQueues: 2 * min(queues, cpus), NICs: 1 + m.rng.IntN(2), IRQStacked: true,
		Driver: pick("virtio_net", "i40e", "ice", "ixgbe", "mlx5_core"), PacketsPerSecond: 1_500_000, PacketsPerPoll: 4,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return samples
}

func (m *mill) judgement(samples []*host.Host, profile string) (measurement, plan.Plan) {
	m.t.Helper()
	measured, err := replay(&machine{samples: samples})
	if err != nil {
		m.t.Fatal(err)
	}
	p, _, err := findPolicy(profile)
	if err != nil {
		m.t.Fatal(err)
	}
	return measured, judge(measured, options{log: slog.New(slog.DiscardHandler), policy: p}).Plan
}

// judged is the plan for a machine as it is now, with what can be put back.
func (m *mill) judged(memory *hosttest.Memory, profile string) plan.Plan {
	m.t.Helper()
	_, made := m.judgement(memory.Hosts(), profile)
	kept := []plan.Change{}
	for _, c := range made.Changes {
		if !c.BeforeSeen {
			kept = append(kept, c)
		}
	}
	made.Changes, made.Applyable = kept, len(kept) > 0
	*made.Origin = booted(*made.Origin)
	made.Fingerprint = made.Origin.Fingerprint()
	return made
}

func (m *mill) memory(samples []*host.Host) *hosttest.Memory {
	m.t.Helper()
	memory, err := hosttest.NewMemory(samples)
	if err != nil {
		m.t.Fatal(err)
	}
	return memory
}

func (m *mill) site(name string, samples []*host.Host, profile string) site {
	m.t.Helper()
	memory := m.memory(samples)
	s := site{name: name, samples: samples, plan: m.judged(memory, profile)}
	s.before = s.dump(memory)
	return s
}

// renumbered are lines whose numbers change when drivers make vectors anew.
var renumbered = regexp.MustCompile(`(?m)^(/proc/irq/|napi ).*\n`)

func (s site) dump(memory *hosttest.Memory) string {
	text := memory.Dump()
	for _, c := range s.plan.Changes {
		if strings.HasPrefix(c.Ref.Kind, "channels.") {
			return renumbered.ReplaceAllString(text, "")
		}
	}
	return text
}

// booted gives a capture that does not tell its boot the name of one.
func booted(o plan.Origin) plan.Origin {
	if o.BootID == "" {
		o.BootID = "captured"
	}
	return o
}

// run is a process of the command on a machine in memory.
func (m *mill) run(memory *hosttest.Memory, disk *memDisk, f *fuse) *apply.Applier {
	live := &machine{samples: memory.Hosts()}
	return &apply.Applier{
		Machine: apply.Machine{
			View: func() (knob.View, error) { return currentView(live) },
			Origin: func() (plan.Origin, error) {
				o, err := currentOrigin(live)
				return booted(o), err
			},
			Writer: hosttest.Gate(memory.Writer(), func(_ string, do func() error) error { return f.step(do, nil) }),
		},
		Files: disk.process(f), Dir: "run/napitune", Holder: "test", Now: func() time.Time { return time.Unix(0, 0) },
	}
}

func newMemDisk() *memDisk { return &memDisk{files: map[string][]byte{}} }

// same compares the machine with what it was.
func (m *mill) same(s site, memory *hosttest.Memory, law string) {
	m.t.Helper()
	if diff := cmp.Diff(s.before, s.dump(memory)); diff != "" {
		m.t.Errorf("%s: %s (-before +after):\n%s\nplan: %+v", s.name, law, diff, s.plan.Changes)
	}
}

func (m *mill) identity(s site) {
	m.t.Helper()
	memory, disk := m.memory(s.samples), newMemDisk()
	result, err := m.run(memory, disk, nil).Apply(context.Background(), s.plan, anything)
	if err != nil {
		m.t.Logf("%s was undone at once: %v", s.name, err)
	} else {
		m.sums["identities"]++
		result, err = m.run(memory, disk, nil).Rollback(context.Background(), "")
	}
	if result.State != apply.RolledBack {
		m.t.Errorf("%s: %s, %v", s.name, result.State, err)
	}
	m.same(s, memory, "identity")
}

// recover is what a person does after a crash.
func (m *mill) recover(s site, memory *hosttest.Memory, disk *memDisk, law string) {
	m.t.Helper()
	a := m.run(memory, disk, nil)
	told, err := a.Status()
	if err != nil {
		m.t.Errorf("%s: %s: status: %v", s.name, law, err)
	}
	if s.dump(memory) != s.before && len(told) == 0 {
		m.t.Errorf("%s: %s: the machine is changed and no journal says so", s.name, law)
	}
	result, err := a.Rollback(context.Background(), "")
	if err != nil && !errors.Is(err, apply.ErrNoTransaction) || err == nil && result.State != apply.RolledBack {
		m.t.Errorf("%s: %s: %s, %v: %+v", s.name, law, result.State, err, result.Restored)
	}
	m.same(s, memory, law)
}

// crashes kills an apply before and after its steps, and in the middle of records.
func (m *mill) crashes(s site) {
	m.t.Helper()
	whole := &fuse{torn: -1}
	if _, err := m.run(m.memory(s.samples), newMemDisk(), whole).Apply(context.Background(), s.plan, anything); whole.steps == 0 {
		m.t.Fatalf("%s: %v", s.name, err)
	}
	points := []int{1 + m.rng.IntN(whole.steps)}
	if m.all {
		points = points[:0]
		for at := 1; at <= whole.steps; at++ {
			points = append(points, at)
		}
	}
	for _, at := range points {
		ways := []*fuse{{at: at, torn: -1}, {at: at, torn: -1, after: true}, {at: at, torn: 1 + m.rng.IntN(400)}}
		if !m.all {
			ways = ways[m.rng.IntN(2):][:2]
		}
		for _, f := range ways {
			memory, disk := m.memory(s.samples), newMemDisk()
			_, _ = m.run(memory, disk, f).Apply(context.Background(), s.plan, anything)
			m.sums["crashes"]++
			if f.torn > 0 {
				m.sums["torn records"]++
			}
			m.recover(s, memory, disk, fmt.Sprintf("killed at step %d of %d, %+v", at, whole.steps, *f))
		}
	}
}

func (m *mill) fullDisk(s site) {
	m.t.Helper()
	records := 1 + 2*len(s.plan.Changes) + 2
	points := []int{1 + m.rng.IntN(records)}
	if m.all {
		points = points[:0]
		for full := 1; full <= records; full++ {
			points = append(points, full)
		}
	}
	for _, full := range points {
		memory, disk := m.memory(s.samples), newMemDisk()
		disk.full = full
		_, err := m.run(memory, disk, nil).Apply(context.Background(), s.plan, anything)
		m.sums["full disks"]++
		if err == nil {
			disk.full = 0 // a change that was none writes no records
		}
		law := fmt.Sprintf("disk full at record %d of %d", full, records)
		if err != nil {
			m.same(s, memory, law)
		}
		disk.full = 0
		m.recover(s, memory, disk, law+", with room again")
	}
}

// foreign changes one setting behind the back of the transaction: it stays, and
// all others are restored.
func (m *mill) foreign(s site) {
	m.t.Helper()
	memory, disk := m.memory(s.samples), newMemDisk()
	if _, err := m.run(memory, disk, nil).Apply(context.Background(), s.plan, anything); err != nil {
		return
	}
	victim := s.plan.Changes[m.rng.IntN(len(s.plan.Changes))]
	kind, _ := knob.Lookup(victim.Ref.Kind)
	view := memory.View()
	value, ok := m.other(kind, kind.Read(view, victim.Ref), victim)
	if !ok || kind.Stage == knob.StageChannels || kind.Write(view, memory.Writer(), victim.Ref, value) != nil {
		return
	}
	m.sums["foreign writes"]++
	result, err := m.run(memory, disk, nil).Rollback(context.Background(), "")
	if err != nil || result.State != apply.Dirty {
		m.t.Errorf("%s: foreign %s: %s, %v", s.name, victim.Ref, result.State, err)
	}
	after := memory.View()
	if got := kind.Read(after, victim.Ref).Value; got != value {
		m.t.Errorf("%s: somebody else's %s of %s became %q", s.name, value, victim.Ref, got)
	}
	for _, one := range result.Restored {
		if one.Ref == victim.Ref && one.Fate != apply.FateForeign {
			m.t.Errorf("%s: %+v", s.name, one)
		}
	}
	if kind.Write(after, memory.Writer(), victim.Ref, victim.Before) == nil {
		m.same(s, memory, "all but the foreign setting "+victim.Ref.String())
	}
}

// other is a value that is neither what was nor what is.
func (m *mill) other(kind *knob.Kind, now knob.State, c plan.Change) (string, bool) {
	for _, word := range []string{"1", "0", "512", "1024", "0-1", "on", "off", "sd", "300", "77"} {
		value, err := kind.Codec.Canonical(word)
		if err == nil && now.Has() && value != now.Value && value != c.Before && value != c.After && kind.Check(now.Bounds, value) == nil {
			return value, true
		}
	}
	return "", false
}

// walk goes from profile to profile without rolling back, and then back through all.
func (m *mill) walk(name string, samples []*host.Host) {
	m.t.Helper()
	memory, disk := m.memory(samples), newMemDisk()
	names := profiles.Names()
	s := site{name: name, plan: plan.Plan{Changes: []plan.Change{{Ref: knob.Device("any", "channels.combined")}}}}
	s.before = s.dump(memory)
	done := 0
	for range len(names) {
		p := m.judged(memory, names[m.rng.IntN(len(names))])
		if len(p.Changes) == 0 {
			continue
		}
		result, err := m.run(memory, disk, nil).Apply(context.Background(), p, anything)
		switch {
		case err == nil:
			done++
		case result.State != apply.RolledBack:
			m.t.Errorf("%s: %s, %v", name, result.State, err)
		}
	}
	for range done {
		m.sums["steps of walks"]++
		if result, err := m.run(memory, disk, nil).Rollback(context.Background(), ""); err != nil || result.State != apply.RolledBack {
			m.t.Errorf("%s: back: %s, %v: %+v", name, result.State, err, result.Restored)
		}
	}
	if disk.open() > 0 {
		m.t.Errorf("%s: %d journals are left", name, disk.open())
	}
	m.sums["walks"]++
	m.same(s, memory, fmt.Sprintf("a walk of %d profiles", done))
}
