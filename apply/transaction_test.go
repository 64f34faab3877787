package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var background = context.Background()

// refused is what a refusal says, one reason a line.
func refusals(err error) []string {
	var r *Refused
	if !errors.As(err, &r) {
		return nil
	}
	var out []string
	for _, one := range r.Refusals {
		out = append(out, one.Subject+": "+one.Reason)
	}
	return out
}

// What a host does not take is told and left out where that is wanted; all
// else is made, and can be taken back.
func TestLeaveOut(t *testing.T) {
	t.Parallel()
	for _, refusal := range []error{syscall.EINVAL, nil} { // said so, or silently nothing done
		r := newRig(t, small)
		before := r.m.Dump()
		r.gate = func(what string, do func() error) error {
			if strings.Contains(what, "netdev_max_backlog") {
				return refusal
			}
			return do()
		}
		left := map[string]error{}
		result, err := r.process(nil).Apply(background, r.plan("net.core.netdev_budget", "600", "net.core.netdev_max_backlog", "2000", "eth0/rx-0/rps.cpus", "1"),
			Options{MaxDisruption: knob.DisruptsLink, LeaveOut: func(ref knob.Ref, err error) { left[ref.String()] = err }})
		if err != nil || result.State != Confirmed {
			t.Fatalf("%s, %v", result.State, err)
		}
		if left["net.core.netdev_max_backlog"] == nil || len(left) != 1 {
			t.Errorf("left out: %v", left)
		}
		if r.read("net.core.netdev_budget") != "600" || r.read("eth0/rx-0/rps.cpus") != "1" || r.read("net.core.netdev_max_backlog") != "1000" {
			t.Error("the others were not made")
		}
		if back, err := r.process(nil).Rollback(background, ""); err != nil || back.State != RolledBack || r.m.Dump() != before {
			t.Errorf("rollback: %s, %v", back.State, err)
		}
	}
}

// A driver that refuses because somebody holds the queues is asked once. What
// was written before is taken back, and people are told who that may be.
func TestBusyChannels(t *testing.T) {
	t.Parallel()
	r := newRig(t, hosttest.Spec{CPUs: 4, QueuesPerNIC: 2, MaxQueues: 4})
	before := r.m.Dump()
	asked := 0
	r.gate = func(what string, do func() error) error {
		if strings.Contains(what, "channels") {
			asked++
			return fmt.Errorf("%s: %w", what, syscall.EBUSY)
		}
		return do()
	}
	result, err := r.process(nil).Apply(background, r.plan("eth0/channels.combined", "4", "net.core.netdev_budget", "600"), anything)
	if !errors.Is(err, syscall.EBUSY) || result.State != RolledBack || asked != 1 {
		t.Errorf("asked %d times: %s, %v", asked, result.State, err)
	}
	for _, words := range []string{"RDMA", "AF_XDP", "stop the holder", "at boot"} {
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v does not say %q", err, words)
		}
	}
	if diff := cmp.Diff(before, r.m.Dump()); diff != "" {
		t.Errorf("(-before +after)\n%s", diff)
	}
}

