package probes

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/probes/counters"
)

func TestOpenRefusesOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"unknown probe":  {Probes: []string{"sofirq"}},
		"sampling":       {SampleOneIn: 3},
		"packets":        {PacketsPerJiffy: -1},
		"ticks":          {HZ: -1},
		"sampling range": {SampleOneIn: 8192},
	} {
		if s, err := Open(o); err == nil {
			t.Errorf("%s: no error", name)
			_ = s.Close()
		}
	}
	if _, err := Open(Options{Probes: []string{"sofirq"}}); !errors.Is(err, ErrUnknownProbe) {
		t.Errorf("error %v does not wrap ErrUnknownProbe", err)
	}
}

func TestUsecsToJiffies(t *testing.T) {
	for _, tt := range []struct {
		usecs, hz int
		want      uint32
	}{
		{2000, 1000, 2}, {8000, 250, 2}, {20000, 100, 2}, {8001, 250, 3},
		{2000, 250, 1}, {1, 1000, 1}, {0, 250, 0}, {-5, 250, 0},
		{20000, 250, 5}, {20000, 300, 6}, {20001, 300, 7}, {6666, 300, 2}, {20000, 1000, 20},
		{math.MaxInt32, 1000, 2_147_484}, {9999, 100, 1}, {10001, 100, 2},
	} {
		if got := usecsToJiffies(tt.usecs, tt.hz); got != tt.want {
			t.Errorf("%d µs at HZ=%d = %d jiffies, want %d", tt.usecs, tt.hz, got, tt.want)
		}
	}
}

func TestClassify(t *testing.T) {
	refused := fmt.Errorf("load: %w", unix.EPERM)
	verifier := &ebpf.VerifierError{Cause: unix.EACCES, Log: []string{"0: (b7) r0 = 0", "R1 type=scalar expected=ptr", "processed 3 insns"}}
	if got := classify(fmt.Errorf("load: %w", ebpf.ErrNotSupported)); got.state != counters.Unsupported {
		t.Errorf("not supported = %v", got)
	}
	got := classify(fmt.Errorf("load: %w", verifier))
	if want := "permission denied (verifier: R1 type=scalar expected=ptr)"; got.state != counters.Failed || got.reason != want {
		t.Errorf("verifier = %+v, want reason %q", got, want)
	}
	for name, tt := range map[string]struct {
		p          privileges
		state      counters.State
		capability string
	}{
		"nothing":        {privileges{}, counters.Denied, "CAP_BPF and CAP_PERFMON"},
		"bpf":            {privileges{bpf: true}, counters.Denied, "CAP_PERFMON"},
		"perfmon":        {privileges{perfmon: true}, counters.Denied, "CAP_BPF"},
		"both":           {privileges{bpf: true, perfmon: true}, counters.Unsupported, ""},
		"admin":          {privileges{admin: true}, counters.Unsupported, ""},
		"user namespace": {privileges{admin: true, nested: true}, counters.Denied, "CAP_BPF and CAP_PERFMON in the initial user namespace"},
		// Before 5.8 there is CAP_SYS_ADMIN only.
		"old and nothing":        {privileges{adminOnly: true}, counters.Denied, "CAP_SYS_ADMIN"},
		"old and admin":          {privileges{adminOnly: true, admin: true}, counters.Unsupported, ""},
		"old and user namespace": {privileges{adminOnly: true, admin: true, nested: true}, counters.Denied, "CAP_SYS_ADMIN in the initial user namespace"},
		"memory":                 {privileges{admin: true, memlock: true}, counters.Denied, "CAP_SYS_RESOURCE"},
		"nothing, so no memory":  {privileges{memlock: true}, counters.Denied, "CAP_BPF and CAP_PERFMON"},
	} {
		if got := denial(refused, tt.p); got.state != tt.state || got.capability != tt.capability {
			t.Errorf("%s = %+v, want %s %q", name, got, tt.state, tt.capability)
		}
	}
}

