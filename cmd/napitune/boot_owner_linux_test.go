package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/host/tree"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles/boot"
)

// besides is a machine in memory on which programs run that write settings, too.
type besides struct {
	t      *testing.T
	memory *hosttest.Memory
	e      env
}

func newBesides(t *testing.T, programs ...string) besides {
	t.Helper()
	samples, err := hosttest.Generate(hosttest.Spec{CPUs: 4, Driver: "ixgbe", QueuesPerNIC: 4, IRQStacked: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range samples {
		files, ok := s.FS.(*tree.Tree)
		if !ok {
			t.Fatalf("files are a %T", s.FS)
		}
		if err := files.WriteFile("proc/self/status", []byte("Name:\tnapitune\nUid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n")); err != nil {
			t.Fatal(err)
		}
	}
	memory, err := hosttest.NewMemory(samples)
	if err != nil {
		t.Fatal(err)
	}
	memory.StopIrqbalance()
	return besides{t, memory, env{
		Open: func(string) (*machine, error) {
			all := memory.Hosts()
			for _, h := range all {
				h.Processes = func() ([]host.Process, error) {
					var out []host.Process
					for i, comm := range programs {
						out = append(out, host.Process{PID: 700 + i, Comm: comm, Args: comm})
					}
					return out, nil
				}
			}
			return &machine{samples: all, live: true}, nil
		},
		Writer: func() (*host.Writer, error) { w := memory.Writer(); return &w, nil },
		Files:  newMemDisk().process(nil),
	}}
}

func (b besides) read(ref string) string {
	b.t.Helper()
	parsed, err := knob.ParseRef(ref)
	if err != nil {
		b.t.Fatal(err)
	}
	kind, _ := knob.Lookup(parsed.Kind)
	return kind.Read(b.memory.View(), parsed).Value
}

// besideProfile asks for what irqbalance writes, what bpftune writes, and what
// neither does. Three of the four interrupts are elsewhere.
const besideProfile = `host: {net.core.netdev_budget: 600}
devices:
  - match: {name: eth0}
    settings: {gro_flush_timeout: 20000, rx-0/irq.affinity: 0, rx-1/irq.affinity: 1, rx-2/irq.affinity: 2}
`

const (
	besideBudget = "net.core.netdev_budget"
	besideFlush  = "eth0/gro_flush_timeout"
	besideFirst  = "eth0/rx-1/irq.affinity"
	besideSecond = "eth0/rx-2/irq.affinity"
	besideBanned = "irqbalance.banned"
)

// A program that writes some settings of the profile keeps no other from being
// set. One that can be told is told; for one that cannot be, each setting is a
// line that says why it is not set.
func TestBootBesideOwners(t *testing.T) {
	t.Parallel()
	balanced := map[string]string{besideBudget: "600", besideFlush: "20000", besideFirst: "1", besideSecond: "2"}
	cases := []struct {
		name     string
		programs []string
		begin    func(*hosttest.Memory)
		code     int
		want     map[string]string
		problems []string
	}{
		{"nobody", nil, nil, exitDone, balanced, nil},
		{"irqbalance", []string{"irqbalance"}, func(m *hosttest.Memory) { m.RunIrqbalance(3, 7) }, exitDone, balanced, nil},
		{"irqbalance just started", []string{"irqbalance"}, func(m *hosttest.Memory) {
			time.AfterFunc(300*time.Millisecond, func() { m.RunIrqbalance(3, 7) })
		}, exitDone, balanced, nil},
		{"irqbalance without a socket", []string{"irqbalance"}, nil, exitError,
			map[string]string{besideBudget: "600", besideFlush: "20000", besideFirst: "0", besideSecond: "0"},
			[]string{
				besideFirst + ": not set because of irqbalance: it cannot be told to leave " + besideFirst + ", " + besideSecond + ": irqbalance.banned: unsupported: irqbalance is not running",
				besideSecond + ": not set because of irqbalance: it cannot be told to leave " + besideFirst + ", " + besideSecond + ": irqbalance.banned: unsupported: irqbalance is not running",
			}},
		{"bpftune", []string{"bpftune"}, nil, exitError,
			map[string]string{besideBudget: "300", besideFlush: "20000", besideFirst: "1", besideSecond: "2"},
			[]string{besideBudget + ": not set because of bpftune: it writes such settings again, when its counters rise, and cannot be told to leave them alone: bpftune -a with a list of tuners that leaves these out, or stop it"}},
		{"nothing but what bpftune writes", []string{"bpftune", "katalyst-agent"}, nil, exitError,
			map[string]string{besideBudget: "300", besideFlush: "20000", besideFirst: "0", besideSecond: "0"},
			[]string{
				besideFirst + ": not set because of katalyst-agent: it writes such settings again, in each round of its interrupt tuner, and cannot be told to leave them alone: disable its irq-tuner",
				besideSecond + ": not set because of katalyst-agent: it writes such settings again, in each round of its interrupt tuner, and cannot be told to leave them alone: disable its irq-tuner",
				besideBudget + ": not set because of bpftune: it writes such settings again, when its counters rise, and cannot be told to leave them alone: bpftune -a with a list of tuners that leaves these out, or stop it",
			}},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBesides(t, test.programs...)
			if test.begin != nil {
				test.begin(b.memory)
			}
			file := bootFile(t, besideProfile)
			code, stdout, stderr := invoke(context.Background(), t, b.e, "boot", file)
			got := map[string]string{}
			for ref := range test.want {
				got[ref] = b.read(ref)
			}
			if diff := cmp.Diff(test.want, got); diff != "" || code != test.code {
				t.Errorf("code %d, (-want +got)\n%s\n%s%s", code, diff, stdout, stderr)
			}
			var problems []string
			for line := range strings.Lines(stderr) {
				problems = append(problems, strings.TrimPrefix(strings.TrimSpace(line), "napitune: "+file+": "))
			}
			if diff := cmp.Diff(test.problems, problems); diff != "" {
				t.Errorf("problems (-want +got)\n%s", diff)
			}
		})
	}
}

