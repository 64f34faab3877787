package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/apply/disk"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/owner"
	"github.com/napitune/napitune/rules/plan"
)

// keep is a Loop over a machine in memory, driven look by look.
type keep struct {
	*Loop
	t       *testing.T
	m       *hosttest.Memory
	now     time.Time
	wanted  map[string]string
	told    []string
	watched []string
	planErr error
	refuse  string // writes to files with this in their name fail
}

func newKeep(t *testing.T, wanted map[string]string) *keep {
	t.Helper()
	samples, err := hosttest.Generate(hosttest.Spec{CPUs: 4, QueuesPerNIC: 2, MaxQueues: 4})
	if err != nil {
		t.Fatal(err)
	}
	m, err := hosttest.NewMemory(samples)
	if err != nil {
		t.Fatal(err)
	}
	k := &keep{t: t, m: m, now: start, wanted: wanted}
	inner := m.Writer()
	w := inner
	w.WriteFile = func(name string, data []byte) error {
		if k.refuse != "" && strings.Contains(name, k.refuse) {
			return fmt.Errorf("write %s: refused by the test", name)
		}
		return inner.WriteFile(name, data)
	}
	k.Loop = &Loop{
		Events: &host.Events{
			Ready: make(chan struct{}), Take: func() []host.Event { return nil },
			Watch: func(names []string) error { k.watched = names; return nil },
		},
		Plan: func(context.Context) (plan.Plan, knob.View, error) { return k.plan(), m.View(), k.planErr },
		Applier: &apply.Applier{
			Machine: apply.Machine{View: func() (knob.View, error) { return m.View(), nil }, Origin: k.origin, Writer: w},
			Files:   disk.Open(t.TempDir()), Dir: "run", History: "history", Now: func() time.Time { return k.now },
		},
		Tell: func(a Action) { k.told = append(k.told, fmt.Sprintf("%s %s", a.Kind, a.Ref)) },
		Now:  func() time.Time { return k.now },
	}
	k.keeper = NewKeeper(k.now)
	return k
}

func (k *keep) origin() (plan.Origin, error) {
	o := plan.Origin{BootID: "11111111-2222-4333-8444-555555555555", Release: "6.12.0"}
	for _, d := range k.m.View().Devices {
		o.Devices = append(o.Devices, plan.OriginDevice{Name: d.Name, Driver: d.Driver, Queues: max(d.RxQueues, d.TxQueues)})
	}
	return o, nil
}

func (k *keep) plan() plan.Plan {
	o, _ := k.origin()
	p := plan.Plan{Profile: "web", Fingerprint: o.Fingerprint(), Origin: &o}
	for text, value := range k.wanted {
		r := ref(k.t, text)
		if present := k.read(text); present == value {
			p.Kept = append(p.Kept, plan.Kept{Ref: r, Value: value})
		} else {
			p.Changes = append(p.Changes, plan.Change{Seq: len(p.Changes) + 1, Ref: r, Before: present, After: value})
		}
	}
	return p
}

func (k *keep) read(text string) string {
	k.t.Helper()
	kind, _ := knob.Lookup(ref(k.t, text).Kind)
	return kind.Read(k.m.View(), ref(k.t, text)).Value
}

func (k *keep) write(text, value string) {
	k.t.Helper()
	kind, _ := knob.Lookup(ref(k.t, text).Kind)
	if err := kind.Write(k.m.View(), k.m.Writer(), ref(k.t, text), value); err != nil {
		k.t.Fatal(err)
	}
}

// after looks at the host some time later.
func (k *keep) after(d time.Duration) (told []string) {
	k.now = k.now.Add(d)
	k.told = nil
	k.look(context.Background())
	slices.Sort(k.told)
	return k.told
}

func (k *keep) want(what string, got []string, want ...string) {
	k.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		k.t.Errorf("%s:\n%s", what, diff)
	}
}

// One setting that the host refuses does not keep the others from being set, and
// is left after a second attempt.
func TestLoopRefused(t *testing.T) {
	k := newKeep(t, map[string]string{rps: "2", irq: "3", budget: "600"})
	k.refuse = "rps_cpus"
	k.want("first", k.after(0), "refused "+rps, "set "+irq, "set "+budget)
	if k.read(irq) != "3" || k.read(budget) != "600" {
		t.Errorf("the rest was not set: %s %s", k.read(irq), k.read(budget))
	}
	k.want("soon after", k.after(time.Second))
	k.want("later", k.after(retryRefused), "left "+rps)
	k.want("in the end", k.after(time.Hour))
	// One for each attempt: the second had nothing else to do.
	if all, err := k.Applier.Status(); err != nil || len(all) != 2 {
		t.Errorf("transactions: %+v, %v", all, err)
	}
}

