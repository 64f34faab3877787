package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/topo"
	"github.com/napitune/napitune/probes/counters"
)

// Probed is what those in-kernel probes counted that are off by default and
// that no rule reads.
type Probed struct {
	Latency []Latency   `json:"latency,omitempty"`
	Drops   *DropWindow `json:"drops,omitempty"`
	// Quiet names probes that took part and had nothing to count.
	Quiet []string `json:"quiet,omitempty"`
}

// Paths of Latency.
const (
	pathPoll    = "poll to socket"
	pathRead    = "socket to read"
	pathControl = "virtio control command"
)

// Latency is how long one part of a packet's way took on a group of CPUs: those
// of one NUMA node. The percentiles are upper bounds, at most twice the truth,
// for they come from histograms with a bucket for each power of two. Where More
// is true the percentile is more than the figure, for the last bucket is open.
type Latency struct {
	Path    string `json:"path"`
	Node    int    `json:"node"` // -1 = unknown
	CPUs    string `json:"cpus"` // those that had samples, list form
	Samples uint64 `json:"samples"`
	P50Ns   uint64 `json:"p50_ns"`
	P90Ns   uint64 `json:"p90_ns"`
	P99Ns   uint64 `json:"p99_ns"`
	P50More bool   `json:"p50_more,omitempty"`
	P90More bool   `json:"p90_more,omitempty"`
	P99More bool   `json:"p99_more,omitempty"`
}

// DropWindow is what was lost, and which interrupts RPS sent, in the part of the
// window in which that was looked at.
type DropWindow struct {
	Seconds float64   `json:"seconds"`
	CPUs    []DropCPU `json:"cpus"`
}

// DropCPU is one CPU of a DropWindow.
type DropCPU struct {
	CPU int `json:"cpu"`
	// Backlog is packets that this CPU could not put into a backlog, its own or
	// another's; absent = the kernel does not tell them from the others. Other is all
	// other packets dropped here.
	Backlog *uint64 `json:"backlog,omitempty"`
	Other   uint64  `json:"other"`
	// RPSInterrupts is those of RPS that this CPU took; absent = not known.
	RPSInterrupts *uint64 `json:"rps_interrupts,omitempty"`
}

// probed is nil unless a probe that is off by default took part.
func probed(obs *detect.Observation) *Probed {
	c := obs.Probes
	if c == nil {
		return nil
	}
	var out Probed
	if tookPart(c, "latency") {
		out.Latency = append(out.Latency, latencies(pathPoll, obs.Last.Topo, c.Latency, func(l counters.Latency) (int, counters.Hist) { return l.CPU, l.PollToSocketNs })...)
		out.Latency = append(out.Latency, latencies(pathRead, obs.Last.Topo, c.Latency, func(l counters.Latency) (int, counters.Hist) { return l.CPU, l.SocketToReadNs })...)
		if len(out.Latency) == 0 {
			out.Quiet = append(out.Quiet, "latency")
		}
	}
	if tookPart(c, "virtio-control") {
		commands := latencies(pathControl, obs.Last.Topo, c.Control, func(l counters.Control) (int, counters.Hist) { return l.CPU, l.CommandNs })
		if len(commands) == 0 {
			out.Quiet = append(out.Quiet, "virtio-control")
		}
		out.Latency = append(out.Latency, commands...)
	}
	out.Drops = drops(c)
	if len(out.Latency) == 0 && out.Drops == nil && len(out.Quiet) == 0 {
		return nil
	}
	return &out
}

// wholly is the coverage from which on it is not worth a word.
const wholly = 0.995