// What irqbalance is told is part of the transaction: a rollback tells it back. One
// that began anew has forgotten it, and is told again though everything stands.
func TestBootTellsIrqbalance(t *testing.T) {
	t.Parallel()
	b := newBesides(t, "irqbalance")
	b.memory.RunIrqbalance(3, 7)
	before := b.memory.Dump()
	file := bootFile(t, besideProfile)
	boot := func(want string) {
		t.Helper()
		code, stdout, stderr := invoke(context.Background(), t, b.e, "boot", file)
		if code != exitDone || stderr != "" || !strings.Contains(stdout, want) {
			t.Errorf("code %d: %s%s\nwant %s", code, stdout, stderr, want)
		}
	}
	told := func(refs ...string) {
		t.Helper()
		irqs := []int{3, 7}
		for _, text := range refs {
			ref, err := knob.ParseRef(text)
			if err != nil {
				t.Fatal(err)
			}
			irq, err := b.memory.View().IRQ(ref.Dev, ref.Tx, ref.Queue)
			if err != nil {
				t.Fatal(err)
			}
			irqs = append(irqs, irq)
		}
		slices.Sort(irqs)
		if got, want := b.read(besideBanned), strings.Trim(strings.ReplaceAll(fmt.Sprint(irqs), " ", ","), "[]"); got != want {
			t.Errorf("irqbalance leaves %s alone, want %s", got, want)
		}
	}
	boot("boot profile p: 1 setting stood, 5 set; napitune rollback ")
	told("eth0/rx-0/irq.affinity", "eth0/rx-1/irq.affinity", "eth0/rx-2/irq.affinity", "eth0/rx-3/irq.affinity")
	boot("boot profile p: 5 settings stood, 0 set\n")
	if code, stdout, stderr := invoke(context.Background(), t, b.e, "rollback"); code != exitDone {
		t.Errorf("rollback: %d %s%s", code, stdout, stderr)
	}
	if diff := cmp.Diff(before, b.memory.Dump()); diff != "" {
		t.Errorf("after the rollback (-before +after)\n%s", diff)
	}
	boot("boot profile p: 1 setting stood, 5 set")
	// It listens some moments after it began.
	b.memory.StopIrqbalance()
	time.AfterFunc(300*time.Millisecond, func() { b.memory.RunIrqbalance(3, 7) })
	boot("boot profile p: 5 settings stood, 1 set")
	told("eth0/rx-0/irq.affinity", "eth0/rx-1/irq.affinity", "eth0/rx-2/irq.affinity")
}

