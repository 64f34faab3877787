package boot_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles/boot"
	"github.com/napitune/napitune/rules/plan"
)

func machine(t *testing.T, spec hosttest.Spec) *detect.Snapshot {
	t.Helper()
	samples, err := hosttest.Generate(spec)
	if err != nil {
		t.Fatal(err)
	}
	s, err := detect.Collect(samples[len(samples)-1])
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func parse(t *testing.T, text string) boot.Profile {
	t.Helper()
	p, err := boot.Parse("p.yaml", []byte("boot-profile: 1\nname: p\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func changes(p plan.Plan) map[string]string {
	out := map[string]string{}
	for _, c := range p.Changes {
		out[c.Ref.String()] = c.After
	}
	return out
}

// The virtual machine of these tests: 4 CPUs, two virtio NICs with 2 of 4 queues.
var small = hosttest.Spec{CPUs: 4, NICs: 2, QueuesPerNIC: 2, MaxQueues: 4, IRQStacked: true}

func TestPlan(t *testing.T) {
	t.Parallel()
	s := machine(t, small)
	first, second := s.Devices[0].Name, s.Devices[1].Name
	for _, test := range []struct {
		name, profile string
		scope         boot.Scope
		want          map[string]string
		deferred      int
		problems      []string
	}{
		{
			name:    "host and devices",
			profile: "host: {net.core.netdev_budget: 600, net.core.dev_weight: 64}\ndevices:\n- match: {driver: virtio_net}\n  settings: {gro_flush_timeout: 20000}\n",
			want: map[string]string{
				"net.core.netdev_budget": "600", first + "/gro_flush_timeout": "20000", second + "/gro_flush_timeout": "20000",
			},
		},
		{
			name:    "host only",
			profile: "host: {net.core.netdev_budget: 600}\ndevices:\n- match: {driver: virtio_net}\n  settings: {gro_flush_timeout: 20000}\n- match: {driver: nothing}\n",
			scope:   boot.Scope{HostOnly: true},
			want:    map[string]string{"net.core.netdev_budget": "600"},
		},
		{
			name:    "one device",
			profile: "host: {net.core.netdev_budget: 600}\ndevices:\n- match: {driver: virtio_net}\n  settings: {gro_flush_timeout: 20000}\n- match: {driver: nothing}\n",
			scope:   boot.Scope{Device: second},
			want:    map[string]string{second + "/gro_flush_timeout": "20000"},
		},
		{
			name:     "one device that is not there",
			profile:  "devices:\n- match: {name: eth*}\n  settings: {gro_flush_timeout: 20000}\n",
			scope:    boot.Scope{Device: "eth77"},
			want:     map[string]string{},
			problems: []string{"eth77: this host has no such network device"},
		},
		{
			name:     "one device without an entry",
			profile:  "devices:\n- match: {name: " + first + "}\n  settings: {gro_flush_timeout: 20000}\n",
			scope:    boot.Scope{Device: second},
			want:     map[string]string{},
			problems: []string{second + ": the profile has no entry for it"},
		},
		{
			name:    "a unit started for a device without an entry",
			profile: "devices:\n- match: {name: " + first + "}\n  settings: {gro_flush_timeout: 20000}\n",
			scope:   boot.Scope{Device: second, IfPresent: true},
			want:    map[string]string{},
		},
		{
			name:    "missing, too large, no such queue",
			profile: "host: {net.core.netdev_budget: 600}\ndevices:\n- match: {driver: mlx5_core}\n- match: {driver: virtio_net, queues: 8}\n- match: {name: " + first + "}\n  settings:\n    ring.rx: 8192\n    rx-6/rps.cpus: 1\n    rx-7/rps.cpus: 1\n    gro_flush_timeout: 20000\n",
			want:    map[string]string{"net.core.netdev_budget": "600", first + "/gro_flush_timeout": "20000"},
			problems: []string{
				"line 5: driver mlx5_core: this host has no such network device",
				"line 6: driver virtio_net, queues 8: this host has no such network device; " + first + " is there and offers 4",
				"line 9: " + first + "/ring.rx: cannot be 8192: the hypervisor does not offer resizing of rings (VIRTIO_F_RING_RESET)",
				"line 10: " + first + "/rx-6/rps.cpus: cannot be 1: " + first + " has 2 receive queues and no such one",
				"line 11: " + first + "/rx-7/rps.cpus: cannot be 1: " + first + " has 2 receive queues and no such one",
			},
		},
		{
			name:     "optional",
			profile:  "devices:\n- match: {driver: mlx5_core}\n  optional: true\n",
			want:     map[string]string{},
			problems: nil,
		},
		{
			name:     "queues first",
			profile:  "devices:\n- match: {name: " + first + "}\n  settings: {channels.combined: 4, rx-*/irq.affinity: solve, rx-3/rps.cpus: 0-1}\n",
			want:     map[string]string{first + "/channels.combined": "4"},
			deferred: 2, // that of rx-1, which is on CPU 0, and RPS of the queue to come
		},
		{
			name:    "single queues before all",
			profile: "devices:\n- match: {name: " + first + "}\n  settings: {rx-0/rps.cpus: 2, rx-*/rps.cpus: 3}\n",
			want:    map[string]string{first + "/rx-0/rps.cpus": "2", first + "/rx-1/rps.cpus": "3"},
		},
		{
			name:    "later entries before earlier ones",
			profile: "devices:\n- match: {driver: virtio_net}\n  settings: {rx-0/rps.cpus: 2}\n- match: {name: " + second + "}\n  settings: {rx-*/rps.cpus: 3}\n",
			want:    map[string]string{first + "/rx-0/rps.cpus": "2", second + "/rx-0/rps.cpus": "3", second + "/rx-1/rps.cpus": "3"},
		},
		{
			name:    "solved together",
			profile: "devices:\n- match: {driver: virtio_net}\n  settings: {rx-*/irq.affinity: solve}\n",
			scope:   boot.Scope{Device: second},
			want:    map[string]string{second + "/rx-0/irq.affinity": "2", second + "/rx-1/irq.affinity": "3"},
		},
		{
			name:     "a CPU that is not there",
			profile:  "devices:\n- match: {name: " + first + "}\n  settings: {rx-*/rps.cpus: 7}\n",
			want:     map[string]string{},
			problems: []string{"line 5: " + first + "/rx-{0-1}/rps.cpus: cannot be 7: CPUs 7 are not among the allowed 0-3"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p, problems := parse(t, test.profile).Plan(s, test.scope)
			if diff := cmp.Diff(test.want, changes(p)); diff != "" {
				t.Errorf("changes (-want +got)\n%s", diff)
			}
			if len(p.Deferred) != test.deferred || p.Complete == (test.deferred > 0) {
				t.Errorf("deferred %v, complete %v", p.Deferred, p.Complete)
			}
			var told []string
			for _, problem := range problems {
				told = append(told, problem.String())
			}
			if diff := cmp.Diff(test.problems, told); diff != "" {
				t.Errorf("problems (-want +got)\n%s", diff)
			}
		})
	}
}

// A device that is down may show neither queues nor interrupts: that is told
// apart from what can never be.
// TestNamesSwapped: udev may name two NICs the other way round at the next
// boot. An entry that matches by bus or hardware address follows the device.
func TestNamesSwapped(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"bus", "mac"} {
		s := machine(t, small)
		a, b := s.Devices[0], s.Devices[1]
		a.MAC, b.MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
		key := map[string]string{"bus": a.Bus, "mac": a.MAC}[by]
		profile := parse(t, "devices:\n- match: {"+by+": \""+key+"\"}\n  settings: {gro_flush_timeout: 20000}\n")
		for _, name := range []string{a.Name, b.Name} {
			p, problems := profile.Plan(s, boot.Scope{})
			if diff := cmp.Diff(map[string]string{name + "/gro_flush_timeout": "20000"}, changes(p)); diff != "" || len(problems) > 0 {
				t.Errorf("by %s: %v (-want +got)\n%s", by, problems, diff)
			}
			a.Name, b.Name = b.Name, a.Name
		}
	}
}

func TestPlanOfDeviceThatIsDown(t *testing.T) {
	t.Parallel()
	s := machine(t, small)
	d := s.Devices[0]
	d.Up = detect.No
	ref := knob.Rx(d.Name, 0, "irq.affinity")
	s.Knobs[ref] = knob.State{Status: knob.Unknown, Reason: "no interrupt carries the number of queue 0"}
	p, problems := parse(t, "devices:\n- match: {name: "+d.Name+"}\n  settings: {rx-0/irq.affinity: 1, gro_flush_timeout: 20000}\n").Plan(s, boot.Scope{})
	if diff := cmp.Diff(map[string]string{d.Name + "/gro_flush_timeout": "20000"}, changes(p)); diff != "" {
		t.Errorf("changes (-want +got)\n%s", diff)
	}
	if len(problems) != 1 || problems[0].Kind != boot.Down || problems[0].Excused() {
		t.Errorf("problems: %v", problems)
	}
	// Where the device need not be there at all, it need not be up.
	for _, settings := range []string{"rx-0/irq.affinity: 1", "rx-*/irq.affinity: 1", "tx-*/xps.cpus: solve"} {
		for i := range d.Queues {
			delete(s.Knobs, knob.Tx(d.Name, d.Queues[i].N, "xps.cpus"))
		}
		_, problems = parse(t, "devices:\n- match: {name: "+d.Name+"}\n  optional: true\n  settings: {"+settings+"}\n").Plan(s, boot.Scope{})
		if len(problems) != 1 || !problems[0].Excused() {
			t.Errorf("optional, %s: %+v", settings, problems)
		}
	}
	_, problems = parse(t, "devices:\n- match: {name: "+s.Devices[1].Name+"}\n  optional: true\n  settings: {rx-0/rps.cpus: 7}\n").Plan(s, boot.Scope{})
	if len(problems) != 1 || problems[0].Excused() {
		t.Errorf("what a device that is up cannot take is no excuse: %+v", problems)
	}
}

// What another process failed to set is left alone.
func TestExcept(t *testing.T) {
	t.Parallel()
	s := machine(t, small)
	p, problems := parse(t, "host: {net.core.netdev_budget: 600, net.core.dev_weight: 63}\n").
		Plan(s, boot.Scope{Except: map[knob.Ref]bool{knob.Global("net.core.netdev_budget"): true}})
	if diff := cmp.Diff(map[string]string{"net.core.dev_weight": "63"}, changes(p)); diff != "" || len(problems) > 0 {
		t.Errorf("(-want +got)\n%s %v", diff, problems)
	}
}