// probeGaps are a line each on what limits the figures of the probes.
func probeGaps(obs *detect.Observation) []string {
	c := obs.Probes
	if c == nil {
		return nil
	}
	var out []string
	add := func(when bool, text string, args ...any) {
		if when {
			out = append(out, fmt.Sprintf(text, args...))
		}
	}
	coverage := c.Coverage()
	add(c.AttachedNs > 0 && coverage < wholly,
		"probes were attached %.0f %% of the window, to bound what they cost: their counts are a sample", 100*coverage)
	for _, w := range c.Windows {
		add(w.AttachedNs == 0, "%s: not looked at, the window is too short for what runs once per packet, or for its cost", w.Probe)
		add(w.SwitchedOff > 0, "%s switched itself off %s, above %s per CPU and tick: %s not looked at",
			w.Probe, plural(int(w.SwitchedOff), "time"), plural(int(w.LimitPerJiffy), "event"), plural(int(w.Skipped), "event"))
		add(w.Overflow > 0, "%s: no room for some devices, %s not counted", w.Probe, plural(int(w.Overflow), "event"))
	}
	sum := sumCPUs(c.CPUs)
	add(sum.NAPIOverflow > 0, "no room for some NAPIs: %s counted in no NAPI", plural(int(sum.NAPIOverflow), "poll"))
	add(sum.VirtioOverflow > 0, "no room for %s of virtio: their rings were not looked at", plural(int(sum.VirtioOverflow), "receive queue"))
	add(c.BudgetChanged, "netdev_budget or netdev_budget_usecs changed in the window: causes of squeezes are not to be trusted")
	add(sum.Budget.InferredRuns > 0, "%s of %s judged without the kernel's own counter: a squeeze may be missing, or one too many",
		count(sum.Budget.InferredRuns), plural(int(sum.Budget.Runs), "receive softirq"))
	add(sum.Budget.SqueezedUnexplained > 0, "%s without a cause: neither limit was seen exceeded", plural(int(sum.Budget.SqueezedUnexplained), "squeeze"))
	return append(out, unexplained(obs, sum.Budget)...)
}

// unexplained compares squeezes with the kernel's own count of them, where the
// probes saw the whole window.
func unexplained(obs *detect.Observation, b counters.Budget) []string {
	if len(obs.Softnet) == 0 || obs.Basis != detect.BasisWindow || !tookPart(obs.Probes, "budget") || obs.Probes.AttachedNs < obs.Probes.TakenNs {
		return nil
	}
	var kernel uint64
	for _, d := range obs.Softnet {
		kernel += d.Squeezed
	}
	switch n := b.Unexplained(kernel); {
	case n > 0:
		return []string{fmt.Sprintf("softnet_stat counted %s more than the probes", plural(int(n), "squeeze"))}
	case n < 0:
		return []string{fmt.Sprintf("the probes counted %s more than softnet_stat", plural(int(-n), "squeeze"))}
	}
	return nil
}

// sumCPUs adds up what gaps are about.
func sumCPUs(cpus []counters.CPU) counters.CPU {
	var sum counters.CPU
	for _, c := range cpus {
		sum.NAPIOverflow += c.NAPIOverflow
		sum.VirtioOverflow += c.VirtioOverflow
		b := &sum.Budget
		b.Runs += c.Budget.Runs
		b.InferredRuns += c.Budget.InferredRuns
		b.SqueezedPackets += c.Budget.SqueezedPackets
		b.SqueezedTime += c.Budget.SqueezedTime
		b.SqueezedBoth += c.Budget.SqueezedBoth
		b.SqueezedUnexplained += c.Budget.SqueezedUnexplained
	}
	return sum
}

func tookPart(c *counters.Counters, probe string) bool {
	return slices.ContainsFunc(c.Probes, func(s counters.Status) bool { return s.Name == probe && s.State == counters.Attached })
}

