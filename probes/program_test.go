package probes

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/probes/counters"
)

// rig runs raw tracepoint programs by hand, on one CPU and attached to
// nothing, so that only the test's events are counted.
type rig struct {
	*object
	programs map[string]*ebpf.Program
	cpu      int
}

func newRig(t *testing.T, o Options, change ...func(*ebpf.CollectionSpec) error) *rig {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	var previous, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &previous); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.SchedSetaffinity(0, &previous) })
	set.Set(lastCPU())
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s := &Session{options: o, irqs: []int{7}}
	s.budget = limits{packets: 300, jiffies: 2}
	spec, err := loadCore()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.tune(spec); err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		if err := c(spec); err != nil {
			t.Fatal(err)
		}
	}
	created, err := createMaps(spec)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{object: &object{maps: created, spec: spec}, programs: map[string]*ebpf.Program{}, cpu: lastCPU()}
	l := loader{spec: spec, maps: created, cache: btf.NewCache()}
	for _, name := range []string{"raw_softirq_raise", "raw_softirq_entry", "raw_softirq_exit", "bare_napi_poll", "bare_irq_entry", "raw_irq_exit"} {
		p, err := l.load(name)
		if err != nil {
			t.Fatalf("load %s: %v", name, err)
		}
		r.programs[name] = p
	}
	t.Cleanup(r.free)
	return r
}

func (r *rig) free() {
	for _, p := range r.programs {
		_ = p.Close()
	}
	for _, m := range r.maps {
		_ = m.Close()
	}
}

func (r *rig) event(t *testing.T, program string, arguments ...uint64) {
	t.Helper()
	if _, err := r.programs[program].Run(&ebpf.RunOptions{Context: arguments}); err != nil {
		t.Fatalf("run %s: %v", program, err)
	}
}

func (r *rig) cpuRow(t *testing.T) counters.CPU {
	t.Helper()
	var states []coreCpuState
	if err := r.maps["cpu_states"].Lookup(uint32(0), &states); err != nil {
		t.Fatal(err)
	}
	row, _ := cpuRow(r.cpu, &states[r.cpu])
	return row
}

const (
	vectorTimer = 1
	vectorRx    = 3
)

// TestBuckets holds log2 of the programs against that of package counters.
func TestBuckets(t *testing.T) {
	if n := len(coreCpuState{}.RaiseToEntry[0].Bucket); n != counters.TimeBuckets {
		t.Errorf("the programs have %d buckets for times, package counters %d", n, counters.TimeBuckets)
	}
	r := newRig(t, Options{})
	want := make([]uint64, 10)
	for _, work := range []uint64{0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 65, 127, 128, 255, 256, 300, 1 << 20} {
		r.event(t, "raw_softirq_entry", vectorRx)
		r.event(t, "bare_napi_poll", 0xffff888000001000, work, 64)
		r.event(t, "raw_softirq_exit", vectorRx)
		want[min(counters.Bucket(work), len(want)-1)]++
	}
	counted := r.napi(t)
	got := counted.WorkPerPoll[:]
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("buckets (-Go +program):\n%s", diff)
	}
}

// poll is one poll of a replayed run, after a while of sleep.
type poll struct {
	work, budget uint64
	sleep        time.Duration
}

const (
	// longSleep is more than two ticks at HZ=100, the longest that Linux has.
	longSleep = 30 * time.Millisecond
	// undisturbed is how often a run is tried that the test's own CPU must not
	// be taken away from for two ticks.
	undisturbed = 20
)

// replay sends one run of net_rx_action event by event; before the end of it
// the kernel's count of squeezes, or what stands in for it, grows.
func (r *rig) replay(t *testing.T, polls []poll, squeezes uint32, sleep time.Duration) {
	t.Helper()
	r.event(t, "raw_softirq_entry", vectorRx)
	for _, p := range polls {
		time.Sleep(p.sleep)
		r.event(t, "bare_napi_poll", 0xffff888000002000, p.work, p.budget)
	}
	if squeezes > 0 {
		r.squeeze(t, squeezes)
	}
	time.Sleep(sleep)
	r.event(t, "raw_softirq_exit", vectorRx)
}

