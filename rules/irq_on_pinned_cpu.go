package rules

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/rules/plan"
)

var (
	pinnedShare = threshold("pinned-share", 0.3, "of a CPU",
		"a thread that needs a third of its CPU and cannot leave it waits for every softirq there; below that it finds time between them",
		"latency budgets below 100 µs")
	pinnedIdle = threshold("pinned-idle", 0.2, "of the CPU's time",
		"with more than a fifth of the CPU idle, thread and interrupts together still find room, and moving either gains little",
		"latency budgets below 100 µs")
	pinnedRefuge = threshold("pinned-refuge-idle", 0.5, "of the CPU's time",
		"a CPU that is to take the interrupts must keep room after it took the softirqs of a CPU that is full",
		"nothing known")
)

var _ = register(Rule{
	ID:    "irq-on-pinned-cpu",
	Title: "a pinned program shares its CPU with NIC interrupts",
	Page: Page{
		Meaning: "A program's thread is bound to the CPU that takes a NIC's interrupts, and there is not time for both. The scheduler may move neither. " +
			"In top the thread seems to need more CPU than its twins elsewhere: softirqs run on its account, because they interrupt it.",
		Evidence: "Threads that may run on one CPU only (sched_getaffinity, Cpus_allowed_list) and their CPU time over the window (/proc/PID/task/TID/stat), softirq and idle time of that CPU (/proc/stat), and that its softirqs are for packets: interrupts of queues (/proc/interrupts), runs of NET_RX, packets or, from probes, time. " +
			"The two busiest pinned threads of each CPU are looked at, among the first 10,000 threads.",
		Cause:       "The program was pinned (taskset, cpu-map of HAProxy, a cpuset, vcpupin) without a look at the interrupts, or irqbalance moved an interrupt there later.",
		Remedy:      "Move the interrupt to another core that shares the cache, so that packets stay near the program. Or pin the program to that core.",
		SideEffects: "Packets cross from one core to another, inside the cache.",
		NotWhen: "Programs that bring one thread per CPU (ScyllaDB in mq mode, DPDK) and every CPU has both: there is no better place, and nothing is said. " +
			"Do not answer by pinning program and interrupt to one CPU, nor by moving the interrupt to another socket.",
		Source:     "kernel/sched/cputime.c account_system_time (softirq time is charged to the thread it interrupts unless CONFIG_IRQ_TIME_ACCOUNTING is set); kernel/softirq.c",
		Thresholds: describe(pinnedShare, pinnedIdle, pinnedRefuge, activeSoftirq, activeRate, networkSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, s := range c.diagnosis.squatted {
			out = append(out, c.squattedFinding(s))
		}
		return out
	},
})

// squatted is a CPU on which a pinned thread and busy queues have not time
// enough for both.
type squatted struct {
	cpu    int
	thread host.Process
	share  float64 // of the CPU, what the thread took
	pairs  []*path
	refuge cpuset.Set // where the queues could go
}

// findSquatted looks for pinned threads in the way of queues, where there is
// a better CPU for the queues.
func (c *Case) findSquatted() {
	shares := c.threadShare(func(p host.Process) bool { return p.Pinned })
	taken := cpuset.Set{}
	for _, pid := range sortedByValue(shares) {
		if cpu, ok := c.pinnedTo(pid); ok && shares[pid] >= c.At(activeSoftirq) {
			taken = taken.Union(c.Last.Topo.Siblings(cpu)).Union(cpuset.Of(cpu))
		}
	}
	seen := map[int]bool{}
	for _, pid := range sortedByValue(shares) {
		cpu, ok := c.pinnedTo(pid)
		if !ok || seen[cpu] || shares[pid] < c.At(pinnedShare) || !c.crowded(cpu) {
			continue
		}
		seen[cpu] = true
		s := squatted{cpu: cpu, thread: c.process(pid), share: shares[pid], refuge: c.refuge(cpu, taken)}
		for _, p := range unfixed(pairsAt(c.Paths, cpu)) {
			if c.busyPath(p) && !c.onIsolated(p) && s.refuge.Overlaps(c.interruptible(p.dev)) {
				s.pairs = append(s.pairs, p)
			}
		}
		if len(s.pairs) > 0 {
			c.diagnosis.squatted = append(c.diagnosis.squatted, s)
		}
	}
}

// refugeOf are the CPUs for a pair that must leave a pinned thread alone.
func (c *Case) refugeOf(p *path) (cpuset.Set, bool) {
	for _, s := range c.diagnosis.squatted {
		if slices.Contains(s.pairs, p) {
			return s.refuge, true
		}
	}
	return cpuset.Set{}, false
}

// pinnedTo is the CPU that a pinned thread may run on.
func (c *Case) pinnedTo(pid int) (int, bool) {
	cpu, err := strconv.Atoi(c.process(pid).Allowed)
	return cpu, err == nil && cpu >= 0 && cpu <= cpuset.MaxCPU
}

// crowded reports whether a CPU spends time on softirqs of packets and has
// hardly any left.
func (c *Case) crowded(cpu int) bool {
	share, known := c.CPU[cpu]
	return known && c.worksOnPackets(cpu) && share.Softirq+share.IRQ >= c.At(activeSoftirq) && share.Idle <= c.At(pinnedIdle)
}

// refuge are CPUs with time to spare that share the cache with the given one
// (the node where caches are not known), on cores without pinned threads.
func (c *Case) refuge(cpu int, taken cpuset.Set) cpuset.Set {
	t := c.Last.Topo
	near := t.LLCOf(cpu)
	if near.Len() < 2 {
		near = t.NodeCPUs(t.NodeOf(cpu))
	}
	var out cpuset.Set
	for other := range near.Minus(taken).Minus(t.Siblings(cpu)).All() {
		if share, known := c.CPU[other]; known && other != cpu && share.Idle >= c.At(pinnedRefuge) {
			out = out.Union(cpuset.Of(other))
		}
	}
	return out
}

func (c *Case) squattedFinding(s squatted) plan.Finding {
	share := c.CPU[s.cpu]
	f := plan.Finding{
		Severity: plan.Advice, Subject: cpuName(s.cpu),
		Claim: fmt.Sprintf("%s (thread %d) is pinned to CPU %d and takes %s of it, where the interrupts of %s make softirqs for %s; only %s is left",
			s.thread.Comm, s.thread.PID, s.cpu, percent(s.share), pairNames(s.pairs), percent(share.Softirq+share.IRQ), percent(share.Idle)),
		Evidence: append([]plan.Evidence{
			{Metric: "pinned_thread_share", Value: s.share, Unit: "of the CPU's time", Threshold: c.At(pinnedShare), Source: fmt.Sprintf("/proc/%d/stat", s.thread.PID)},
			{Metric: "idle_share", Value: share.Idle, Unit: "of the CPU's time", Threshold: c.At(pinnedIdle), Source: "/proc/stat"},
		}, c.cpuEvidence(s.cpu)...),
		Operator: fmt.Sprintf("or pin the program elsewhere (taskset -cp CPU %d): CPUs %s share the cache and have time", s.thread.PID, s.refuge),
	}
	if twins, n := c.twins(s); n > 0 {
		f.Claim += fmt.Sprintf("; its %d twins on CPUs without NIC interrupts take %s", n, percent(twins))
		f.Evidence = append(f.Evidence, plan.Evidence{Metric: "twin_share", Value: twins, Unit: "of a CPU, mean", Source: "/proc/PID/stat"})
	}
	f.Wants = c.affinityWants(s.pairs, fmt.Sprintf("%s is pinned to CPU %d", s.thread.Comm, s.cpu), c.relief(s.cpu))
	return f
}

// twins is what pinned threads of the same name take on average on CPUs that
// take no NIC interrupts, and how many there are. A number at the end of a name
// tells threads of one program apart.
func (c *Case) twins(s squatted) (mean float64, n int) {
	name := func(p host.Process) string { return strings.TrimRight(p.Comm, "0123456789") }
	shares := c.threadShare(func(p host.Process) bool {
		return p.Pinned && p.PID != s.thread.PID && name(p) == name(s.thread)
	})
	for _, pid := range sortedByValue(shares) {
		if cpu, ok := c.pinnedTo(pid); ok && c.loads[cpu] == 0 {
			mean += shares[pid]
			n++
		}
	}
	return mean / float64(max(n, 1)), n
}
