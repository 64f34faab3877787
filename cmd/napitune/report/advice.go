// Package report renders what napitune found as text, JSON, YAML and shell
// script. It gets plain values (observation, findings, plan), makes one
// document of them and prints that; it reads nothing and writes only to the
// io.Writer it is given.
package report

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

// Schemas name the JSON documents and their versions. A field may be added
// within a version; removing or changing one makes a new version.
const (
	SchemaAdvice = "napitune/advice/v1"
	SchemaMap    = "napitune/map/v1"
	SchemaKnobs  = "napitune/knobs/v1"
	SchemaDoctor = "napitune/doctor/v1"
)

// GapProbes is the source of gaps in what the in-kernel probes tell.
const GapProbes = "probes"

// Advice is the answer of "napitune advise": what was looked at, what was
// found and what to change. It is the JSON document; text and shell script are
// made from it alone.
type Advice struct {
	Schema    string           `json:"schema"`
	Host      Host             `json:"host"`
	Window    Window           `json:"window"`
	Verdict   string           `json:"verdict"`
	Findings  []Finding        `json:"findings"`
	Plan      plan.Plan        `json:"plan"`
	Placement []plan.Placement `json:"placement"`
	Gaps      []detect.Gap     `json:"gaps"`
	Overhead  Overhead         `json:"overhead"`
	Probed    *Probed          `json:"probed,omitempty"`

	// Evidence are the figures behind a healthy verdict, for people: the same
	// counters are in the findings where something is wrong.
	Evidence []string `json:"-"`
	// Live says that the advice is for the machine it was made on; BootID is
	// that machine's, "" if unknown. The shell script checks it.
	Live   bool   `json:"-"`
	BootID string `json:"-"`
	// PolicyFile is where the policy was read from that judged, "" for one that
	// comes with the program; its name is Plan.Profile.
	PolicyFile string `json:"-"`
	// Probeless is why a captured host has no figures of in-kernel probes, ""
	// if it has; for the running machine that is among the gaps.
	Probeless string `json:"-"`
}

// Host identifies the machine in a report without naming it.
type Host struct {
	Release        string `json:"release"`
	Arch           string `json:"arch,omitempty"`
	CPUs           int    `json:"cpus"`  // online; 0 = unknown
	Nodes          int    `json:"nodes"` // NUMA nodes; 0 = not told
	Virtualization string `json:"virtualization"`
	// Devices are the network devices that were looked at, without loopback.
	Devices []HostDevice `json:"devices"`
}

// HostDevice is one network device in a report.
type HostDevice struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Driver string `json:"driver"`
	Node   int    `json:"node"`   // -1 = unknown
	Queues int    `json:"queues"` // receive queues in use; 0 = unknown
}

// Window says what the figures cover.
type Window struct {
	Seconds float64  `json:"seconds"` // 0 = unknown
	Samples int      `json:"samples"`
	Basis   string   `json:"basis"`  // detect.Basis in words
	Probes  []string `json:"probes"` // in-kernel probes that took part
	// ControlQueues are virtio control queues that were timed by reads of our own.
	ControlQueues []ControlQueue `json:"control_queues,omitempty"`
}

// ControlQueue is how long a virtio control queue takes to answer: the median
// of some reads.
type ControlQueue struct {
	Device       string  `json:"device"`
	Microseconds float64 `json:"microseconds"`
	Reads        int     `json:"reads"`
}

func controlQueues(obs *detect.Observation) []ControlQueue {
	if obs.Probes == nil {
		return nil
	}
	var out []ControlQueue
	for _, r := range obs.Probes.ControlReads {
		out = append(out, ControlQueue{Device: r.Device, Microseconds: float64(r.MedianNs) / 1e3, Reads: r.Reads})
	}
	return out
}

// Finding is plan.Finding with every array present.
type Finding struct {
	ID       string          `json:"id"`
	Severity string          `json:"severity"`
	Subject  string          `json:"subject"`
	Claim    string          `json:"claim"`
	Evidence []plan.Evidence `json:"evidence"`
	Missing  []string        `json:"missing"`
	Because  string          `json:"because,omitempty"`
	Operator string          `json:"operator,omitempty"`
	Low      bool            `json:"low_confidence,omitempty"`
}

// Overhead is what the measurement itself cost. Zero values are left out: a
// captured host was not disturbed by reading its capture.
type Overhead struct {
	CPUSeconds   float64 `json:"cpu_seconds,omitempty"` // user and system time of this process
	WallSeconds  float64 `json:"wall_seconds,omitempty"`
	MaxRSSBytes  int64   `json:"max_rss_bytes,omitempty"`
	ProbeSeconds float64 `json:"probe_seconds,omitempty"` // time the kernel spent in our programs
	ProbeRuns    uint64  `json:"probe_runs,omitempty"`    // how often it called them
	// ProbesEstimated is why ProbeSeconds is an estimate from the events that the
	// programs counted and not from BPF statistics; "" if it is not. ProbesUnknown
	// is why neither tells, "" if one does or no probe took part.
	ProbesEstimated string `json:"probes_estimated,omitempty"`
	ProbesUnknown   string `json:"probes_unknown,omitempty"`
}