// TestBudgetProgram replays runs where the kernel's own counter is not known.
func TestBudgetProgram(t *testing.T) {
	full := poll{work: 64, budget: 64}
	tests := []struct {
		name  string
		polls []poll
		want  counters.Budget
	}{
		{"no poll", nil, counters.Budget{Runs: 1}},
		{"one short below", []poll{full, full, full, full, {work: 43, budget: 64}},
			counters.Budget{Runs: 1, Polls: 5, Work: 299, Full: 4}},
		{"exactly the budget", []poll{full, full, full, full, {work: 44, budget: 64}},
			counters.Budget{Runs: 1, Polls: 5, Work: 300, Full: 4, SqueezedPackets: 1}},
		{"slow", []poll{{work: 1, budget: 64, sleep: longSleep}},
			counters.Budget{Runs: 1, Polls: 1, Work: 1, SqueezedTime: 1}},
		{"slow and much", []poll{{work: 300, budget: 300, sleep: longSleep}},
			counters.Budget{Runs: 1, Polls: 1, Work: 300, Full: 1, SqueezedBoth: 1}},
		{"netpoll is no part of it", []poll{{work: 0, budget: 0}, {work: 5, budget: 64}},
			counters.Budget{Runs: 1, Polls: 1, Work: 5}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.InferredRuns = 1
			r := newRig(t, Options{})
			for range undisturbed {
				r.reset(t)
				r.replay(t, tt.polls, 0, 0)
				got := r.budget(t)
				if tt.want.SqueezedTime+tt.want.SqueezedBoth == 0 && got.SqueezedTime+got.SqueezedBoth > 0 {
					continue // taken off its CPU for two ticks in the middle of the run
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("budget (-want +got):\n%s", diff)
				}
				return
			}
			t.Errorf("slow in %d attempts", undisturbed)
		})
	}
}

// TestKernelCounterProgram replays runs beside a counter of ours that stands
// in for the kernel's: whether a run was squeezed is never inferred then, and
// how often neither.
func TestKernelCounterProgram(t *testing.T) {
	full := poll{work: 64, budget: 64}
	much := []poll{full, full, full, full, full}
	little := []poll{{work: 1, budget: 64}}
	tests := []struct {
		name     string
		polls    []poll
		squeezes uint32
		sleep    time.Duration // between the last poll and the end of the run
		want     counters.Budget
	}{
		{name: "much, and not squeezed", polls: much, want: counters.Budget{}},
		{name: "packets", polls: much, squeezes: 1, want: counters.Budget{SqueezedPackets: 1}},
		{name: "time", polls: []poll{{work: 1, budget: 64, sleep: longSleep}}, squeezes: 1,
			want: counters.Budget{SqueezedTime: 1}},
		{name: "long, and not squeezed", polls: []poll{{work: 1, budget: 64, sleep: longSleep}},
			want: counters.Budget{}},
		{name: "taken away after the last poll", polls: little, squeezes: 1, sleep: longSleep,
			want: counters.Budget{SqueezedTime: 1}},
		{name: "taken away after the test", polls: much, squeezes: 1, sleep: longSleep,
			want: counters.Budget{SqueezedPackets: 1}},
		{name: "both", polls: []poll{{work: 300, budget: 300, sleep: longSleep}}, squeezes: 1,
			want: counters.Budget{SqueezedBoth: 1}},
		{name: "no limit exceeded", polls: little, squeezes: 1, want: counters.Budget{SqueezedUnexplained: 1}},
		{name: "another run was not seen", polls: much, squeezes: 3,
			want: counters.Budget{SqueezedPackets: 1, SqueezedUnexplained: 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, Options{}, counterInScratch)
			for range undisturbed {
				r.reset(t)
				r.replay(t, little, 0, 0) // the count to start from is read by the first entry
				before := r.budget(t)
				r.replay(t, tt.polls, tt.squeezes, tt.sleep)
				got := r.budget(t)
				if n := got.Squeezes() - before.Squeezes(); n != uint64(tt.squeezes) || got.InferredRuns != 0 {
					t.Fatalf("%d squeezes and %d inferred runs, want %d and 0", n, got.InferredRuns, tt.squeezes)
				}
				fast := tt.want.SqueezedTime+tt.want.SqueezedBoth == 0
				if fast && got.SqueezedTime+got.SqueezedBoth > 0 {
					continue // taken off its CPU for two ticks in the middle of the run
				}
				tt.want.Runs, tt.want.Polls, tt.want.Work, tt.want.Full = got.Runs, got.Polls, got.Work, got.Full
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("budget (-want +got):\n%s", diff)
				}
				return
			}
			t.Errorf("slow in %d attempts", undisturbed)
		})
	}
}