// TestWithoutStats: the reason is what would help, and not an error number.
func TestWithoutStats(t *testing.T) {
	for want, err := range map[string]error{
		"BPF statistics need CAP_SYS_ADMIN":   fmt.Errorf("bpf: %w", unix.EPERM),
		"BPF statistics need Linux 5.8":       fmt.Errorf("bpf: %w", unix.EINVAL),
		"BPF statistics: too many open files": unix.EMFILE,
	} {
		if got := withoutStats(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

// TestTables: every name in one table is in the other, and every probe can be
// explained.
func TestTables(t *testing.T) {
	hooks := map[string]bool{}
	used := map[string]bool{}
	for _, d := range objectTable() {
		spec, err := d.load()
		if err != nil {
			t.Fatal(err)
		}
		programs := map[string]bool{}
		for _, h := range d.hooks {
			hooks[d.name+"/"+h.name] = true
			for _, r := range h.rungs {
				if spec.Programs[r.program] == nil {
					t.Errorf("object %s has no program %s", d.name, r.program)
				}
				programs[r.program] = true
			}
		}
		for name := range spec.Programs {
			if !programs[name] {
				t.Errorf("program %s of object %s is on no rung", name, d.name)
			}
		}
	}
	for _, p := range probeTable() {
		if len(p.doc) < 80 {
			t.Errorf("probe %s is not explained: %q", p.name, p.doc)
		}
		for _, h := range slices.Concat(p.needs, p.uses) {
			used[p.object+"/"+h] = true
		}
	}
	if diff := cmp.Diff(hooks, used); diff != "" {
		t.Errorf("hooks declared (-) and used by probes (+):\n%s", diff)
	}
}

// TestAttachOrder: with the raise attached before the entry, a raise in between
// stayed pending, and the next softirq, 180 ms later, seemed to have waited for
// as long (seen on 6.12 under emulation, where attaching takes milliseconds).
func TestAttachOrder(t *testing.T) {
	var order []string
	for _, h := range objectTable()[0].hooks {
		order = append(order, h.name)
	}
	raise, entry := slices.Index(order, "softirq_raise"), slices.Index(order, "softirq_entry")
	if entry < 0 || raise < entry {
		t.Errorf("hooks are attached in the order %q, want softirq_raise after softirq_entry", order)
	}
	for _, inRun := range []string{"napi_poll", "softirq_exit"} {
		if at := slices.Index(order, inRun); at < 0 || at > entry {
			t.Errorf("hooks are attached in the order %q, want %s before softirq_entry", order, inRun)
		}
	}
}

func TestChosenIRQs(t *testing.T) {
	many := make([]int, 600)
	for i := range many {
		many[i] = i
	}
	for _, tt := range []struct {
		asked        []int
		chosen, left int
	}{{[]int{9, -1, 4, 9, 1 << 20}, 2, 2}, {many, maxIRQs, 600 - maxIRQs}, {nil, 0, 0}} {
		chosen, left := chosenIRQs(tt.asked)
		if len(chosen) != tt.chosen || left != tt.left || !slices.IsSorted(chosen) {
			t.Errorf("of %v chosen are %v, left out %d, want %d and %d", tt.asked, chosen, left, tt.chosen, tt.left)
		}
	}
}

// TestUncountedIRQs: lines that are left out are no silent ones.
func TestUncountedIRQs(t *testing.T) {
	for uncounted, want := range map[int]string{0: "", 88: "88 interrupt lines are not counted"} {
		s := &Session{uncounted: uncounted}
		if got := joinNotes(s.notes("irq")...); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%d lines left out: note %q, want %q", uncounted, got, want)
		}
	}
}

// TestWaitingSockets: the table grows with the CPUs, and Open loads it so.
func TestWaitingSockets(t *testing.T) {
	for cpus, want := range map[int]uint32{1: 4096, 16: 4096, 17: 4352, 256: 65536} {
		if got := waitingSockets(cpus); got != want {
			t.Errorf("%d CPUs: %d sockets, want %d", cpus, got, want)
		}
	}
	spec, err := loadLatency()
	if err != nil {
		t.Fatal(err)
	}
	spec.Maps["waiting"].MaxEntries = 1
	if err := new(Session).tune(spec); err != nil {
		t.Fatal(err)
	}
	if got := spec.Maps["waiting"].MaxEntries; got != waitingSockets(ebpf.MustPossibleCPU()) {
		t.Errorf("a table of %d sockets", got)
	}
}

// TestAssumedLimits: without the sysctls the causes rest on defaults, and the
// status of the probe says so.
func TestAssumedLimits(t *testing.T) {
	for _, tt := range []struct {
		name    string
		budget  limits
		noted   bool
		refused bool
	}{
		{name: "read", budget: limits{packets: 300, jiffies: 2}},
		{name: "assumed", budget: limits{packets: 300, jiffies: 2, assumed: true}, noted: true},
		{name: "assumed and refused", budget: limits{assumed: true}, refused: true},
	} {
		core := &object{refusals: map[string]refusal{}}
		for _, h := range []string{"softirq_entry", "softirq_exit", "napi_poll"} {
			core.programs = append(core.programs, &program{hook: h})
		}
		if tt.refused {
			core.refusals["napi_poll"] = refusal{state: counters.Denied, reason: "refused"}
		}
		s := &Session{options: Options{Probes: []string{"budget"}}, objects: map[string]*object{"core": core}, budget: tt.budget}
		for _, st := range s.judge() {
			if noted := strings.Contains(st.Reason, "netdev_budget"); noted != (tt.noted && st.Name == "budget") {
				t.Errorf("%s: reason of %s is %q", tt.name, st.Name, st.Reason)
			}
		}
	}
}