// All reasons are known together, and none of these plans writes anything.
func TestPreflightRefuses(t *testing.T) {
	t.Parallel()
	const budget, rps = "net.core.netdev_budget", "eth0/rx-0/rps.cpus"
	for _, tt := range []struct {
		name   string
		spec   hosttest.Spec
		change func(r *rig, p *plan.Plan, a *Applier, o *Options)
		want   []string // a part of each reason
	}{
		{"another boot", small, func(_ *rig, p *plan.Plan, _ *Applier, _ *Options) {
			p.Origin.BootID = "other"
			p.Fingerprint = p.Origin.Fingerprint()
		}, []string{`plan: the boot is "` + testBoot + `", the plan was made with "other"`}},
		{"another host", small, func(_ *rig, p *plan.Plan, _ *Applier, _ *Options) {
			p.Origin = &plan.Origin{BootID: testBoot, Release: "5.14.0", Devices: []plan.OriginDevice{{Name: "ens3", Driver: "ena", Queues: 8}}}
			p.Fingerprint = p.Origin.Fingerprint()
		}, []string{`the kernel is "6.12.0"`, "device ens3 of the plan is not there", "device eth0 was not there"}},
		{"another host, not named", small, func(_ *rig, p *plan.Plan, _ *Applier, _ *Options) {
			p.Origin, p.Fingerprint = nil, "0123456789abcdef"
		}, []string{"another host, boot or set of devices"}},
		{"an edited fingerprint", small, func(_ *rig, p *plan.Plan, _ *Applier, _ *Options) { p.Fingerprint = "0" }, []string{"it was edited"}},
		{"changed meanwhile", small, func(r *rig, _ *plan.Plan, _ *Applier, _ *Options) {
			r.write(budget, "900")
			r.write(rps, "3")
		}, []string{budget + `: it is "900" now and was "300"`, rps + `: it is "3" now and was ""`}},
		{"a device name that is a path", small, func(_ *rig, p *plan.Plan, _ *Applier, _ *Options) {
			p.Changes[1].Ref.Dev = "../../../proc/sys/kernel"
		}, []string{"../../../proc/sys/kernel/rx-0/rps.cpus: not the address of a setting"}},
		{"an unknown setting", small, func(_ *rig, p *plan.Plan, _ *Applier, _ *Options) { p.Changes[0].Ref.Kind = "kernel.panic" },
			[]string{"kernel.panic: not the address of a setting"}},
		{"a queue that is not there", small, func(_ *rig, p *plan.Plan, _ *Applier, _ *Options) { p.Changes[1].Ref.Queue = 7 },
			[]string{"eth0/rx-7/rps.cpus: this host has no such setting"}},
		{"out of range", small, func(_ *rig, p *plan.Plan, _ *Applier, _ *Options) {
			p.Changes[0].After, p.Changes[1].After = "-5", "0-63"
		}, []string{"-5 is outside 1 to", "CPUs 4-63 are not among the allowed 0-3"}},
		{"not a value", small, func(_ *rig, p *plan.Plan, _ *Applier, _ *Options) {
			p.Changes[0].After, p.Changes[1].Before = "many", "x"
		}, []string{`new value: "many" is not a whole number`, "old value"}},
		{"twice", small, func(_ *rig, p *plan.Plan, _ *Applier, _ *Options) {
			p.Changes = append(p.Changes, p.Changes[0])
			p.Changes[2].After = "700"
		}, []string{"the plan changes it twice"}},
		{"seen, not read", small, func(_ *rig, p *plan.Plan, _ *Applier, _ *Options) { p.Changes[1].BeforeSeen = true }, []string{"could not be put back"}},
		{"errored", small, func(_ *rig, p *plan.Plan, _ *Applier, _ *Options) { p.Errored = true }, []string{"erroneous"}},
		{"not applicable", small, func(_ *rig, p *plan.Plan, _ *Applier, _ *Options) { p.Applyable = false }, []string{"not applicable"}},
		{"empty", small, func(_ *rig, p *plan.Plan, _ *Applier, _ *Options) { p.Changes = nil }, []string{"it changes nothing"}},
		{"locked", hosttest.Spec{}, func(r *rig, p *plan.Plan, _ *Applier, _ *Options) { *p = r.plan("eth0/ring.rx", "128") },
			[]string{"eth0/ring.rx: locked: the hypervisor does not offer"}},
		{"managed interrupt", small, func(r *rig, p *plan.Plan, _ *Applier, _ *Options) {
			irq, _ := r.m.View().IRQ("eth0", false, 0)
			_ = r.m.Manage(irq, syscall.EPERM)
			*p = r.plan("eth0/rx-0/irq.affinity", "3")
		}, []string{"eth0/rx-0/irq.affinity: locked: IRQ 41 is managed"}},
		{"one interrupt, two wishes", hosttest.Spec{Driver: "ice"}, func(r *rig, p *plan.Plan, _ *Applier, _ *Options) {
			*p = r.plan("eth0/rx-1/irq.affinity", "2", "eth0/tx-1/irq.affinity", "3")
		}, []string{"the same interrupt as eth0/rx-1/irq.affinity"}},
		{"too disruptive", hosttest.Spec{Driver: "ice", MaxQueues: 8}, func(r *rig, p *plan.Plan, _ *Applier, o *Options) {
			*p = r.plan("eth0/channels.combined", "8", "eth0/coalesce.rx-usecs", "30")
			o.MaxDisruption = knob.DisruptsNothing
		}, []string{"eth0/channels.combined: the change disturbs traffic (link), allowed is none", "(packets), allowed is none"}},
		{"too disruptive, nothing left", hosttest.Spec{Driver: "ice", MaxQueues: 8}, func(r *rig, p *plan.Plan, _ *Applier, o *Options) {
			*p = r.plan("eth0/channels.combined", "8")
			o.MaxDisruption, o.SkipDisruptive = knob.DisruptsPackets, true
		}, []string{"nothing is left to apply"}},
		{"a file that is read-only", small, func(_ *rig, _ *plan.Plan, a *Applier, _ *Options) {
			a.Writer.MayWrite = func(name string) error {
				if strings.HasPrefix(name, "sys/") {
					return errors.New("write to " + name + ": mounted read-only")
				}
				return nil
			}
		}, []string{rps + ": write to sys/class/net/eth0/queues/rx-0/rps_cpus: mounted read-only"}},
		{"a read-only file that it may overwrite", hosttest.Spec{Driver: "ice", MaxQueues: 8}, func(r *rig, p *plan.Plan, a *Applier, _ *Options) {
			*p = r.plan("eth0/channels.combined", "8")
			a.Writer.MayWrite = func(name string) error {
				if strings.HasSuffix(name, "/xps_cpus") {
					return errors.New("write to " + name + ": mounted read-only")
				}
				return nil
			}
		}, []string{"eth0/channels.combined: eth0/tx-0/xps.cpus, which the change may overwrite, could not be put back: write to sys/class/net/eth0/queues/tx-0/xps_cpus: mounted read-only"}},
		{"no privilege", small, func(_ *rig, _ *plan.Plan, a *Applier, _ *Options) { a.Privileges = &Privileges{} },
			[]string{budget + ": writing it needs root or CAP_NET_ADMIN", rps + ": writing it needs root or CAP_DAC_OVERRIDE and CAP_NET_ADMIN"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, tt.spec)
			p, o := r.plan(budget, "600", rps, "1-2"), anything
			a := r.process(nil)
			tt.change(r, &p, a, &o)
			before := r.m.Dump()
			_, err := a.Apply(background, p, o)
			got := refusals(err)
			if !errors.Is(err, ErrRefused) || len(got) != len(tt.want) {
				t.Fatalf("%d reasons, want %d: %v", len(got), len(tt.want), err)
			}
			for i, part := range tt.want {
				if !strings.Contains(got[i], part) {
					t.Errorf("reason %q, want %q", got[i], part)
				}
			}
			if _, err := a.Preflight(p, o); !slices.Equal(refusals(err), got) {
				t.Errorf("a dry run says %v", err)
			}
			if r.m.Dump() != before || len(r.disk.files) > 0 {
				t.Errorf("something was written: files %v", r.disk.files)
			}
		})
	}
}

func TestPrivileges(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		kind string
		who  *Privileges
		want string
	}{
		{"irq.affinity", nil, ""},
		{"irq.affinity", &Privileges{Root: true}, ""},
		{"irq.affinity", &Privileges{NetAdmin: true}, "writing it needs root or CAP_DAC_OVERRIDE"},
		{"rps.cpus", &Privileges{Root: true}, "writing it needs CAP_NET_ADMIN"},
		{"threaded", &Privileges{Override: true, NetAdmin: true}, ""},
		{"ring.rx", &Privileges{Root: true}, "writing it needs CAP_NET_ADMIN"},
		{"ring.rx", &Privileges{NetAdmin: true}, ""},
		{"net.core.netdev_budget", &Privileges{NetAdmin: true}, ""},
		{"net.core.netdev_budget", &Privileges{}, "writing it needs root or CAP_NET_ADMIN"},
	} {
		kind, _ := knob.Lookup(tt.kind)
		if got := tt.who.missing(kind); got != tt.want {
			t.Errorf("%s as %+v: %q, want %q", tt.kind, tt.who, got, tt.want)
		}
	}
}

// Verdicts come from reading back, not from the answer to the write.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	r := newRig(t, hosttest.Spec{Driver: "mlx5_core"})
	result, err := r.process(nil).Apply(background, r.plan("eth0/ring.rx", "1000", "eth0/ring.tx", "2048"), anything)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range result.Changes {
		got = append(got, fmt.Sprintf("%s %s→%s is %s: %s", c.Ref, c.Before, c.After, c.Observed, c.Verdict))
	}
	want := []string{"eth0/ring.rx 512→1000 is 1024: rounded", "eth0/ring.tx 512→2048 is 2048: applied"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// A wish that nobody grants and nobody complains about.
	r = newRig(t, small)
	r.gate = func(what string, do func() error) error {
		if strings.HasPrefix(what, "features") {
			return nil
		}
		return do()
	}
	before := r.m.Dump()
	result, err = r.process(nil).Apply(background, r.plan("net.core.netdev_budget", "600", "eth0/feature.rx-gro", "off"), anything)
	if !errors.Is(err, ErrNotTaken) || result.State != RolledBack || r.m.Dump() != before {
		t.Errorf("%s, %v", result.State, err)
	}
	if refused := result.Changes[0]; refused.Verdict != VerdictRefused || refused.Ref.Kind != "feature.rx-gro" {
		t.Errorf("verdict %+v", refused)
	}
}