// Who installs a profile is told what such programs mean for it, and how
// irqbalance leaves the interrupts alone for good.
func TestInstallNamesOwners(t *testing.T) {
	t.Parallel()
	for program, wants := range map[string][]string{
		"irqbalance": {
			"napitune: irqbalance writes eth0/rx-0/irq.affinity and 2 more as well, in each of its rounds",
			"each boot tells it to leave that alone", "--policyscript=/etc/irqbalance.policy", `case "$1" in */0000:`, "echo ban=true",
		},
		"bpftune": {"napitune: bpftune writes net.core.netdev_budget as well, when its counters rise: no boot sets that while it runs"},
		"other":   nil,
	} {
		b := newBesides(t, program)
		code, _, stderr := invoke(context.Background(), t, b.e, "profile", "install", bootFile(t, besideProfile), "--dry-run", "--no-units")
		if code != exitDone || wants == nil && stderr != "" {
			t.Errorf("%s: code %d, %s", program, code, stderr)
		}
		for _, want := range wants {
			if !strings.Contains(stderr, want) {
				t.Errorf("%s: %s\nwant %s", program, stderr, want)
			}
		}
	}
}

// What a unit or the guard left half done that was killed keeps no later boot from
// setting everything; what a person left does.
func TestBootRecovers(t *testing.T) {
	t.Parallel()
	for _, service := range []bool{true, false} {
		b := newBesides(t)
		file := bootFile(t, besideProfile)
		m, err := b.e.Open("")
		if err != nil {
			t.Fatal(err)
		}
		profile, _, err := readProfile(file)
		if err != nil {
			t.Fatal(err)
		}
		p, _, err := profilePlan(m, profile, boot.Scope{})
		if err != nil {
			t.Fatal(err)
		}
		a, err := applier(b.e, m, options{})
		if err != nil {
			t.Fatal(err)
		}
		a.Unattended, a.Owners = service, nil
		a.Writer.WriteFile = func(string, []byte) error { panic("killed") }
		func() {
			defer func() { _ = recover() }()
			_, _ = a.Apply(context.Background(), p, apply.Options{MaxDisruption: knob.DisruptsLink})
		}()
		code, stdout, stderr := invoke(context.Background(), t, b.e, "boot", file)
		want := exitDone
		if !service {
			want = exitError
		}
		if code != want || service && (b.read(besideBudget) != "600" || !strings.Contains(stdout+stderr, "was cut short and is undone")) {
			t.Errorf("service %v: code %d, %s%s", service, code, stdout, stderr)
		}
	}
}

// The guard tells irqbalance of what a profile sets. Who applied something chose by
// --owner, and what it was told then is a setting of the transaction.
func TestGuardTellsForProfiles(t *testing.T) {
	t.Parallel()
	b := newBesides(t, "irqbalance")
	m, err := b.e.Open("")
	if err != nil {
		t.Fatal(err)
	}
	for _, profile := range []*boot.Profile{nil, {Name: "edge"}} {
		w := &watchman{e: b.e, m: m, profile: profile}
		all, err := w.owners()
		if err != nil || len(all) != 1 || (all[0].Exceptions != "") != (profile != nil) {
			t.Errorf("profile %v: %+v, %v", profile, all, err)
		}
	}
}
