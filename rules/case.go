package rules

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/natural"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules/plan"
)

// Case is what a rule sees: the observation, the policy and what was worked
// out once for all rules.
type Case struct {
	*detect.Observation
	Policy profiles.Policy

	// Allowed are the CPUs that network work may be put on.
	Allowed cpuset.Set
	// Paths are the queue pairs with known interrupts.
	Paths []*path

	// loads are the interrupts of all pairs per CPU.
	loads     map[int]uint64
	load      pairLoad
	rows      map[int]*detect.IRQ // of the last sample
	firstRows map[int]*detect.IRQ
	diagnosis *diagnosis
	roles     map[string]cpuset.Set // by device
	bootIRQs  cpuset.Set            // irqaffinity= of the kernel command line; empty for none
	astray    map[string]float64    // by device: the part of its interrupts that fires outside bootIRQs
}

// Evaluate runs the whole catalogue and returns the findings, worst first,
// causes before what follows from them, then by id and subject.
func Evaluate(o *detect.Observation, policy profiles.Policy) []plan.Finding {
	findings, _ := Judge(o, policy)
	return findings
}

// Judge is Evaluate, with what the interrupt placement behind the findings is
// predicted to do to each CPU.
func Judge(o *detect.Observation, policy profiles.Policy) ([]plan.Finding, []plan.Placement) {
	c := newCase(ordered(o), policy)
	var out []plan.Finding
	for _, r := range All() {
		for _, f := range r.Eval(c) {
			f.ID = r.ID
			out = append(out, c.weigh(f))
		}
	}
	c.blame(out)
	slices.SortStableFunc(out, func(a, b plan.Finding) int {
		return cmp.Or(cmp.Compare(b.Severity, a.Severity), cmp.Compare(follows(a), follows(b)), cmp.Compare(a.ID, b.ID), natural.Compare(a.Subject, b.Subject))
	})
	return out, c.report()
}

// causes are findings about a device, or the same CPU, that explain a saturated CPU, those that
// say most first.
var causes = []string{"tunnel-hash", "single-flow-bound", "virtio-queues-unused", "virtio-host-single-queue", "rps-needed", "rss-skew", "veth-softirq"}

// symptoms are findings about a CPU that a device's fault may explain.
var symptoms = []string{"cpu-saturated", "ksoftirqd-busy", "softirq-latency", "softirq-imbalance"}

// blame lets what is said of a CPU refer to the device whose queue keeps it
// busy, so that people mend the cause and not its signs.
func (c *Case) blame(findings []plan.Finding) {
	for i := range findings {
		f := &findings[i]
		if f.Because != "" || !slices.Contains(symptoms, f.ID) {
			continue
		}
		for _, id := range causes {
			at := slices.IndexFunc(findings, func(g plan.Finding) bool {
				return g.ID == id && g.Severity > plan.Note && (g.Subject == f.Subject || c.keepsBusy(g.Subject, f.Subject))
			})
			if at >= 0 {
				f.Because = id + "/" + findings[at].Subject
				break
			}
		}
	}
}

// keepsBusy reports whether a device's queue is served by this hot CPU.
func (c *Case) keepsBusy(device, cpu string) bool {
	if d := c.Last.Device(device); d != nil {
		if serving := c.servingCPU(d); serving >= 0 && names(cpu, serving) && c.hot(serving) {
			return true
		}
	}
	return slices.ContainsFunc(c.Paths, func(p *path) bool {
		return p.dev.Name == device && names(cpu, p.home()) && c.hot(p.home())
	})
}

// names reports whether a finding's subject is a CPU, or several with it among them.
func names(subject string, cpu int) bool {
	if list, several := strings.CutPrefix(subject, "CPUs "); several {
		set, err := cpuset.ParseList(list)
		return err == nil && cpu >= 0 && set.Has(cpu)
	}
	return subject == cpuName(cpu)
}

// follows is 1 for a finding that names another as its cause.
func follows(f plan.Finding) int {
	if f.Because == "" {
		return 0
	}
	return 1
}

func newCase(o *detect.Observation, policy profiles.Policy) *Case {
	policy.Devices = o.Last.WithLower(policy.Devices)
	c := &Case{Observation: o, Policy: policy}
	c.Allowed = policy.Roles(o.Last.AllowedCPUs())
	c.roles = map[string]cpuset.Set{}
	for _, d := range o.Last.Devices {
		c.roles[d.Name] = policy.DeviceRoles(o.Last.AllowedCPUs(), d.Name, d.Driver)
	}
	c.bootIRQs = o.Last.BootIRQs()
	c.rows, c.firstRows = rowsByNumber(&o.Last.IRQs), rowsByNumber(&o.First.IRQs)
	c.Paths = c.buildPaths()
	c.astray = c.outsideBoot()
	c.loads = cpuLoads(c.Paths)
	c.load = c.measureLoad()
	c.diagnose()
	return c
}