// stuckFS shows interrupts as firing where they fired first, as the kernel does
// until their next occurrence.
type stuckFS struct {
	fs.FS
	stuck *bool
}

func (f stuckFS) ReadFile(name string) ([]byte, error) {
	if *f.stuck && strings.HasSuffix(name, "effective_affinity_list") {
		return []byte("0\n"), nil
	}
	return fs.ReadFile(f.FS, name)
}

// What an interrupt that did not move at once has come to by the end: it waits,
// it moved, the kernel dropped the wish, which undoes the transaction or is told
// where that is wanted, or somebody else has set it.
func TestPendingMoves(t *testing.T) {
	t.Parallel()
	const irq, rps = "eth0/rx-1/irq.affinity", "eth0/rx-0/rps.cpus"
	for name, tt := range map[string]struct {
		then    func(r *rig, stuck *bool)
		lenient bool
		want    Verdict
		affine  string // at the end
		state   State
	}{
		"waits":            {func(*rig, *bool) {}, false, VerdictPending, "1-2", Confirmed},
		"moves":            {func(_ *rig, stuck *bool) { *stuck = false }, false, VerdictApplied, "1-2", Confirmed},
		"dropped":          {func(r *rig, _ *bool) { r.write(irq, "0") }, false, VerdictRefused, "0", RolledBack},
		"dropped, told":    {func(r *rig, _ *bool) { r.write(irq, "0") }, true, VerdictRefused, "0", Confirmed},
		"of somebody else": {func(r *rig, _ *bool) { r.write(irq, "3") }, false, VerdictApplied, "3", Confirmed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, hosttest.Spec{IRQStacked: true})
			before := r.m.Dump()
			stuck := true
			r.view = func(v knob.View) knob.View {
				h := *v.Host
				h.FS = stuckFS{h.FS, &stuck}
				v.Host = &h
				return v
			}
			o := anything
			o.Verify = func(context.Context) error { tt.then(r, &stuck); return nil }
			left := map[string]error{}
			if tt.lenient {
				o.LeaveOut = func(ref knob.Ref, err error) { left[ref.String()] = err }
			}
			result, err := r.process(nil).Apply(background, r.plan(irq, "1-2", rps, "1"), o)
			undone := tt.state == RolledBack
			if errors.Is(err, ErrNotTaken) != undone || (err != nil) != undone || result.State != tt.state || result.ExitCode() == ExitDone == undone {
				t.Errorf("%s, %v, %+v", result.State, err, result)
			}
			at := slices.IndexFunc(result.Changes, func(o Outcome) bool { return o.Ref.String() == irq })
			if at < 0 || result.Changes[at].Verdict != tt.want || result.Changes[at].Address != "IRQ 43" || result.Changes[at].Observed != tt.affine {
				t.Errorf("%+v", result.Changes)
			}
			if r.read(irq) != tt.affine || (r.read(rps) == "1") == undone || undone && r.m.Dump() != before {
				t.Errorf("affinity %s, RPS %s", r.read(irq), r.read(rps))
			}
			if errors.Is(left[irq], ErrNotTaken) != tt.lenient || len(left) > 1 {
				t.Errorf("told: %v", left)
			}
			if !tt.lenient {
				return
			}
			// The journal does not count it as set, and the rest goes back.
			words, err := r.process(nil).Words()
			if _, said := words[knob.Rx("eth0", 1, "irq.affinity")]; said || len(words) != 1 || err != nil {
				t.Errorf("%v, %v", words, err)
			}
			if back, err := r.process(nil).Rollback(background, ""); err != nil || back.State != RolledBack || r.m.Dump() != before {
				t.Errorf("rollback: %s, %v", back.State, err)
			}
		})
	}
}

// One interrupt that serves both sides of a queue is written once.
func TestSharedInterrupt(t *testing.T) {
	t.Parallel()
	r := newRig(t, hosttest.Spec{Driver: "ice"})
	before := r.m.Dump()
	writes := 0
	r.gate = func(_ string, do func() error) error { writes++; return do() }
	p := r.plan("eth0/rx-1/irq.affinity", "3", "eth0/tx-1/irq.affinity", "3")
	result, err := r.process(nil).Apply(background, p, anything)
	if err != nil || writes != 1 || len(result.Changes) != 2 || result.Changes[1].Verdict != VerdictApplied {
		t.Errorf("%d writes, %v, %+v", writes, err, result.Changes)
	}
	if _, err := r.process(nil).Rollback(background, result.ID); err != nil || r.m.Dump() != before {
		t.Errorf("rollback: %v\n%s", err, cmp.Diff(before, r.m.Dump()))
	}
}

// An interrupt that one change overwrites under one of its names and another
// change sets under the other goes back to where it was before both.
func TestSharedInterruptAsSideEffect(t *testing.T) {
	t.Parallel()
	r := newRig(t, hosttest.Spec{Driver: "i40e"})
	r.write("eth0/rx-1/irq.affinity", "2-3")
	before := r.m.Dump()
	if _, err := r.process(nil).Apply(background, r.plan("eth0/feature.rx-ntuple-filter", "off", "eth0/tx-1/irq.affinity", "0"), anything); err != nil {
		t.Fatal(err)
	}
	if result, err := r.process(nil).Rollback(background, ""); err != nil || result.State != RolledBack || r.m.Dump() != before {
		t.Errorf("%s, %v, %+v\n%s", result.State, err, result.Restored, cmp.Diff(before, r.m.Dump()))
	}
}

func TestSkipDisruptive(t *testing.T) {
	t.Parallel()
	r := newRig(t, hosttest.Spec{Driver: "ice", MaxQueues: 8})
	o := Options{MaxDisruption: knob.DisruptsPackets, SkipDisruptive: true}
	result, err := r.process(nil).Apply(background, r.plan("eth0/channels.combined", "8", "net.core.netdev_budget", "600"), o)
	want := []Skipped{{Ref: knob.Device("eth0", "channels.combined"), Disruption: "link"}}
	if diff := cmp.Diff(want, result.Skipped); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if r.read("eth0/channels.combined") != "4" || r.read("net.core.netdev_budget") != "600" {
		t.Error("the wrong changes were made")
	}
}