// What was set once by a transaction is restored without one.
func TestLoopFolds(t *testing.T) {
	k := newKeep(t, map[string]string{rps: "2", budget: "600"})
	k.want("first", k.after(0), "set "+rps, "set "+budget)
	for range 10 {
		k.write(rps, "1")
		k.keeper.Take(k.now, []host.Event{{Kind: host.QueuesChanged, Dev: "eth0"}})
		k.want("again", k.after(time.Minute-time.Second), "restored "+rps)
	}
	all, err := k.Applier.Status()
	if err != nil || len(all) != 1 {
		t.Errorf("transactions: %+v, %v", all, err)
	}
	if result, err := k.Applier.Rollback(context.Background(), ""); err != nil || result.State != apply.RolledBack {
		t.Errorf("%+v, %v", result, err)
	}
	k.want("rolled back", k.after(time.Minute), "left "+rps, "left "+budget)
	if got := k.read(budget); got != "300" {
		t.Errorf("%s is %s after the rollback", budget, got)
	}
}

func TestLoopWatches(t *testing.T) {
	k := newKeep(t, map[string]string{rps: "2", irq: "1", budget: "600"})
	k.after(0)
	if len(k.watched) != 4 || !slices.Contains(k.watched, "sys/class/net/eth0/queues/rx-1/rps_cpus") {
		t.Errorf("watched: %q", k.watched)
	}
}

// A host that cannot be read is asked again, and told of once.
func TestLoopWaits(t *testing.T) {
	k := newKeep(t, map[string]string{rps: "2"})
	k.planErr = errors.New("no such file")
	told := 0
	for range 5 {
		told += len(k.after(time.Minute))
		if _, ok := k.keeper.Next(); !ok {
			t.Fatal("it is not asked again")
		}
	}
	if told != 1 || k.keeper.Report().Waiting == "" {
		t.Errorf("told %d times, report %+v", told, k.keeper.Report())
	}
	k.planErr = nil
	k.want("in the end", k.after(time.Minute), "set "+rps)
	if w := k.keeper.Report().Waiting; w != "" {
		t.Errorf("waiting for %q", w)
	}
}

// Another napitune at work is waited for.
func TestLoopLocked(t *testing.T) {
	k := newKeep(t, map[string]string{rps: "2"})
	o, _ := k.origin()
	if err := k.Applier.Files.MkdirAll("run/" + o.BootID); err != nil {
		t.Fatal(err)
	}
	release, err := k.Applier.Files.Lock("run/"+o.BootID+"/lock", "napitune apply")
	if err != nil {
		t.Fatal(err)
	}
	k.want("locked", k.after(0))
	if err := release(); err != nil {
		t.Fatal(err)
	}
	at, ok := k.keeper.Next()
	if !ok || at.Sub(k.now) > time.Second {
		t.Errorf("the next look is after %v, %v", at.Sub(k.now), ok)
	}
	k.want("free", k.after(at.Sub(k.now)), "set "+rps)
}

// The loop begins, tells that it is ready, beats for the watchdog, and ends
// without touching anything.
func TestLoopRun(t *testing.T) {
	k := newKeep(t, map[string]string{rps: "2"})
	k.Now = time.Now
	ctx, stop := context.WithCancel(context.Background())
	ready, beats, shown := make(chan struct{}), make(chan struct{}, 100), make(chan Report, 100)
	k.Ready = func() { close(ready) }
	k.Alive, k.AliveEvery = func() { beats <- struct{}{} }, 10*time.Millisecond
	k.Show = func(r Report) error { shown <- r; return nil }
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	for range 3 {
		select {
		case <-beats:
		case <-time.After(5 * time.Second):
			t.Fatal("no beat")
		}
	}
	<-ready
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := k.read(rps); got != "2" {
		t.Errorf("%s is %q after the end", rps, got)
	}
	close(shown)
	var last Report
	for r := range shown {
		last = r
	}
	if !last.Ended || last.Restorations != 1 {
		t.Errorf("last state: %+v", last)
	}
}

func TestLoopEndsWithItsEvents(t *testing.T) {
	k := newKeep(t, map[string]string{rps: "2"})
	k.Now = time.Now
	ready := make(chan struct{}, 1)
	ready <- struct{}{}
	k.Events.Ready = ready
	k.Events.Failed = func() error { return errors.New("socket gone") }
	if err := k.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "socket gone") {
		t.Errorf("ended with %v", err)
	}
}

// What a guard leaves half done that is killed at a write, the next one undoes and
// does again; so it does with what a boot unit leaves beside it.
func TestLoopRecovers(t *testing.T) {
	k := newKeep(t, map[string]string{rps: "2", irq: "3"})
	k.Applier.Unattended = true
	write := k.Applier.Writer.WriteFile
	killed := func(do func()) {
		t.Helper()
		defer func() {
			k.Applier.Writer.WriteFile = write
			if recover() == nil {
				t.Error("it was not killed")
			}
		}()
		k.Applier.Writer.WriteFile = func(string, []byte) error { panic("killed by the watchdog") }
		do()
	}
	killed(func() { k.after(0) })
	k.keeper, k.recovered = NewKeeper(k.now), false
	k.want("another guard", k.after(time.Minute), "failed ", "set "+irq, "set "+rps)

	k.wanted[budget] = "600"
	killed(func() {
		_, _ = k.Applier.Apply(context.Background(), some(k.plan(), k.plan().Changes), apply.Options{})
	})
	k.wanted[flushes] = "20000"
	var told []string
	for range 3 {
		told = append(told, k.after(time.Second)...)
	}
	k.want("beside a killed unit", told, "failed ", "set "+flushes, "set "+budget)
	if open, err := k.Applier.Unfinished(); err != nil || len(open) > 0 {
		t.Errorf("unfinished: %+v, %v", open, err)
	}
}