// TestKernelCounterGone: where the kernel's own counter cannot be read any more
// nothing was squeezed, least of all as often as it had counted before.
func TestKernelCounterGone(t *testing.T) {
	r := newRig(t, Options{}, counterInScratch)
	little := []poll{{work: 1, budget: 64}}
	r.squeeze(t, 7)
	r.replay(t, little, 0, 0)
	for range undisturbed {
		r.event(t, "raw_softirq_entry", vectorRx)
		r.event(t, "bare_napi_poll", 0xffff888000002000, 1, 64)
		r.change(t, func(s *coreCpuState) { s.Softnet = 4096 }) // no kernel keeps anything there
		r.event(t, "raw_softirq_exit", vectorRx)
	}
	got := r.budget(t)
	if got.Squeezes() != 0 || got.Runs != undisturbed+1 || got.InferredRuns == 0 {
		t.Errorf("%+v, want %d runs, no squeeze, and runs that are inferred", got, undisturbed+1)
	}
}

// counterInScratch lets the programs find softnet_data.time_squeeze in a spare
// field of their own state.
func counterInScratch(spec *ebpf.CollectionSpec) error {
	types, err := btf.LoadKernelSpec()
	if err != nil {
		return err
	}
	var softnet *btf.Struct
	if err := types.TypeByName("softnet_data", &softnet); err != nil {
		return err
	}
	i := slices.IndexFunc(softnet.Members, func(m btf.Member) bool { return m.Name == "time_squeeze" })
	if i < 0 {
		return fmt.Errorf("softnet_data has no time_squeeze: %w", btf.ErrNotFound)
	}
	distance := uint64(unsafe.Offsetof(coreCpuState{}.Pad0)) - uint64(softnet.Members[i].Offset.Bytes())
	return spec.Variables["softnet_distance"].Set(distance)
}