// A channel change does more than it says; all of it is recorded and undone,
// and what others set meanwhile is still there afterwards.
func TestChannelSideEffects(t *testing.T) {
	t.Parallel()
	r := newRig(t, small)
	r.write("eth0/rx-0/irq.affinity", "3")
	r.write("eth0/tx-1/xps.cpus", "0,2")
	r.write("eth0/tx-1/xps.rxqs", "0-1")
	r.write("eth0/rx-1/rps.cpus", "1")
	before := r.m.Dump()
	result, err := r.process(nil).Apply(background, r.plan("eth0/channels.combined", "1"), anything)
	if err != nil {
		t.Fatal(err)
	}
	if moved := result.Changes[0].Moved; moved["eth0/rx-0/irq.affinity"] != "0-3" {
		t.Errorf("moved: %v", moved)
	}
	if r.m.Dump() == before {
		t.Fatal("the law of virtio_net has gone")
	}
	if _, err := r.process(nil).Rollback(background, ""); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, r.m.Dump()); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	// Others change what the channel change did not touch, and what it did.
	if _, err := r.process(nil).Apply(background, r.plan("eth0/channels.combined", "1"), anything); err != nil {
		t.Fatal(err)
	}
	r.write("eth0/rx-0/rps.cpus", "2")
	r.write("eth0/tx-0/irq.affinity", "1-2")
	result, err = r.process(nil).Rollback(background, "")
	if err != nil || result.State != Dirty {
		t.Errorf("%s, %v", result.State, err)
	}
	want := map[string]string{
		"eth0/rx-0/rps.cpus": "2", "eth0/tx-0/irq.affinity": "1-2", "eth0/rx-0/irq.affinity": "3",
		"eth0/tx-1/xps.cpus": "0,2", "eth0/tx-1/xps.rxqs": "0-1", "eth0/rx-1/rps.cpus": "1", "eth0/channels.combined": "2",
	}
	for ref, value := range want {
		if got := r.read(ref); got != value {
			t.Errorf("%s is %q, want %q", ref, got, value)
		}
	}
	for _, one := range result.Restored {
		if foreign := one.Ref.String() == "eth0/tx-0/irq.affinity"; foreign != (one.Fate == FateForeign) {
			t.Errorf("%+v", one)
		}
	}
}

// What drivers set anew with a write, besides what was written, is recorded and
// undone as well, also after a crash between write and record.
func TestSideEffects(t *testing.T) {
	t.Parallel()
	const usecs, affinity = "eth0/coalesce.rx-usecs", "eth0/rx-2/irq.affinity"
	even := knob.EvenTable(128, 4)
	for name, tt := range map[string]struct {
		driver, ref, value, write string
		sides                     map[string][2]string // before and after
	}{
		"rings":               {"ice", "eth0/ring.rx", "1000", "rings", map[string][2]string{usecs: {"77", "50"}, affinity: {"1,3", "0-3"}}},
		"other ring":          {"ice", "eth0/ring.rx", "1000", "rings", map[string][2]string{"eth0/ring.tx": {"1024", "512"}}},
		"adaptive moderation": {"mlx5_core", "eth0/coalesce.adaptive-rx", "off", "", map[string][2]string{usecs: {"77", "16"}}},
		"moderation":          {"ice", usecs, "20", "coalesce", map[string][2]string{"eth0/coalesce.tx-usecs": {"77", "20"}, "eth0/coalesce.adaptive-rx": {"on", "off"}}},
		"hash fields": {"ice", "eth0/rss.hash.udp4", "sd", "hash", map[string][2]string{
			"eth0/rss.hash.udp6": {"sdfn", "sd"}, "eth0/rss.table": {"0*64 1*64", even},
		}},
		"feature that resets": {"i40e", "eth0/feature.rx-ntuple-filter", "off", "features", map[string][2]string{
			affinity: {"1,3", "0-3"}, "eth0/tx-1/xps.cpus": {"1", ""}, "eth0/rx-1/rps.cpus": {"2", ""}, "eth0/ring.rx": {"1024", "512"}, usecs: {"77", "50"},
		}},
		"RSS table": {"ice", "eth0/rss.table", "0*64 1*64", "rss", map[string][2]string{"eth0/rss.hash.tcp4": {"sd", "sdfn"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at, ended := 0, false; !ended; at++ {
				for _, after := range []bool{false, true} {
					r := newRig(t, hosttest.Spec{Driver: tt.driver})
					for ref, values := range tt.sides {
						r.write(ref, values[0])
					}
					before := r.m.Dump()
					f := &fuse{at: at, after: after, torn: -1}
					armed := tt.write != ""
					r.gate = func(what string, do func() error) error {
						alive := !f.dead
						err := do()
						happened := err == nil || alive && after && errors.Is(err, errKilled)
						if armed && happened && strings.HasPrefix(what, tt.write) {
							armed = false
							for ref, values := range tt.sides {
								r.write(ref, values[1])
							}
						}
						return err
					}
					result, err := r.process(f).Apply(background, r.plan(tt.ref, tt.value, "net.core.dev_weight", "32"), anything)
					for ref, values := range tt.sides {
						if at == 0 && (err != nil || result.Changes[0].Moved[ref] != values[1] || r.read(ref) != values[1]) {
							t.Fatalf("%v: %s is %s, moved %v", err, ref, r.read(ref), result.Changes[0].Moved)
						}
					}
					r.gate, ended = nil, f.steps < at
					recoverAll(t, r, before, false, func() string { return fmt.Sprintf("killed at step %d (after: %v): %s", at, after, f.log[len(f.log)-1]) })
				}
			}
		})
	}
}

// A change that may overwrite a setting whose value the host does not tell is not
// made: nobody could put that back. What is certainly not there, or not in a
// capture, keeps nothing from being changed.
func TestUnreadableSide(t *testing.T) {
	t.Parallel()
	const ring, budget, usecs = "eth0/ring.rx", "net.core.netdev_budget", "eth0/coalesce.rx-usecs"
	for name, tt := range map[string]struct {
		answer  error
		at      int // look at the moderation from which on it is the answer
		lenient bool
		want    error
		state   State
	}{
		"inconclusive":        {host.ErrInconclusive, 0, false, ErrRefused, ""},
		"denied":              {fs.ErrPermission, 0, false, ErrRefused, ""},
		"an error of its own": {syscall.EIO, 0, false, ErrRefused, ""},
		"after the preflight": {host.ErrInconclusive, 1, false, nil, RolledBack},
		"told":                {host.ErrInconclusive, 1, true, nil, Confirmed},
		"unsupported":         {host.ErrUnsupported, 0, false, nil, Confirmed},
		"not there":           {fs.ErrNotExist, 0, false, nil, Confirmed},
		"not captured":        {host.ErrNotCaptured, 0, false, nil, Confirmed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, hosttest.Spec{Driver: "ice"})
			before, p := r.m.Dump(), r.plan(ring, "1024", budget, "600")
			views := 0
			r.view = func(v knob.View) knob.View {
				h := *v.Host
				read := h.Ethtool.Coalesce
				views++
				asked := 0
				h.Ethtool.Coalesce = func(dev string) (host.Coalesce, error) {
					if asked++; views > 1 || asked <= 6*tt.at {
						return read(dev) // of six settings
					}
					return host.Coalesce{}, fmt.Errorf("read coalescing of %s: %w", dev, tt.answer)
				}
				v.Host = &h
				return v
			}
			o := anything
			left := map[string]error{}
			if tt.lenient {
				o.LeaveOut = func(ref knob.Ref, err error) { left[ref.String()] = err }
			}
			writes := 0
			r.gate = func(what string, do func() error) error {
				if strings.HasPrefix(what, "rings") {
					writes++
				}
				return do()
			}
			result, err := r.process(nil).Apply(background, p, o)
			if result.State != tt.state || tt.want != nil && !errors.Is(err, tt.want) || (err == nil) != (tt.state == Confirmed) {
				t.Fatalf("%s, %v", result.State, err)
			}
			made := tt.state == Confirmed && !tt.lenient
			if (writes > 0) != made || !made && !tt.lenient && r.m.Dump() != before {
				t.Errorf("%d writes of rings", writes)
			}
			if told := errors.Join(err, left[ring]); !made && (told == nil || !strings.Contains(told.Error(), usecs+", which the change may overwrite")) {
				t.Errorf("the reason is %v", told)
			}
			if (left[ring] != nil) != tt.lenient || tt.state == Confirmed && r.read(budget) != "600" {
				t.Errorf("left out: %v, budget %s", left, r.read(budget))
			}
		})
	}
}

