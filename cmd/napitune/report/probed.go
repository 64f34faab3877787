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
// for they come from histograms with a bucket for each power of two.
type Latency struct {
	Path    string `json:"path"`
	Node    int    `json:"node"` // -1 = unknown
	CPUs    string `json:"cpus"` // those that had samples, list form
	Samples uint64 `json:"samples"`
	P50Ns   uint64 `json:"p50_ns"`
	P90Ns   uint64 `json:"p90_ns"`
	P99Ns   uint64 `json:"p99_ns"`
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
	// another's; Other all other packets dropped here.
	Backlog uint64 `json:"backlog"`
	Other   uint64 `json:"other"`
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
		l.P50Ns, _ = merged[node].AtMost(0.5)
		l.P90Ns, _ = merged[node].AtMost(0.9)
		l.P99Ns, _ = merged[node].AtMost(0.99)
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
		if d.Backlog+d.Other > 0 || d.RPSInterrupts != nil && *d.RPSInterrupts > 0 {
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
		p.hang("", plain, 2, fmt.Sprintf("%s on %s: half within %s µs, 90 %% within %s µs, 99 %% within %s µs (%s sampled)",
			l.Path, where, inMicroseconds(l.P50Ns), inMicroseconds(l.P90Ns), inMicroseconds(l.P99Ns), count(l.Samples)))
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
		interrupts := "not known"
		if d.RPSInterrupts != nil {
			interrupts = count(*d.RPSInterrupts)
		}
		t.add(strconv.Itoa(d.CPU), count(d.Backlog), count(d.Other), interrupts)
	}
	t.render(p, 2)
}

func inMicroseconds(ns uint64) string { return number(float64(ns) / 1e3) }
