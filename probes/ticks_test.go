package probes

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// byClock has a rig's programs do without bpf_jiffies64.
func byClock(spec *ebpf.CollectionSpec) error {
	k := ticks{hz: kernelHZ(), byClock: true}
	if err := k.prepare(spec); err != nil {
		return err
	}
	return spec.Variables["budget_jiffies"].Set(k.limit(2))
}

// TestWithoutJiffies loads everything as for kernels before 5.6.
func TestWithoutJiffies(t *testing.T) {
	needRoot(t)
	o, err := Options{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s := &Session{options: o, budget: limits{packets: 300, jiffies: 2}, ticks: ticks{hz: o.HZ, byClock: true}}
	for _, d := range objectTable() {
		loaded := openObject(d, d.hooks, s.tune, btf.NewCache())
		if loaded.broken != nil {
			t.Fatalf("object %s: %s", d.name, loaded.broken.reason)
		}
		for _, p := range loaded.spec.Programs {
			for _, call := range p.Instructions {
				if call.IsBuiltinCall() && call.Constant == int64(asm.FnJiffies64) {
					t.Errorf("program %s calls bpf_jiffies64", p.Name)
				}
			}
		}
		as := openObject(d, d.hooks, func(spec *ebpf.CollectionSpec) error { return nil }, btf.NewCache())
		for _, p := range as.programs {
			if got := loaded.find(p.hook); got == nil || got.rung != p.rung {
				t.Errorf("hook %s of %s is served by %+v, want %s", p.hook, d.name, got, p.rung.program)
			}
		}
		for _, o := range []*object{loaded, as} {
			if err := o.close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestTicksByClock: a run is as long, and a tick holds as many events, as if
// the kernel told jiffies.
func TestTicksByClock(t *testing.T) {
	r := newRig(t, Options{ExactPerJiffy: 1000}, byClock)
	short, long := []poll{{work: 1, budget: 64}}, []poll{{work: 1, budget: 64, sleep: longSleep}}
	r.replay(t, long, 0, 0)
	if got := r.budget(t); got.SqueezedTime != 1 {
		t.Errorf("a run of %v: %+v, want it squeezed by time", longSleep, got)
	}
	for attempt := 0; ; attempt++ {
		r.reset(t)
		for range 10 {
			r.replay(t, short, 0, 0)
		}
		var timed uint32
		r.change(t, func(s *coreCpuState) { timed = s.Timed })
		if got := r.budget(t); got.Squeezes() == 0 && timed > 1 {
			return
		}
		if attempt == undisturbed {
			t.Fatalf("%+v, %d events in one tick; want no squeeze and several", r.budget(t), timed)
		}
	}
}