// of is the case as it stands for one device, whose thresholds and CPUs the
// policy may set apart.
func (c *Case) of(d *detect.Device) *Case {
	own := *c
	own.Policy.Thresholds = c.Policy.DeviceThresholds(d.Name, d.Driver)
	own.Allowed = c.allowed(d)
	return &own
}

// allowed are the CPUs that may serve a device.
func (c *Case) allowed(d *detect.Device) cpuset.Set { return c.roles[d.Name] }

// interruptible are the CPUs that may take a device's interrupts: those that may
// serve it and are in irqaffinity= of the kernel command line. A policy that names
// network CPUs is the later word, and a device whose interrupts fire elsewhere was
// never bound by the option.
func (c *Case) interruptible(d *detect.Device) cpuset.Set {
	own := c.allowed(d)
	boot := own.Intersect(c.bootIRQs)
	if boot.IsEmpty() || c.Policy.NamesCPUs(d.Name, d.Driver) || c.strays(d) {
		return own
	}
	return boot
}

// interruptCPUs are the interruptible CPUs that are nearest to a device.
func (c *Case) interruptCPUs(d *detect.Device) cpuset.Set {
	return c.nearest(d, c.interruptible(d))
}

// queuePerCore reports whether a device has a receive queue that may interrupt
// each of the cores near it, and how many those are. Where its interrupts are kept
// to some of them, RPS alone brings packets to the others.
func (c *Case) queuePerCore(d *detect.Device) (cores int, each bool) {
	cores = c.Last.Topo.Cores(c.local(d))
	return cores, cores > 0 && min(rxQueues(d), c.Last.Topo.Cores(c.interruptCPUs(d))) >= cores
}

// interruptibleAny are the CPUs that may take interrupts of some device.
func (c *Case) interruptibleAny() cpuset.Set {
	var out cpuset.Set
	for _, p := range c.Paths {
		out = out.Union(c.interruptible(p.dev))
	}
	return out
}

// allowedAny are the CPUs that may serve some device.
func (c *Case) allowedAny() cpuset.Set {
	out := c.Allowed
	for _, p := range c.Paths {
		out = out.Union(c.allowed(p.dev))
	}
	return out
}

// weigh lowers what rests on weak evidence. Sources that contradict each other
// mean that the host was pieced together or changed while it was read: nothing
// may be proposed from it.
func (c *Case) weigh(f plan.Finding) plan.Finding {
	if c.Basis != detect.BasisWindow && len(f.Evidence) > 0 {
		f.Low = true
	}
	if len(c.Inconsistent) > 0 && f.ID != idNotEnoughEvidence {
		f.Low = true
		f.Severity = plan.Note
		f.Wants = nil
		f.Missing = append(f.Missing, "sources that agree with each other: "+c.Inconsistent[0])
	}
	if c.Policy.HarmOnly && f.Severity < plan.Problem {
		f.Severity, f.Wants = plan.Note, nil
	}
	return f
}

// acts reports whether a finding of this severity may lead to changes, as weigh
// has it.
func (c *Case) acts(severity plan.Severity) bool {
	return len(c.Inconsistent) == 0 && (!c.Policy.HarmOnly || severity >= plan.Problem)
}

// knob reads a setting; ok is false unless a value is known.
func (c *Case) knob(ref knob.Ref) (string, bool) {
	state, ok := c.Last.Knobs[ref]
	if !ok || !state.Has() {
		return "", false
	}
	return state.Value, true
}

// capped lowers a value to what the policy allows for this setting.
func (c *Case) capped(ref knob.Ref, d *detect.Device, value int) int {
	if most := c.Policy.Cap(ref, d.Driver); most > 0 {
		return min(value, most)
	}
	return value
}

// down reports whether a device is known to be off or without a link.
func down(d *detect.Device) bool { return d.Up == detect.No || d.Carrier == detect.No }

// devices are those with hardware queues of their own that the policy wants
// judged, each with the case as it stands for it. Without a link there is
// nothing to judge.
func (c *Case) devices() iter.Seq2[*Case, *detect.Device] {
	return func(yield func(*Case, *detect.Device) bool) {
		for _, d := range c.Last.Devices {
			if c.wanted(d.Name) && !down(d) && (d.Kind == "physical" || d.Kind == "virtio") && !yield(c.of(d), d) {
				return
			}
		}
	}
}