// Once a user's table is set, fewer queues than it names are refused
// (net/ethtool/channels.c): rolling back channels first fits the table.
func TestChannelsBehindATable(t *testing.T) {
	t.Parallel()
	for _, resets := range []bool{true, false} {
		r := newRig(t, hosttest.Spec{Driver: "i40e", QueuesPerNIC: 4, MaxQueues: 8, CPUs: 8})
		before := r.dump(true)
		process := func() *Applier {
			a := r.process(nil)
			set := a.Writer.SetRSS
			a.Writer.SetRSS = func(dev string, table []uint32) error {
				if len(table) == 0 && !resets {
					return syscall.EOPNOTSUPP
				}
				return set(dev, table)
			}
			return a
		}
		o := anything
		o.Replan = func(context.Context) (plan.Plan, error) {
			return r.plan("eth0/rss.table", knob.FormatTable(slices.Repeat([]uint32{7, 6, 5, 0}, 128)), "eth0/rx-7/rps.cpus", "1"), nil
		}
		p := r.plan("eth0/channels.combined", "8")
		p.Complete = false
		result, err := process().Apply(background, p, o)
		if err != nil || !result.Complete || len(result.Changes) != 3 || r.read("eth0/rx-7/rps.cpus") != "1" {
			t.Fatalf("%v, %+v", err, result)
		}
		if back, err := process().Rollback(background, ""); err != nil || back.State != RolledBack {
			t.Errorf("resets %v: %s, %v", resets, back.State, err)
		}
		if diff := cmp.Diff(before, r.dump(true)); diff != "" {
			t.Errorf("resets %v (-before +after):\n%s", resets, diff)
		}
	}
}

// A rollback that dies after it has undone the channels, and with them what
// others had set, still knows what was theirs.
func TestForeignSurvivesACrashInRollback(t *testing.T) {
	t.Parallel()
	for at := 1; ; at++ {
		r := newRig(t, small)
		r.write("eth0/rx-0/irq.affinity", "3")
		if _, err := r.process(nil).Apply(background, r.plan("eth0/channels.combined", "1"), anything); err != nil {
			t.Fatal(err)
		}
		r.write("eth0/rx-0/rps.cpus", "2")       // not touched by the change
		r.write("eth0/tx-0/irq.affinity", "1-2") // moved by it
		f := &fuse{at: at, after: true, torn: -1}
		_, _ = r.process(f).Rollback(background, "")
		result, err := r.process(nil).Rollback(background, "")
		if f.steps < at {
			break // the whole rollback, then one more
		}
		if err != nil || result.State != Dirty {
			t.Fatalf("killed after step %d: %s, %v", at, result.State, err)
		}
		for ref, value := range map[string]string{
			"eth0/rx-0/rps.cpus": "2", "eth0/tx-0/irq.affinity": "1-2", "eth0/rx-0/irq.affinity": "3", "eth0/channels.combined": "2",
		} {
			if got := r.read(ref); got != value {
				t.Errorf("killed after step %d (%s): %s is %q, want %q", at, f.log[at-1], ref, got, value)
			}
		}
	}
}

// What a crash cut short is not damage, however often a rollback has to try.
func TestTornAndDirty(t *testing.T) {
	t.Parallel()
	r := newRig(t, small)
	p := smallPlan(r)
	before := r.m.Dump()
	_, _ = r.process(&fuse{at: 5, torn: 40}).Apply(background, p, anything)
	r.gate = func(string, func() error) error { return syscall.EIO }
	for range 2 {
		if result, err := r.process(nil).Rollback(background, ""); err == nil || !strings.Contains(err.Error(), syscall.EIO.Error()) || result.State != Dirty {
			t.Fatalf("%s, %v", result.State, err)
		}
	}
	r.gate = nil
	recoverAll(t, r, before, false, func() string { return "EIO is over" })
}

// Planning again is bounded, and a later round that is refused undoes the first.
func TestRounds(t *testing.T) {
	t.Parallel()
	r := newRig(t, small)
	before := r.m.Dump()
	rounds := 0
	o := anything
	o.Replan = func(context.Context) (plan.Plan, error) {
		rounds++
		p := r.plan("net.core.netdev_budget", fmt.Sprint(1000+rounds))
		p.Complete = false
		return p, nil
	}
	p := r.plan("net.core.netdev_budget", "600")
	p.Complete = false
	result, err := r.process(nil).Apply(background, p, o)
	if err != nil || rounds != MaxRounds-1 || result.Complete || r.read("net.core.netdev_budget") != "1002" {
		t.Errorf("%v after %d rounds, complete %v, budget %s", err, rounds, result.Complete, r.read("net.core.netdev_budget"))
	}
	if _, err := r.process(nil).Rollback(background, ""); err != nil || r.m.Dump() != before {
		t.Errorf("rollback: %v\n%s", err, cmp.Diff(before, r.m.Dump()))
	}
	o.Replan = func(context.Context) (plan.Plan, error) { return r.plan("net.core.netdev_budget", "-1"), nil }
	result, err = r.process(nil).Apply(background, p, o)
	if !errors.Is(err, ErrRefused) || result.State != RolledBack || r.m.Dump() != before {
		t.Errorf("%s, %v", result.State, err)
	}
}