// change rewrites this CPU's state; nothing is attached, so nobody else does.
func (r *rig) change(t *testing.T, do func(*coreCpuState)) {
	t.Helper()
	var states []coreCpuState
	if err := r.maps["cpu_states"].Lookup(uint32(0), &states); err != nil {
		t.Fatal(err)
	}
	do(&states[r.cpu])
	if err := r.maps["cpu_states"].Put(uint32(0), states); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) reset(t *testing.T) {
	t.Helper()
	r.change(t, func(s *coreCpuState) { *s = coreCpuState{} })
	m := r.maps["napi_slots"]
	for slot := range m.MaxEntries() {
		var rows []coreNapiSlot
		if err := m.Lookup(slot, &rows); err != nil {
			t.Fatal(err)
		}
		if rows[r.cpu].Napi == 0 {
			continue
		}
		clear(rows)
		if err := m.Put(slot, rows); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *rig) squeeze(t *testing.T, n uint32) {
	t.Helper()
	r.change(t, func(s *coreCpuState) { s.Pad0 += n })
}

// budget is what was counted, without histograms.
func (r *rig) budget(t *testing.T) counters.Budget {
	t.Helper()
	b := r.cpuRow(t).Budget
	b.MaxPolls, b.PollsPerRun, b.WorkPerRun = 0, nil, counters.Hist{}
	return b
}

// TestOutsideProgram: polls before any softirq was seen may belong to one that
// was under way, later ones are busy polling.
func TestOutsideProgram(t *testing.T) {
	r := newRig(t, Options{})
	r.event(t, "bare_napi_poll", 0xffff888000003000, 8, 8)
	if got := r.cpuRow(t).Outside; got != (counters.Outside{}) {
		t.Errorf("before the first softirq: %+v, want nothing", got)
	}
	r.event(t, "raw_softirq_exit", vectorRx) // of a run whose entry was not seen
	r.event(t, "raw_softirq_entry", vectorRx)
	r.event(t, "raw_softirq_exit", vectorRx)
	r.event(t, "bare_napi_poll", 0xffff888000003000, 8, 8)
	r.event(t, "bare_napi_poll", 0xffff888000003000, 3, 0)
	want := counters.Outside{BusyPolls: 1, BusyWork: 8, NetpollPolls: 1, NetpollWork: 3}
	if diff := cmp.Diff(want, r.cpuRow(t).Outside); diff != "" {
		t.Errorf("outside (-want +got):\n%s", diff)
	}
}

// TestDetachingProgram: from the moment when user space says that it will
// detach, no run is judged by a part of its polls, and no poll of a softirq
// whose entry is gone already is taken for busy polling.
func TestDetachingProgram(t *testing.T) {
	r := newRig(t, Options{})
	r.replay(t, []poll{{work: 1, budget: 64}}, 0, 0)
	before := r.cpuRow(t)
	r.event(t, "raw_softirq_entry", vectorRx)
	r.event(t, "bare_napi_poll", 0xffff888000003000, 64, 64)
	if err := r.setVariable("counting", 0); err != nil {
		t.Fatal(err)
	}
	r.event(t, "bare_napi_poll", 0xffff888000003000, 300, 64) // judged, this would be a squeeze
	r.event(t, "raw_softirq_exit", vectorRx)
	// softirq_entry is the first program to go.
	r.event(t, "bare_napi_poll", 0xffff888000003000, 64, 64)
	r.event(t, "raw_softirq_exit", vectorRx)
	after := r.cpuRow(t)
	if diff := cmp.Diff(before.Budget, after.Budget); diff != "" {
		t.Errorf("judged while detaching (-before +after):\n%s", diff)
	}
	if after.Outside != (counters.Outside{}) {
		t.Errorf("polls of a softirq were taken for %+v", after.Outside)
	}
	if err := r.setVariable("counting", 1); err != nil {
		t.Fatal(err)
	}
	r.replay(t, []poll{{work: 1, budget: 64}}, 0, 0)
	if got := r.cpuRow(t).Budget.Runs; got != before.Budget.Runs+1 {
		t.Errorf("%d runs after counting was switched on again, want %d", got, before.Budget.Runs+1)
	}
}

// closing tells when a link is closed.
type closing struct {
	link.Link
	told func()
}

func (c closing) Close() error {
	c.told()
	return c.Link.Close()
}

// TestPauseOrder: counting stops before the first program goes, and starts
// before the first comes back.
func TestPauseOrder(t *testing.T) {
	needRoot(t)
	s := openSession(t, Options{})
	requireAttached(t, s, "budget")
	core := s.objects["core"]
	closed := 0
	for _, p := range core.programs {
		p.link = closing{Link: p.link, told: func() {
			closed++
			if counting, known := core.variable("counting"); !known || counting != 0 {
				t.Errorf("%s is detached while runs are being judged", p.hook)
			}
		}}
	}
	if err := s.pause(); err != nil {
		t.Fatal(err)
	}
	if closed != len(core.programs) {
		t.Errorf("%d of %d programs detached", closed, len(core.programs))
	}
	if err := s.resume(); err != nil {
		t.Fatal(err)
	}
	if counting, _ := core.variable("counting"); counting != 1 {
		t.Error("nothing is counted after the pause")
	}
}

// TestLongPollProgram: a poll that lost its CPU is counted apart, and adds
// nothing to the time that the others took.
func TestLongPollProgram(t *testing.T) {
	r := newRig(t, Options{SampleOneIn: 1})
	const short = 5
	for attempt := 0; ; attempt++ {
		r.reset(t)
		for range short {
			r.replay(t, []poll{{work: 1, budget: 64}}, 0, 0)
		}
		r.replay(t, []poll{{work: 1, budget: 64, sleep: longSleep}}, 0, 0)
		n := r.napi(t)
		if n.Polls != short+1 || n.TimedWeight+n.LongWeight != short+1 {
			t.Fatalf("%d polls, %d timed and %d long, want %d", n.Polls, n.TimedWeight, n.LongWeight, short+1)
		}
		if n.LongWeight == 1 {
			if n.LongNs < uint64(longSleep) || n.TimeNs == 0 || n.TimeNs > short*uint64(10*time.Millisecond) {
				t.Errorf("%d ns of a poll of %v, %d ns of %d short ones", n.LongNs, longSleep, n.TimeNs, short)
			}
			return
		}
		if attempt == undisturbed {
			t.Fatalf("%d of %d polls were long in each of %d attempts, want 1", n.LongWeight, n.Polls, undisturbed)
		}
	}
}

// TestLongPollByBudget: a backlog that may take 16 times as many packets in a
// poll (net.core.dev_weight) may take as much longer.
func TestLongPollByBudget(t *testing.T) {
	r := newRig(t, Options{SampleOneIn: 1})
	for attempt := 0; ; attempt++ {
		r.reset(t)
		r.replay(t, []poll{{work: 1000, budget: 16 * 64, sleep: longSleep}}, 0, 0)
		n := r.napi(t)
		if n.LongWeight == 0 {
			if n.TimedWeight != 1 || n.TimeNs < uint64(longSleep) {
				t.Errorf("%d ns of %d timed polls, want one of %v", n.TimeNs, n.TimedWeight, longSleep)
			}
			return
		}
		if attempt == undisturbed {
			t.Fatalf("a poll of 1000 packets and %v was long in each of %d attempts", longSleep, undisturbed)
		}
	}
}

// napi is the one NAPI that was polled.
func (r *rig) napi(t *testing.T) coreNapiSlot {
	t.Helper()
	m := r.maps["napi_slots"]
	for slot := range m.MaxEntries() {
		var rows []coreNapiSlot
		if err := m.Lookup(slot, &rows); err != nil {
			t.Fatal(err)
		}
		if rows[r.cpu].Napi != 0 {
			return rows[r.cpu]
		}
	}
	t.Fatal("no NAPI was seen")
	return coreNapiSlot{}
}

// TestSampling: sampled sums stand for all events.
func TestSampling(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    Options
		low  float64
		high float64
	}{
		{"every event", Options{SampleOneIn: 1, ExactPerJiffy: -1}, 1, 1},
		{"one in 16", Options{ExactPerJiffy: -1}, 0.8, 1.2},
		{"default", Options{}, 0.8, 1.2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.o)
			const runs = 20_000
			for range runs {
				r.event(t, "raw_softirq_entry", vectorTimer)
				r.event(t, "raw_softirq_exit", vectorTimer)
			}
			got := r.cpuRow(t).Softirq["TIMER"]
			share := float64(got.TimedRuns) / runs
			if got.Runs != runs || share < tt.low || share > tt.high {
				t.Errorf("%d runs, timed ones stand for %d, want %d", got.Runs, got.TimedRuns, runs)
			}
		})
	}
}