// Verdicts in the order of badness.
const (
	Healthy = "healthy"
	Advised = "advice"
	Problem = "problem"
)

// NewAdvice makes the document from its parts. It sorts findings by severity,
// causes before what follows from them, then by id, keeping the order of
// subjects, and fills absent arrays.
func NewAdvice(obs *detect.Observation, findings []plan.Finding, p plan.Plan) Advice {
	a := Advice{
		Schema:    SchemaAdvice,
		Host:      newHost(obs.Last),
		Window:    Window{Seconds: obs.Window.Seconds(), Samples: obs.Samples, Basis: obs.Basis.String(), Probes: []string{}},
		Findings:  rank(findings),
		Plan:      whole(p),
		Placement: []plan.Placement{},
		Gaps:      gaps(obs),
		BootID:    obs.Last.Ident.BootID,
	}
	a.Window.ControlQueues = controlQueues(obs)
	a.Probed = probed(obs)
	a.Verdict = verdict(findings, p)
	a.Evidence = healthEvidence(obs)
	return a
}

func newHost(s *detect.Snapshot) Host {
	h := Host{
		Release:        s.Ident.Release,
		Arch:           s.Ident.Arch,
		Virtualization: s.Ident.Virtualization,
		Devices:        []HostDevice{},
	}
	if s.Topo != nil {
		h.CPUs = s.Topo.Online.Len()
		h.Nodes = len(s.Topo.Nodes)
	}
	for _, d := range s.Devices {
		if d.Kind == "loopback" {
			continue
		}
		h.Devices = append(h.Devices, HostDevice{
			Name: d.Name, Kind: d.Kind, Driver: d.Driver, Node: d.Node, Queues: rxQueues(d),
		})
	}
	return h
}

// rxQueues counts the receive queues in use, 0 if that is not known for sure.
func rxQueues(d *detect.Device) int {
	if !d.QueuesKnown {
		return 0
	}
	n := 0
	for _, q := range d.Queues {
		if q.Rx {
			n++
		}
	}
	return n
}

func rank(findings []plan.Finding) []Finding {
	sorted := slices.Clone(findings)
	slices.SortStableFunc(sorted, func(a, b plan.Finding) int {
		return cmp.Or(cmp.Compare(b.Severity, a.Severity), cmp.Compare(follows(a), follows(b)), cmp.Compare(a.ID, b.ID))
	})
	out := make([]Finding, 0, len(sorted))
	for _, f := range sorted {
		out = append(out, Finding{
			ID: f.ID, Severity: f.Severity.String(), Subject: f.Subject, Claim: f.Claim,
			Evidence: present(f.Evidence), Missing: present(f.Missing),
			Because: f.Because, Operator: f.Operator, Low: f.Low,
		})
	}
	return out
}

// follows is 1 for a finding that names another as its cause, which comes first.
func follows(f plan.Finding) int {
	if f.Because == "" {
		return 0
	}
	return 1
}