// NAPIs with values of their own keep them, through device-wide writes, new
// queues and crashes between the two.
func TestNAPIsKeepTheirValues(t *testing.T) {
	t.Parallel()
	prepare := func() *rig {
		r := newRig(t, hosttest.Spec{QueuesPerNIC: 2, MaxQueues: 4})
		own := host.NAPI{IfIndex: 2, ID: 8194, GROFlushTimeout: 50000, DeferHardIRQs: 7, IRQSuspend: 9}
		if err := r.m.Writer().SetNAPI(own); err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, pairs := range [][]string{
		{"eth0/gro_flush_timeout", "20000", "eth0/napi_defer_hard_irqs", "2", "eth0/threaded", "on"},
		{"eth0/channels.combined", "1"},
		{"eth0/channels.combined", "4", "eth0/gro_flush_timeout", "20000"},
	} {
		before := prepare().m.Dump()
		for at := 0; at < 40; at++ {
			r := prepare()
			f := &fuse{at: at, after: true, torn: -1}
			_, err := r.process(f).Apply(background, r.plan(pairs...), anything)
			if at == 0 && err != nil {
				t.Fatal(err)
			}
			recoverAll(t, r, before, false, func() string { return fmt.Sprintf("%v, killed after step %d", pairs, at) })
			if at > f.steps {
				break
			}
		}
	}
}

// The value that changed between preflight and its write stops the transaction.
func TestDriftUnderWay(t *testing.T) {
	t.Parallel()
	r := newRig(t, small)
	before := r.m.Dump()
	r.gate = func(what string, do func() error) error {
		if strings.HasSuffix(what, "netdev_budget") && r.read("net.core.netdev_budget") == "300" {
			r.write("eth0/rx-1/rps.cpus", "0")
		}
		return do()
	}
	result, err := r.process(nil).Apply(background, r.plan("net.core.netdev_budget", "600", "eth0/rx-1/rps.cpus", "2"), anything)
	if !errors.Is(err, ErrDrift) || result.State != RolledBack || r.read("eth0/rx-1/rps.cpus") != "0" {
		t.Errorf("%s, %v", result.State, err)
	}
	r.write("eth0/rx-1/rps.cpus", "")
	if diff := cmp.Diff(before, r.m.Dump()); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// A signal, which ends the context, is answered by a complete rollback.
func TestSignal(t *testing.T) {
	t.Parallel()
	for at := 1; at <= 6; at++ {
		r := newRig(t, small)
		p := smallPlan(r)
		before := r.m.Dump()
		ctx, cancel := context.WithCancelCause(background)
		n := 0
		r.gate = func(_ string, do func() error) error {
			if n++; n == at {
				cancel(syscall.Errno(syscall.EINTR))
			}
			return do()
		}
		if at == 6 {
			cancel(syscall.EINTR)
		}
		result, err := r.process(nil).Apply(ctx, p, anything)
		if !errors.Is(err, syscall.EINTR) || result.State != RolledBack {
			t.Errorf("at write %d: %s, %v", at, result.State, err)
		}
		if diff := cmp.Diff(before, r.m.Dump()); diff != "" {
			t.Errorf("at write %d (-before +after):\n%s", at, diff)
		}
		cancel(nil)
	}
}

// Measured to be worse, the change is undone.
func TestVerifyRollsBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, small)
	before := r.m.Dump()
	worse := errors.New("worse: 12 % more softirq time")
	o := anything
	o.Verify = func(context.Context) error { return worse }
	result, err := r.process(nil).Apply(background, smallPlan(r), o)
	if !errors.Is(err, worse) || result.State != RolledBack || r.m.Dump() != before {
		t.Errorf("%s, %v", result.State, err)
	}
	events, damaged, err := r.process(nil).Events()
	if err != nil || damaged != 0 || len(events) != 1 || events[0].Event != EventRolledBack || events[0].Profile != "test" {
		t.Errorf("history %+v, %d damaged, %v", events, damaged, err)
	}
}

// Two at once: the second is told who has the lock, and nothing is written.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, small)
	var once sync.Once
	var second, third, fourth error
	r.gate = func(_ string, do func() error) error {
		once.Do(func() {
			other := r.process(nil)
			other.Holder = "another"
			_, second = other.Apply(background, r.plan("net.core.dev_weight", "32"), anything)
			_, third = other.Rollback(background, "")
			_, fourth = other.Confirm("")
			if open, err := other.Unfinished(); err != nil || len(open) > 0 {
				t.Errorf("what is at work is told as unfinished: %+v, %v", open, err)
			}
		})
		return do()
	}
	if _, err := r.process(nil).Apply(background, r.plan("net.core.netdev_budget", "600"), anything); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{second, third, fourth} {
		if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "PID 4711") {
			t.Errorf("the other: %v", err)
		}
	}
	if r.read("net.core.dev_weight") != "64" {
		t.Error("the second wrote")
	}
}

// A device that has another name by the time of the rollback is found by its
// bus address or index; one that is gone is named, and all else is restored.
func TestDeviceRenamed(t *testing.T) {
	t.Parallel()
	for _, spec := range []hosttest.Spec{small, {Driver: "ice"}} {
		r := newRig(t, spec)
		before := r.m.Dump()
		if _, err := r.process(nil).Apply(background, r.plan("net.core.dev_weight", "32", "eth0/gro_flush_timeout", "9000",
			"eth0/rx-1/rps.cpus", "1", "eth0/rx-0/irq.affinity", "2", "eth0/feature.rx-gro", "off"), anything); err != nil {
			t.Fatal(err)
		}
		n := renamed{from: "eth0", show: "lan0"}
		r.view, r.origin = n.view, n.origin
		a := r.process(nil)
		a.Writer = n.writer(r.m.Writer())
		result, err := a.Rollback(background, "")
		if err != nil || result.State != RolledBack {
			t.Errorf("%s, %v: %+v", result.State, err, result.Restored)
		}
		if diff := cmp.Diff(before, r.m.Dump()); diff != "" {
			t.Errorf("(-before +after):\n%s", diff)
		}
	}
}

func TestDeviceVanished(t *testing.T) {
	t.Parallel()
	r := newRig(t, hosttest.Spec{Driver: "ice", NICs: 2})
	// The rings overwrite many settings, of which nothing is to be said.
	p := r.plan("net.core.dev_weight", "32", "eth0/ring.rx", "1024", "eth0/gro_flush_timeout", "9000", "eth0/rx-1/rps.cpus", "1", "eth1/rx-1/rps.cpus", "1")
	before := r.m.Dump()
	gone := renamed{from: "eth0"}
	a := r.process(nil)
	n := 0
	a.Writer = hosttest.Gate(a.Writer, func(what string, do func() error) error {
		if n++; n == 4 { // the device leaves during the write of its queue
			r.view, r.origin = gone.view, gone.origin
			return syscall.ENODEV
		}
		return do()
	})
	result, err := a.Apply(background, p, anything)
	if !errors.Is(err, syscall.ENODEV) || result.State != Dirty {
		t.Fatalf("%s, %v", result.State, err)
	}
	var lost []string
	for _, one := range result.Restored {
		if one.Fate == FateGone {
			lost = append(lost, one.Ref.String())
			if one.Reason != "there is no device eth0 in this network namespace" {
				t.Errorf("%s: %s", one.Ref, one.Reason)
			}
		}
	}
	if want := []string{"eth0/rx-1/rps.cpus", "eth0/gro_flush_timeout", "eth0/ring.rx"}; !slices.Equal(lost, want) {
		t.Errorf("gone: %v, want %v", lost, want)
	}
	if r.read("net.core.dev_weight") != "64" {
		t.Error("the rest was not restored")
	}
	// It comes back with its settings: the journal is still there for them.
	r.view, r.origin = nil, nil
	recoverAll(t, r, before, false, func() string { return "the device came back" })
}