// TestRaiseProgram: the first raise counts, and a raise is used up by its run.
func TestRaiseProgram(t *testing.T) {
	r := newRig(t, Options{SampleOneIn: 1})
	r.event(t, "raw_softirq_raise", vectorRx)
	time.Sleep(3 * time.Millisecond)
	r.event(t, "raw_softirq_raise", vectorRx) // still pending
	r.event(t, "raw_softirq_entry", vectorRx)
	r.event(t, "raw_softirq_exit", vectorRx)
	r.event(t, "raw_softirq_entry", vectorRx) // nobody raised this one
	r.event(t, "raw_softirq_exit", vectorRx)
	rx := r.cpuRow(t).Rx
	if rx.RaiseToEntryNs.Count() != 1 || rx.RaiseToEntryNs.Sum < 3_000_000 || rx.Unraised != 1 || rx.RunNs.Count() != 2 {
		t.Errorf("rx = %+v, want one wait of 3 ms, one unraised run, two run times", rx)
	}
}

// TestIRQProgram counts one line of two.
func TestIRQProgram(t *testing.T) {
	r := newRig(t, Options{SampleOneIn: 1})
	for _, irq := range []uint64{7, 3, 7, 1 << 30} {
		r.event(t, "bare_irq_entry", irq, 0)
		r.event(t, "raw_irq_exit", irq, 0, irq&1&^(irq>>1)) // 7 and 3 answer IRQ_NONE
	}
	var rows []coreIrqSlot
	if err := r.maps["irq_slots"].Lookup(uint32(0), &rows); err != nil {
		t.Fatal(err)
	}
	got := rows[r.cpu]
	if got.Count != 2 || got.Unhandled != 2 || got.TimedWeight != 2 {
		t.Errorf("line 7: %d runs, %d refused, %d timed, want 2 of each", got.Count, got.Unhandled, got.TimedWeight)
	}
	const handled = 3 * time.Millisecond
	before := got.TimeNs
	r.event(t, "bare_irq_entry", 7, 0)
	time.Sleep(handled)
	r.event(t, "raw_irq_exit", 7, 0, 1)
	if err := r.maps["irq_slots"].Lookup(uint32(0), &rows); err != nil {
		t.Fatal(err)
	}
	if took := rows[r.cpu].TimeNs - before; took < uint64(handled) || took > 100*uint64(handled) {
		t.Errorf("a handler of %v took %d ns", handled, took)
	}
}