// present turns an absent list into an empty one, which JSON shows as [].
func present[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// whole is the plan with every array present.
func whole(p plan.Plan) plan.Plan {
	p.Changes = present(slices.Clone(p.Changes))
	for i := range p.Changes {
		p.Changes[i].Findings = present(p.Changes[i].Findings)
	}
	if p.Origin != nil {
		origin := *p.Origin
		origin.Devices = present(origin.Devices)
		p.Origin = &origin
	}
	p.Kept = present(slices.Clone(p.Kept))
	for i := range p.Kept {
		p.Kept[i].Findings = present(p.Kept[i].Findings)
	}
	p.Blocked = present(slices.Clone(p.Blocked))
	for i := range p.Blocked {
		p.Blocked[i].Findings = present(p.Blocked[i].Findings)
	}
	p.Deferred = present(p.Deferred)
	p.Conflicts = present(slices.Clone(p.Conflicts))
	for i := range p.Conflicts {
		p.Conflicts[i].Values = present(p.Conflicts[i].Values)
		p.Conflicts[i].Rules = present(p.Conflicts[i].Rules)
	}
	return p
}

// verdict is the worst finding. A change without a finding of weight is still
// advice: "healthy" means that there is nothing to do.
func verdict(findings []plan.Finding, p plan.Plan) string {
	worst := plan.Note
	for _, f := range findings {
		worst = max(worst, f.Severity)
	}
	switch {
	case worst == plan.Problem:
		return Problem
	case worst == plan.Advice || len(p.Changes) > 0:
		return Advised
	default:
		return Healthy
	}
}

// gaps lists what could not be read, each once, with the contradictions
// between sources as gaps of their own: both limit what can be concluded.
func gaps(obs *detect.Observation) []detect.Gap {
	out := []detect.Gap{}
	seen := map[detect.Gap]bool{}
	add := func(g detect.Gap) {
		if !seen[g] {
			seen[g] = true
			out = append(out, g)
		}
	}
	for _, g := range obs.Gaps {
		add(g)
	}
	for _, g := range obs.Last.Gaps {
		add(g)
	}
	for _, text := range probeGaps(obs) {
		add(detect.Gap{Source: GapProbes, Reason: text})
	}
	for _, text := range obs.Inconsistent {
		add(detect.Gap{Source: "consistency", Reason: text})
	}
	if obs.HotPlug {
		add(detect.Gap{Source: "consistency", Reason: "CPUs went online or offline between the samples"})
	}
	for _, name := range obs.Vanished {
		add(detect.Gap{Source: "consistency", Reason: "device " + name + " vanished between the samples"})
	}
	for _, name := range obs.Appeared {
		add(detect.Gap{Source: "consistency", Reason: "device " + name + " appeared between the samples"})
	}
	return out
}

// healthEvidence says in figures what a healthy verdict rests on. What was not
// measured is not mentioned.
func healthEvidence(obs *detect.Observation) []string {
	var out []string
	if text := netRxEvidence(obs); text != "" {
		out = append(out, text)
	}
	if text := softnetEvidence(obs); text != "" {
		out = append(out, text)
	}
	if text := interruptEvidence(obs); text != "" {
		out = append(out, text)
	}
	if text := deviceEvidence(obs); text != "" {
		out = append(out, text)
	}
	return out
}

func netRxEvidence(obs *detect.Observation) string {
	var total, most uint64
	home := -1
	for cpu, n := range obs.NetRx {
		total += n
		if n > most || n == most && home >= 0 && cpu < home {
			most, home = n, cpu
		}
	}
	if total == 0 {
		return ""
	}
	text := fmt.Sprintf("%s runs of NET_RX on %s; CPU %d took most, %.0f%% of them",
		count(total), plural(len(obs.NetRx), "CPU"), home, 100*float64(most)/float64(total))
	if share, ok := obs.CPU[home]; ok && share.Ticks > 0 {
		text += fmt.Sprintf(", and was %.0f%% idle", 100*share.Idle)
	}
	return text
}

func softnetEvidence(obs *detect.Observation) string {
	if len(obs.Softnet) == 0 {
		return ""
	}
	var sum detect.SoftnetDelta
	for _, d := range obs.Softnet {
		sum.Processed += d.Processed
		sum.Dropped += d.Dropped
		sum.Squeezed += d.Squeezed
	}
	return fmt.Sprintf("softnet: %s processed, %s dropped, %s ended by the budget",
		count(sum.Processed), count(sum.Dropped), plural(int(sum.Squeezed), "run"))
}

// interruptEvidence is where the interrupts of NIC queues fired.
func interruptEvidence(obs *detect.Observation) string {
	var total uint64
	loads, counted := map[int]uint64{}, map[int]bool{}
	for _, d := range obs.Last.Devices {
		for _, q := range d.Queues {
			for _, irq := range []int{q.RxIRQ, q.TxIRQ} {
				if irq < 0 || counted[irq] {
					continue
				}
				counted[irq] = true
				for cpu, n := range obs.IRQ[irq].CPU {
					loads[cpu] += n
					total += n
				}
			}
		}
	}
	if total == 0 {
		return ""
	}
	home := -1
	for cpu, n := range loads {
		if home < 0 || n > loads[home] || n == loads[home] && cpu < home {
			home = cpu
		}
	}
	return fmt.Sprintf("%s from %s of network devices; CPU %d took most, %.0f%% of them",
		count(total)+" interrupts", plural(len(counted), "line"), home, 100*float64(loads[home])/float64(total))
}

func deviceEvidence(obs *detect.Observation) string {
	var packets, lost uint64
	known := 0
	for _, d := range obs.Last.Devices {
		delta, ok := obs.Device[d.Name]
		if !ok || !delta.Known || d.Kind == "loopback" {
			continue
		}
		known++
		c := delta.Counters
		packets += c.RxPackets
		// Drivers book the same loss under one or several of these names
		// (Documentation/networking/statistics.rst), so a sum may count it twice.
		lost += max(c.RxFIFO, c.RxMissed, c.RxOver)
	}
	if known == 0 {
		return ""
	}
	return fmt.Sprintf("%s: %s packets received, %s lost for want of a receive buffer",
		plural(known, "device"), count(packets), count(lost))
}