// latencies merges the histograms of each node's CPUs.
func latencies[R any](path string, t *topo.Topology, rows []R, of func(R) (cpu int, h counters.Hist)) []Latency {
	merged, cpus := map[int]counters.Hist{}, map[int][]int{}
	var nodes []int
	for _, r := range rows {
		cpu, h := of(r)
		if h.Count() == 0 {
			continue
		}
		node := nodeOf(t, cpu)
		if merged[node].Count() == 0 {
			nodes = append(nodes, node)
		}
		merged[node] = merged[node].Merge(h)
		cpus[node] = append(cpus[node], cpu)
	}
	slices.Sort(nodes)
	var out []Latency
	for _, node := range nodes {
		l := Latency{Path: path, Node: node, CPUs: cpuset.Of(cpus[node]...).String(), Samples: merged[node].Count()}
		l.P50Ns, l.P50More, _ = merged[node].Quantile(0.5)
		l.P90Ns, l.P90More, _ = merged[node].Quantile(0.9)
		l.P99Ns, l.P99More, _ = merged[node].Quantile(0.99)
		out = append(out, l)
	}
	return out
}

// drops is nil if no window was opened for them.
func drops(c *counters.Counters) *DropWindow {
	at := slices.IndexFunc(c.Windows, func(w counters.Window) bool { return w.Probe == "drops" && w.AttachedNs > 0 })
	if at < 0 {
		return nil
	}
	out := &DropWindow{Seconds: float64(c.Windows[at].AttachedNs) / 1e9, CPUs: []DropCPU{}}
	for _, d := range c.Drops {
		some := func(n *uint64) bool { return n != nil && *n > 0 }
		if d.Other > 0 || some(d.Backlog) || some(d.RPSInterrupts) {
			out.CPUs = append(out.CPUs, DropCPU{CPU: d.CPU, Backlog: d.Backlog, Other: d.Other, RPSInterrupts: d.RPSInterrupts})
		}
	}
	return out
}

func (p *page) probed(found *Probed) {
	if found == nil {
		return
	}
	p.blank()
	p.line(p.paint(bold, "Counted by probes"))
	for _, l := range found.Latency {
		where := "CPU " + l.CPUs
		if strings.ContainsAny(l.CPUs, ",-") {
			where = "CPUs " + l.CPUs
		}
		if l.Node >= 0 {
			where += " of node " + strconv.Itoa(l.Node)
		}
		p.hang("", plain, 2, fmt.Sprintf("%s on %s: %s, %s, %s (%s sampled)", l.Path, where,
			within("half", "half", l.P50Ns, l.P50More), within("90 %", "10 %", l.P90Ns, l.P90More),
			within("99 %", "1 %", l.P99Ns, l.P99More), count(l.Samples)))
	}
	for _, name := range found.Quiet {
		p.hang("", plain, 2, name+": nothing happened that it samples")
	}
	p.drops(found.Drops)
}

func (p *page) drops(w *DropWindow) {
	if w == nil {
		return
	}
	seconds := number(w.Seconds) + " s"
	if len(w.CPUs) == 0 {
		p.hang("", plain, 2, "drops: none and no RPS interrupt in "+seconds)
		return
	}
	p.line("  dropped in " + seconds + ", by the CPU that did it:")
	t := table{heads: []string{"CPU", "NO ROOM IN A BACKLOG", "OTHER", "RPS INTERRUPTS TAKEN"}, right: map[int]bool{0: true, 1: true, 2: true}, limit: 20}
	for _, d := range w.CPUs {
		t.add(strconv.Itoa(d.CPU), known(d.Backlog), count(d.Other), known(d.RPSInterrupts))
	}
	t.render(p, 2)
}

// known is a count that not every kernel tells.
func known(n *uint64) string {
	if n == nil {
		return "not known"
	}
	return count(*n)
}

// within says in what time a part of all waits ended or, where that is not known,
// beyond what time the rest is.
func within(part, rest string, ns uint64, more bool) string {
	if more {
		return "more than " + rest + " above " + inMicroseconds(ns) + " µs"
	}
	return part + " within " + inMicroseconds(ns) + " µs"
}

func inMicroseconds(ns uint64) string { return number(float64(ns) / 1e3) }