// A write that takes long is no reason to end the guard, one that never ends is.
func TestLoopBeatsWhileWriting(t *testing.T) {
	beats := make(chan struct{}, 1000)
	l := &Loop{Alive: func() { beats <- struct{}{} }, AliveEvery: time.Millisecond}
	progress, stop := l.beat(time.Hour)
	for range 3 {
		<-beats
	}
	progress()
	<-beats
	stop()
	_, stop = l.beat(0)
	defer stop()
	time.Sleep(10 * time.Millisecond)
	for len(beats) > 0 {
		<-beats
	}
	time.Sleep(20 * time.Millisecond)
	if n := len(beats); n > 0 {
		t.Errorf("%d beats for a write that hangs", n)
	}
}

// beside runs an irqbalance beside the guard.
func (k *keep) beside() {
	k.Owners = func() ([]owner.Owner, error) {
		return []owner.Owner{{Name: "irqbalance", Habit: owner.Always, When: "in each round", Claims: []owner.Claim{{Kind: "irq.affinity"}}, Exceptions: banned}}, nil
	}
	k.m.RunIrqbalance(3, 7)
}

const banned = "irqbalance.banned"

// number is the interrupt of a queue.
func (k *keep) number(text string) string {
	k.t.Helper()
	r := ref(k.t, text)
	n, err := k.m.View().IRQ(r.Dev, r.Tx, r.Queue)
	if err != nil {
		k.t.Fatal(err)
	}
	return fmt.Sprint(n)
}

// irqbalance is told of the interrupts that are kept: at the beginning, of those
// that come later, and again when it began anew and moved one of them.
func TestLoopTellsIrqbalance(t *testing.T) {
	const second = "eth0/rx-0/irq.affinity"
	k := newKeep(t, map[string]string{irq: "3"})
	k.beside()
	before := k.m.Dump()
	told := func(what string, irqs ...string) {
		t.Helper()
		if got, want := k.read(banned), "3,7,"+strings.Join(irqs, ","); got != want {
			t.Errorf("%s: irqbalance leaves %s alone, want %s", what, got, want)
		}
	}
	k.want("first", k.after(0), "set "+irq, "set "+banned)
	told("first", k.number(irq))
	k.wanted[second] = "2"
	k.want("a late one", k.after(time.Hour), "set "+second, "set "+banned)
	told("a late one", k.number(second), k.number(irq))
	for range 3 {
		k.now = k.now.Add(2 * memory)
		k.m.RunIrqbalance(3, 7)
		k.write(irq, "1")
		var all []string
		for range 3 {
			all = append(all, k.after(time.Second)...)
		}
		slices.Sort(all)
		k.want("begun anew", all, "restored "+irq, "restored "+banned)
		told("begun anew", k.number(second), k.number(irq))
	}
	if all, err := k.Applier.Status(); err != nil || len(all) != 2 {
		t.Errorf("transactions: %+v, %v", all, err)
	}
	for range 2 {
		if result, err := k.Applier.Rollback(context.Background(), ""); err != nil || result.State != apply.RolledBack {
			t.Fatalf("%+v, %v", result, err)
		}
	}
	if diff := cmp.Diff(before, k.m.Dump()); diff != "" {
		t.Errorf("rolled back (-before +after)\n%s", diff)
	}
}

// An irqbalance that cannot be told is told of once, and keeps nothing from being
// set; one that writes all the same has its way, and is told nothing more.
func TestLoopBesideDeafIrqbalance(t *testing.T) {
	k := newKeep(t, map[string]string{irq: "3"})
	k.beside()
	k.m.StopIrqbalance()
	k.want("first", k.after(0), "failed ", "set "+irq)
	for i, want := range [][]string{{"restored " + irq}, {"left " + irq}, nil} {
		k.now = k.now.Add(time.Hour)
		k.write(irq, fmt.Sprint(i%2+1))
		var all []string
		for range 3 {
			all = append(all, k.after(time.Second)...)
		}
		k.want(fmt.Sprint("write ", i), all, want...)
	}
	k.m.RunIrqbalance(3, 7)
	k.after(time.Hour)
	if got := k.read(banned); got != "3,7" {
		t.Errorf("irqbalance is told of what is left to it: %s", got)
	}
}