// TestNAPITableOverflow: what does not fit is counted, not lost.
func TestNAPITableOverflow(t *testing.T) {
	r := newRig(t, Options{})
	r.event(t, "raw_softirq_entry", vectorRx)
	const napis = 300 // the table has 128 slots
	for i := range uint64(napis) {
		r.event(t, "bare_napi_poll", 0xffff888000000000+i*4096, 1, 64)
	}
	r.event(t, "raw_softirq_exit", vectorRx)
	var kept uint64
	m := r.maps["napi_slots"]
	for slot := range m.MaxEntries() {
		var rows []coreNapiSlot
		if err := m.Lookup(slot, &rows); err != nil {
			t.Fatal(err)
		}
		kept += rows[r.cpu].Polls
	}
	row := r.cpuRow(t)
	if kept+row.NAPIOverflow != napis || kept < 100 || row.Budget.Work != napis {
		t.Errorf("%d polls kept, %d overflowed, work %d of %d", kept, row.NAPIOverflow, row.Budget.Work, napis)
	}
}

// TestWaitingProgram: a wait begins when a socket is first told, and ends when
// it is read; what is left of a socket that was never read is not the wait of
// the next one at its address.
func TestWaitingProgram(t *testing.T) {
	needRoot(t)
	spec, err := loadLatency()
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.Variables["latency_one_in"].Set(uint32(1)); err != nil {
		t.Fatal(err)
	}
	created, err := createMaps(spec)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{object: &object{maps: created, spec: spec}, programs: map[string]*ebpf.Program{}}
	t.Cleanup(r.free)
	l := loader{spec: spec, maps: created, cache: btf.NewCache()}
	for _, name := range []string{"raw_sk_data_ready", "raw_sock_recv"} {
		if r.programs[name], err = l.load(name); err != nil {
			t.Fatal(err)
		}
	}
	const socket, pause = 0xffff888000005000, 3 * time.Millisecond
	tests := []struct {
		name    string
		left    time.Duration // how long ago another socket was told there
		told    int
		samples uint64
	}{
		{name: "told and read", told: 1, samples: 1},
		{name: "told twice", told: 2, samples: 1},
		{name: "read and never told"},
		{name: "another socket was told", left: 2 * time.Second},
		// It may as well be this one, told two seconds ago and again now.
		{name: "another socket was told, then this one", left: 2 * time.Second, told: 1},
		{name: "told and read after that", told: 1, samples: 1},
	}
	for _, tt := range tests {
		var n, ns uint64
		for range undisturbed {
			began := time.Now()
			before := r.waits(t)
			if tt.left > 0 {
				if err := created["waiting"].Put(uint64(socket), monotonicNs()-uint64(tt.left)); err != nil {
					t.Fatal(err)
				}
			}
			for range tt.told {
				r.event(t, "raw_sk_data_ready", socket)
				time.Sleep(pause)
			}
			r.event(t, "raw_sock_recv", socket, 1)
			after := r.waits(t)
			n, ns = after.Count()-before.Count(), after.Sum-before.Sum
			if time.Since(began) < time.Second {
				break // else a wait of this test's may have been too long to count
			}
		}
		low, high := uint64(tt.told)*uint64(pause), uint64(time.Second)
		if n != tt.samples || n > 0 && (ns < low || ns > high) {
			t.Errorf("%s: %d waits of %d ns in all, want %d of %d ns or more", tt.name, n, ns, tt.samples, low)
		}
	}
}

// waits are those of all CPUs: the test's thread may move.
func (r *rig) waits(t *testing.T) counters.Hist {
	t.Helper()
	var states []latencyLatencyState
	if err := r.maps["latency_states"].Lookup(uint32(0), &states); err != nil {
		t.Fatal(err)
	}
	var out counters.Hist
	for _, st := range states {
		out = out.Merge(counters.NewHist(st.SocketToRead.Bucket[:], st.SocketToRead.SumNs))
	}
	return out
}