func TestConfirm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, small)
		before := r.m.Dump()
		o := anything
		o.ConfirmWithin = time.Minute
		minute := r.process(nil).Now().Add(time.Minute)
		armed := ""
		o.Arm = func(id string, _ time.Duration) error { armed = id; return nil }
		apply := func() string {
			result, err := r.process(nil).Apply(background, smallPlan(r), o)
			if err != nil || result.State != Unconfirmed || armed != result.ID || !result.Deadline.Equal(r.process(nil).Now().Add(time.Minute)) {
				t.Fatalf("%+v, %v, armed %q", result, err, armed)
			}
			return result.ID
		}
		// Nobody confirms.
		id := apply()
		result, err := r.process(nil).ConfirmBy(background, id, minute)
		if !errors.Is(err, ErrUnconfirmed) || result.State != RolledBack || r.m.Dump() != before {
			t.Errorf("nobody: %s, %v", result.State, err)
		}
		// Another process does, in time; then the timer finds nothing to do.
		id = apply()
		go func() {
			time.Sleep(30 * time.Second)
			if _, err := r.process(nil).Confirm(""); err != nil {
				t.Error(err)
			}
		}()
		start := time.Now()
		result, err = r.process(nil).ConfirmBy(background, id, minute)
		if err != nil || result.State != Confirmed || time.Since(start) > 31*time.Second {
			t.Errorf("in time: %s, %v after %v", result.State, err, time.Since(start))
		}
		if result, err = r.process(nil).RollbackUnconfirmed(background, id); err != nil || result.State != Confirmed {
			t.Errorf("the timer: %s, %v", result.State, err)
		}
		if result, err = r.process(nil).Confirm(id); err != nil || result.State != Confirmed {
			t.Errorf("again: %s, %v", result.State, err)
		}
		if _, err := r.process(nil).Rollback(background, id); err != nil {
			t.Error(err)
		}
		if _, err := r.process(nil).Confirm(id); err == nil {
			t.Error("what was rolled back was confirmed")
		}
		// A signal while waiting rolls back.
		id = apply()
		ctx, cancel := context.WithTimeout(background, time.Second)
		defer cancel()
		result, err = r.process(nil).ConfirmBy(ctx, id, minute)
		if !errors.Is(err, ErrUnconfirmed) || result.State != RolledBack || r.m.Dump() != before {
			t.Errorf("signal: %s, %v", result.State, err)
		}
		// A timer that cannot be armed.
		o.Arm = func(string, time.Duration) error { return errors.New("no systemd") }
		if _, err := r.process(nil).Apply(background, smallPlan(r), o); err == nil || len(r.disk.journals(journalSuffix)) > 0 || r.m.Dump() != before {
			t.Errorf("not armed: %v", err)
		}
	})
}

func TestStatusAndOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t, small)
	a := r.process(nil)
	first, err := a.Apply(background, r.plan("net.core.netdev_budget", "600", "net.core.dev_weight", "32"), anything)
	if err != nil {
		t.Fatal(err)
	}
	second, err := a.Apply(background, r.plan("net.core.netdev_budget", "900"), anything)
	if err != nil {
		t.Fatal(err)
	}
	r.write("net.core.dev_weight", "99")
	all, err := a.Status()
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	want := []Drift{
		{Ref: knob.Global("net.core.dev_weight"), Before: "64", Wrote: "32", Present: "99", Drifted: true},
		{Ref: knob.Global("net.core.netdev_budget"), Before: "300", Wrote: "600", Present: "900", Drifted: true, By: second.ID},
	}
	drift := all[0].Drift
	slices.SortFunc(drift, func(x, y Drift) int { return strings.Compare(x.Ref.String(), y.Ref.String()) })
	if diff := cmp.Diff(want, drift); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if all[1].Drift[0].Drifted || all[1].Unfinished || all[1].State != Confirmed {
		t.Errorf("the second: %+v", all[1])
	}
	// Out of order: the first leaves alone what the second and others changed.
	result, err := a.Rollback(background, first.ID)
	if err != nil || result.State != Dirty {
		t.Fatalf("%s, %v", result.State, err)
	}
	for _, one := range result.Restored {
		by := ""
		if one.Ref.Kind == "net.core.netdev_budget" {
			by = second.ID
		}
		if one.Fate != FateForeign || one.By != by {
			t.Errorf("%+v", one)
		}
	}
	if _, err := a.Forget(first.ID); err != nil {
		t.Fatal(err)
	}
	if open, err := a.Unfinished(); err != nil || len(open) > 0 {
		t.Errorf("after forgetting: %+v, %v", open, err)
	}
	if result, err = a.Rollback(background, ""); err != nil || result.ID != second.ID || r.read("net.core.netdev_budget") != "600" {
		t.Errorf("%+v, %v", result, err)
	}
	for _, id := range []string{"../lock", "nothing", "a/b"} {
		if _, err := a.Rollback(background, id); err == nil {
			t.Errorf("rolled back %q", id)
		}
	}
	if err := a.Note(second.ID, "softirq time 31 % → 12 %"); err != nil {
		t.Fatal(err)
	}
	events, damaged, err := a.Events()
	if err != nil || damaged > 0 || len(events) != 6 || events[5].Brought == "" {
		t.Errorf("%d events, %d damaged, %v", len(events), damaged, err)
	}
}

// A journal of another version or with damage inside is not half understood.
func TestJournalsOfOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t, small)
	before := r.m.Dump()
	a := r.process(nil)
	if _, err := a.Apply(background, smallPlan(r), anything); err != nil {
		t.Fatal(err)
	}
	name := r.disk.journals(journalSuffix)[0]
	whole := string(r.disk.files[name])
	lines := strings.SplitAfter(whole, "\n")
	// A record in the middle is destroyed: its setting is not undone, which is said.
	lines[3] = "00000000" + lines[3][8:]
	r.disk.files[name] = []byte(strings.Join(lines, ""))
	open, err := a.Unfinished()
	if err != nil || len(open) != 1 || !strings.Contains(open[0].Damage, "line 4") {
		t.Errorf("%+v, %v", open, err)
	}
	result, err := a.Rollback(background, "")
	if err == nil || result.State != Dirty || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("%s, %v", result.State, err)
	}
	if r.m.Dump() == before {
		t.Error("what a lost record says was undone")
	}
	newer := record{Type: recordBegin, Version: journalVersion + 1}
	line, err := encodeRecord(newer)
	if err != nil {
		t.Fatal(err)
	}
	r.disk.files[name] = line
	if _, err := a.Rollback(background, ""); err == nil || !strings.Contains(err.Error(), "newer napitune") {
		t.Errorf("a newer journal: %v", err)
	}
}

func FuzzParseJournal(f *testing.F) {
	line, err := encodeRecord(record{Type: recordBegin, Version: 1, Number: 3})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add(line[:len(line)-1])
	f.Add([]byte("\n\n00000000 {}\n"))
	f.Add([]byte("zzzzzzzz {}\nx"))
	intent, err := encodeRecord(record{Type: recordIntent, Seq: 1, Ref: &knob.Ref{Kind: "threaded", Dev: "eth0", Queue: -1}, Sides: map[string]string{"x": ""}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(slices.Clone(line), intent...))
	f.Fuzz(func(t *testing.T, data []byte) {
		one, err := parseRecord(data)
		if (err != nil) != cmp.Equal(one, record{}) && err != nil {
			t.Errorf("record %+v with %v", one, err)
		}
		records, _, err := parseJournal(data)
		intents := 0
		for _, r := range records {
			if r.Type == recordIntent {
				intents++
			}
		}
		if tx := newTransaction("1", data); tx.damage == nil && len(tx.entries) != intents {
			t.Errorf("%d changes of %d intents, and no damage", len(tx.entries), intents)
		}
		var again []byte
		for _, r := range records {
			line, encodeErr := encodeRecord(r)
			if encodeErr != nil {
				t.Fatal(encodeErr)
			}
			again = append(again, line...)
		}
		back, torn, parseErr := parseJournal(again)
		if parseErr != nil || torn || len(back) != len(records) {
			t.Errorf("%d records became %d, torn %v, %v (first reading: %v)", len(records), len(back), torn, parseErr, err)
		}
	})
}

func FuzzParseHistory(f *testing.F) {
	line, err := json.Marshal(Event{ID: "1", Event: EventApplied, Changes: []Outcome{{Ref: knob.Global("net.core.dev_weight")}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add([]byte("{}\n{\n\n[]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		events, damaged := parseHistory(data)
		if lines := strings.Count(string(data), "\n") + 1; len(events)+damaged > lines {
			t.Errorf("%d events and %d damaged of %d lines", len(events), damaged, lines)
		}
	})
}

// A table that was the driver's is the driver's again: the number of queues can
// be lowered as before.
func TestTableIsTheDriversAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, hosttest.Spec{Driver: "i40e", CPUs: 8})
	before := r.m.Dump()
	if _, err := r.process(nil).Apply(background, r.plan("eth0/rss.table", knob.FormatTable(slices.Repeat([]uint32{3, 0}, 256))), anything); err != nil {
		t.Fatal(err)
	}
	if _, err := r.process(nil).Rollback(background, ""); err != nil || r.m.Dump() != before {
		t.Errorf("%v\n%s", err, cmp.Diff(before, r.m.Dump()))
	}
	if err := r.m.Writer().SetChannels("eth0", host.Channels{MaxCombined: 4, Combined: 2}); err != nil {
		t.Errorf("the table still counts as the user's: %v", err)
	}
}

// A table that somebody made for more queues goes with them, where the driver
// leaves it as it is: packets for a queue out of use are lost.
func TestTableOfQueuesOutOfUse(t *testing.T) {
	t.Parallel()
	r := newRig(t, hosttest.Spec{Driver: "i40e", CPUs: 8, QueuesPerNIC: 2, MaxQueues: 4})
	before := r.dump(true)
	if _, err := r.process(nil).Apply(background, r.plan("eth0/channels.combined", "4"), anything); err != nil {
		t.Fatal(err)
	}
	foreign := slices.Repeat([]uint32{3, 0}, 256)
	if err := r.m.Writer().SetRSS("eth0", foreign); err != nil {
		t.Fatal(err)
	}
	left := false
	r.gate = func(what string, do func() error) error {
		switch what {
		case "channels eth0":
			// It does not count as a user's, which the core would look at.
			err := errors.Join(r.m.Writer().SetRSS("eth0", nil), do())
			left = true
			return err
		case "rss eth0":
			left = false
		}
		return do()
	}
	r.view = func(v knob.View) knob.View {
		h := *v.Host
		read := h.Ethtool.RSS
		h.Ethtool.RSS = func(dev string) (host.RSS, error) {
			rss, err := read(dev)
			if left {
				rss.Table = slices.Clone(foreign)
			}
			return rss, err
		}
		v.Host = &h
		return asDetected(v)
	}
	result, err := r.process(nil).Rollback(background, "")
	if err != nil || result.State != RolledBack {
		t.Errorf("%s, %v, %+v", result.State, err, result.Restored)
	}
	if diff := cmp.Diff(before, r.dump(true)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// The host that cannot be read again is rolled back with what is known of it.
func TestRollbackWithoutReadingAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, small)
	before := r.m.Dump()
	a := r.process(nil)
	view, failing := a.View, false
	unreadable := errors.New("out of memory")
	a.View = func() (knob.View, error) {
		if failing {
			return knob.View{}, unreadable
		}
		return view()
	}
	o := anything
	o.Verify = func(context.Context) error { failing = true; return errors.New("worse") }
	result, err := a.Apply(background, r.plan("net.core.netdev_budget", "600", "eth0/rx-0/rps.cpus", "1"), o)
	if !errors.Is(err, unreadable) || result.State != Dirty {
		t.Errorf("%s, %v", result.State, err)
	}
	if diff := cmp.Diff(before, r.m.Dump()); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	failing = false
	recoverAll(t, r, before, false, func() string { return "the host can be read again" })
}

// A deadline that falls into another's transaction waits for its end.
func TestDeadlineWaitsForTheLock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, small)
		before := r.m.Dump()
		o := anything
		o.ConfirmWithin = time.Second
		result, err := r.process(nil).Apply(background, smallPlan(r), o)
		if err != nil {
			t.Fatal(err)
		}
		release, err := r.process(nil).lock(testDir + "/" + testBoot)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(time.Minute)
			if err := release(); err != nil {
				t.Error(err)
			}
		}()
		result, err = r.process(nil).RollbackUnconfirmed(background, result.ID)
		if err != nil || result.State != RolledBack || r.m.Dump() != before {
			t.Errorf("%s, %v", result.State, err)
		}
	})
}
