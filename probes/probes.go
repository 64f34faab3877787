// Package probes measures softirqs, receive budgets, NAPI load, GRO, backlog,
// interrupts and virtqueues with eBPF programs on the running kernel.
//
// Everything is added up in the kernel, in per-CPU maps; user space reads
// totals twice and subtracts. No event leaves the kernel. The default probes
// run once per softirq, poll or counted interrupt, never per packet; per-packet
// ones (GRO, drops, latency) run only while their window is open, and switch
// themselves off above a rate.
//
// Open never fails for lack of a privilege, a tracepoint or a helper: it
// returns a Session in which every probe has a State and a reason, and which
// reads as far as it could attach. Open attaches at once and for good, which
// gives exact counts; Observe then keeps the cost within a limit on hosts with
// so many softirqs that calling even an empty program for each is too dear.
// The package loads programs and reads maps;
// it changes no setting of the host.
package probes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/probes/counters"
)

// Options choose what to measure. The zero value is a good default.
type Options struct {
	// Probes names the probes to attach; nil means DefaultProbes. An empty,
	// non-nil list attaches none, and Status then explains what exists.
	Probes []string
	// IRQs are the interrupt lines to count: those of network queues. Others
	// cost one array lookup and are not counted. At most 512 are counted; the
	// Status of the probe says if some are not.
	IRQs []int
	// VirtioFeatures are the negotiated feature bits of every virtio-net device
	// of this network namespace by its name, as
	// /sys/class/net/NAME/device/features shows them. Where they include the
	// device's own statistics, Open reads those a few times, which tells how
	// fast the control queue answers. nil leaves that out.
	VirtioFeatures map[string]string
	// BudgetPackets and BudgetUsecs are net.core.netdev_budget and
	// netdev_budget_usecs; 0 means read them from /proc/sys, again at every Read.
	BudgetPackets, BudgetUsecs int
	// HZ is the kernel's tick rate; 0 means ask the kernel (the resolution of
	// CLOCK_MONOTONIC_COARSE is one tick).
	HZ int
	// ExactPerJiffy is how many events per CPU and jiffy are timed one by one
	// before sampling begins; 0 means 4, negative means none.
	ExactPerJiffy int
	// SampleOneIn is the sampling ratio beyond that: a power of two, 1 = time
	// every event; 0 means 16.
	SampleOneIn int
	// PacketsPerJiffy is the rate per CPU above which a per-packet probe
	// switches itself off for the rest of its window; 0 means 2000 (500 000
	// per second at HZ=250).
	PacketsPerJiffy int
	// MaxCostPercent is how much of the busiest CPU's time Observe lets the
	// probes take, attaching and detaching included; 0 means 0.5. Above it the
	// default probes are attached in slices.
	MaxCostPercent float64
}

// ErrUnknownProbe is wrapped by Open when Options names a probe that does not exist.
var ErrUnknownProbe = errors.New("no such probe")

// Session is a set of loaded programs and their maps. It is not safe for
// concurrent use. Close it, or the programs stay until the process ends.
type Session struct {
	started  uint64
	options  Options
	objects  map[string]*object
	statuses []counters.Status
	irqs     []int // interrupt number of each slot
	// uncounted is how many lines that were asked for have none.
	uncounted int
	budget    limits
	ticks     ticks
	// attachedNs is how long the core object was attached before
	// attachedSince, which is 0 while it is not.
	attachedNs, attachedSince uint64
	account                   account
	eventsSeen                []uint64 // per CPU, those that account knows of
	eventNs                   float64  // what one of them costs
	// windowNs is how long each windowed object has been attached.
	windowNs     map[string]uint64
	controlReads []counters.ControlRead
	// countedNs is, by object, how long it was attached while BPF statistics
	// were on, before they came on last, when it had been attached for statsSince.
	countedNs, statsSince map[string]uint64
	// costUnknown is why statistics could not be had, "" if they could.
	costUnknown string
	stats       io.Closer
}

// limits are the two receive budgets in the units the kernel compares.
type limits struct {
	packets, jiffies uint32
	// assumed is true if a sysctl could not be read and its default stands in.
	assumed bool
}

// Open loads and attaches what Options asks for. The error is about Options
// only; whatever the kernel refuses is in Status.
func Open(o Options) (*Session, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Session{
		started:  monotonicNs(),
		options:  o,
		objects:  make(map[string]*object),
		windowNs: make(map[string]uint64), countedNs: make(map[string]uint64),
		eventNs: eventCostNs,
		account: account{share: o.MaxCostPercent / 100, atNs: monotonicNs()},
	}
	s.irqs, s.uncounted = chosenIRQs(o.IRQs)
	s.budget = s.readLimits()
	// Before 5.11 maps count against RLIMIT_MEMLOCK. If it cannot be raised,
	// what needs more of it says so (denial).
	_ = rlimit.RemoveMemlock()
	s.ticks = findTicks(o.HZ)
	cache := btf.NewCache()
	// The core object comes first in the table and last here: it runs from now on.
	for _, d := range slices.Backward(objectTable()) {
		s.objects[d.name] = openObject(d, s.wantedHooks(d), s.tune, cache)
	}
	if core := s.objects["core"]; core.loaded() {
		s.attachedSince = monotonicNs()
		s.account.attached(s.attachedSince, 0, core.attachNs)
		s.findKernelCounters()
	}
	timed, reads := timeControl(o.VirtioFeatures, readDeviceStatistics)
	s.controlReads = reads
	s.statuses = append(s.judge(), timed)
	return s, nil
}

// findKernelCounters sends one packet to itself over loopback: it is received
// through the backlog of this CPU, whose poll shows the programs where the
// kernel keeps its own count of squeezes, on all CPUs. Where that fails the
// next packet through any backlog does as well, so nothing is an error here.
func (s *Session) findKernelCounters() {
	if s.knowsKernelCounters() {
		return
	}
	socket, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return // no loopback in this network namespace
	}
	defer socket.Close()
	if _, err := socket.WriteTo([]byte("napitune"), socket.LocalAddr()); err != nil {
		return // loopback is down
	}
	if err := socket.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		return // never seen
	}
	_, _, _ = socket.ReadFrom(make([]byte, 16)) // received or not, the programs know what they saw
}

// knowsKernelCounters is true once squeezes are read and not inferred.
func (s *Session) knowsKernelCounters() bool {
	distance, ok := s.objects["core"].variable("softnet_distance")
	return ok && distance != 0
}

func (o Options) withDefaults() (Options, error) {
	if o.Probes == nil {
		o.Probes = DefaultProbes()
	}
	known := probeTable()
	for _, name := range o.Probes {
		if !slices.ContainsFunc(known, func(p probe) bool { return p.name == name }) {
			return o, fmt.Errorf("open probe %q: %w", name, ErrUnknownProbe)
		}
	}
	if o.SampleOneIn == 0 {
		o.SampleOneIn = 16
	}
	if o.SampleOneIn < 0 || o.SampleOneIn > 4096 || o.SampleOneIn&(o.SampleOneIn-1) != 0 {
		return o, fmt.Errorf("sample one in %d: must be a power of two up to 4096", o.SampleOneIn)
	}
	switch {
	case o.ExactPerJiffy == 0:
		o.ExactPerJiffy = 4
	case o.ExactPerJiffy < 0:
		o.ExactPerJiffy = 0
	}
	if o.MaxCostPercent <= 0 {
		o.MaxCostPercent = 0.5
	}
	if o.PacketsPerJiffy == 0 {
		o.PacketsPerJiffy = 2000
	}
	if o.HZ == 0 {
		o.HZ = kernelHZ()
	}
	if o.PacketsPerJiffy < 0 || o.HZ < 0 {
		return o, fmt.Errorf("packets per jiffy %d, HZ %d: must not be negative", o.PacketsPerJiffy, o.HZ)
	}
	return o, nil
}

// chosenIRQs are at most maxIRQs distinct numbers in order, and how many are left out.
func chosenIRQs(irqs []int) (chosen []int, left int) {
	all := slices.Compact(slices.Sorted(slices.Values(irqs)))
	chosen = slices.DeleteFunc(slices.Clone(all), func(n int) bool { return n < 0 || n > maxIRQNumber })
	chosen = chosen[:min(len(chosen), maxIRQs)]
	return chosen, len(all) - len(chosen)
}

const (
	// maxIRQs bounds the per-CPU table of counted lines (bpf/core.bpf.c).
	maxIRQs = 512
	// maxIRQNumber bounds the filter array: 4 bytes each. arm64 numbers its
	// lines into the thousands.
	maxIRQNumber = 1<<16 - 1
)

func (s *Session) wants(name string) bool { return slices.Contains(s.options.Probes, name) }

// wantedHooks are the hooks of one object that a wanted probe needs or can use.
// Those that are attached in windows only are loaded when the window opens.
func (s *Session) wantedHooks(d objectDecl) []hook {
	var out []hook
	for _, h := range d.hooks {
		for _, p := range probeTable() {
			uses := slices.Contains(p.needs, h.name) || slices.Contains(p.uses, h.name)
			if p.object == d.name && uses && s.wants(p.name) {
				out = append(out, h)
				break
			}
		}
	}
	return out
}

// tune sets what has to be known before loading.
func (s *Session) tune(spec *ebpf.CollectionSpec) error {
	values := map[string]uint32{
		"exact_per_jiffy": uint32(s.options.ExactPerJiffy),
		"sample_mask":     uint32(s.options.SampleOneIn - 1),
		"with_raise":      flag(s.wants("softirq-delay")),
		"with_napi":       flag(s.wants("napi") || s.wants("backlog") || s.wants("virtio")),
		"with_backlog":    flag(s.wants("backlog")),
		"with_virtio":     flag(s.wants("virtio")),
		"budget_packets":  s.budget.packets,
		"budget_jiffies":  s.ticks.limit(s.budget.jiffies),
		"limit_per_jiffy": uint32(s.options.PacketsPerJiffy),
		"latency_one_in":  latencyOneIn,
		"switched_off":    1, // until a window is open
	}
	for name, v := range spec.Variables {
		value, ok := values[name]
		if !ok {
			continue
		}
		if err := v.Set(value); err != nil {
			return fmt.Errorf("set %s to %d: %w", name, value, err)
		}
	}
	if err := s.ticks.prepare(spec); err != nil {
		return err
	}
	if m := spec.Maps["waiting"]; m != nil {
		cpus, err := ebpf.PossibleCPU()
		if err != nil {
			return fmt.Errorf("size the table of waiting sockets: %w", err)
		}
		m.MaxEntries = waitingSockets(cpus)
	}
	if m := spec.Maps["irq_filter"]; m != nil {
		m.MaxEntries = 1
		if n := len(s.irqs); n > 0 {
			m.MaxEntries = uint32(s.irqs[n-1]) + 1
		}
		for slot, irq := range s.irqs {
			m.Contents = append(m.Contents, ebpf.MapKV{Key: uint32(irq), Value: uint32(slot + 1)})
		}
		spec.Maps["irq_slots"].MaxEntries = uint32(max(len(s.irqs), 1))
	}
	return nil
}

// latencyOneIn thins out the latency probe: one softirq run or socket wake-up in so many.
const latencyOneIn = 16

// waitingSockets is how many the latency probe follows at once. Each CPU keeps
// free entries of the table for itself, up to 128 (LOCAL_FREE_TARGET in
// kernel/bpf/bpf_lru_list.c): with too few, sockets are dropped while they wait.
func waitingSockets(cpus int) uint32 { return uint32(max(4096, 256*cpus)) }

func flag(on bool) uint32 {
	if on {
		return 1
	}
	return 0
}

// Windowed are the probes that could be attached and count in a Window only.
func (s *Session) Windowed() []string {
	var out []string
	for _, p := range probeTable() {
		attached := func(st counters.Status) bool { return st.Name == p.name && st.State == counters.Attached }
		if p.windowed && slices.ContainsFunc(s.statuses, attached) {
			out = append(out, p.name)
		}
	}
	return out
}

// Status is the state of every probe that exists, asked for or not.
func (s *Session) Status() []counters.Status { return slices.Clone(s.statuses) }

// Close detaches and frees everything. Errors are joined; none is retried.
func (s *Session) Close() error {
	var errs []error
	if s.stats != nil {
		errs = append(errs, s.stats.Close())
		s.stats = nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.objects)) {
		errs = append(errs, s.objects[name].close())
	}
	s.objects = nil
	return errors.Join(errs...)
}

// Window opens the per-packet probe name for the given time, closes it, and
// returns. It comes back early when ctx ends, when the probe has switched
// itself off because of the rate, or when it has cost what MaxCostPercent
// allows in two seconds; Observe saves that again. What it counted is in the next Read; how
// long it really ran is in Counters.Windows. A probe that is not attached
// because of its Status is no error.
func (s *Session) Window(ctx context.Context, name string, length time.Duration) error {
	return s.window(ctx, name, length, s.account.share*float64(creditLength))
}

// window is Window for packets that cost at most credit, in ns.
func (s *Session) window(ctx context.Context, name string, length time.Duration, credit float64) error {
	p, ok := findProbe(name)
	if !ok || !p.windowed {
		return fmt.Errorf("open window of probe %q: %w", name, ErrUnknownProbe)
	}
	obj := s.objects[p.object]
	if obj == nil || !obj.loaded() {
		return nil
	}
	before, err := packets(obj)
	if err == nil {
		err = obj.attachAll()
	}
	if err != nil {
		return fmt.Errorf("open window of probe %q: %w", name, err)
	}
	// Attaching and detaching take milliseconds in which some programs run and
	// others do not, and no window has time for what they count then.
	attached := monotonicNs()
	var cost float64
	look := func() error {
		now, err := packets(obj)
		if err != nil {
			return err // and what was seen before is charged
		}
		cost = float64(busiest(before, now)) * s.eachCosts(packetCostNs)
		return nil
	}
	if err = obj.setVariable("switched_off", 0); err == nil {
		waitUnless(ctx, length, func() bool {
			err = look()
			return err != nil || cost > credit || obj.switchedOff()
		})
	}
	err = errors.Join(err, obj.setVariable("switched_off", 1))
	s.windowNs[p.object] += monotonicNs() - attached
	// Those that came since the last look, and while it was closed, cost too.
	err = errors.Join(err, obj.detachAll(), look())
	s.account.charge(monotonicNs(), cost+obj.attachNs+obj.detachNs)
	if err != nil {
		return fmt.Errorf("window of probe %q: %w", name, err)
	}
	return nil
}

// wait returns after length or at the end of ctx.
func wait(ctx context.Context, length time.Duration) {
	end := time.NewTimer(length)
	defer end.Stop()
	select {
	case <-ctx.Done():
	case <-end.C:
	}
}

// waitUnless also returns once stop answers true.
func waitUnless(ctx context.Context, length time.Duration, stop func() bool) {
	const look = 5 * time.Millisecond
	for end := time.Now().Add(length); ctx.Err() == nil && !stop(); {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		wait(ctx, min(left, look))
	}
}

// attachedFor is how long the core object has been attached in all.
func (s *Session) attachedFor(now uint64) uint64 {
	if s.attachedSince == 0 {
		return s.attachedNs
	}
	return s.attachedNs + now - s.attachedSince
}

// attachedTimes is, by object, how long it has been attached in all.
func (s *Session) attachedTimes() map[string]uint64 {
	now := monotonicNs()
	out := make(map[string]uint64)
	for _, d := range objectTable() {
		switch {
		case !s.objects[d.name].loaded():
		case d.windowed:
			out[d.name] = s.windowNs[d.name]
		case d.name == "core":
			out[d.name] = s.attachedFor(now)
		default:
			out[d.name] = now - s.started
		}
	}
	return out
}

// eachCosts is what an event costs now that costs ns without statistics.
func (s *Session) eachCosts(ns float64) float64 {
	if s.stats != nil {
		return ns + statsCostNs
	}
	return ns
}

// StartStats turns the kernel's BPF statistics on until StopStats or Close,
// through a file descriptor and not the global sysctl. Each event then costs
// two more clock reads, so turn them on for a part of the window only:
// ProgCost.CountedNs says for how long of that each program was attached.
func (s *Session) StartStats() error {
	if s.stats != nil {
		return nil
	}
	c, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		s.costUnknown = withoutStats(err)
		return fmt.Errorf("enable BPF statistics: %w", err)
	}
	s.costUnknown = ""
	s.stats, s.statsSince = c, s.attachedTimes()
	return s.eachProgram(func(_ string, p *program) error {
		var err error
		p.costSince, _, err = p.counted()
		return err
	})
}

// withoutStats says what statistics would need. The command came with Linux
// 5.8; from the start it wants CAP_SYS_ADMIN, while CAP_BPF is enough to load
// (bpf_enable_stats in kernel/bpf/syscall.c).
func withoutStats(err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return "BPF statistics need CAP_SYS_ADMIN"
	case errors.Is(err, unix.EINVAL), errors.Is(err, ebpf.ErrNotSupported):
		return "BPF statistics need Linux 5.8"
	}
	return "BPF statistics: " + err.Error()
}

// StopStats turns the statistics off again; what was counted stays readable.
func (s *Session) StopStats() error {
	if s.stats == nil {
		return nil
	}
	errRead := s.eachProgram(func(_ string, p *program) error {
		now, _, err := p.counted()
		p.cost = p.cost.plus(now, p.costSince)
		return err
	})
	err := errors.Join(errRead, s.stats.Close())
	s.stats = nil
	for name, attached := range s.attachedTimes() {
		s.countedNs[name] += attached - s.statsSince[name]
	}
	if err != nil {
		return fmt.Errorf("disable BPF statistics: %w", err)
	}
	return nil
}

// readLimits gives the receive budgets in force, as far as they are known.
func (s *Session) readLimits() limits {
	packets, usecs := s.options.BudgetPackets, s.options.BudgetUsecs
	var out limits
	var known bool
	if packets == 0 {
		packets, known = readSysctl("netdev_budget", 300)
		out.assumed = !known
	}
	if usecs == 0 {
		usecs, known = readSysctl("netdev_budget_usecs", 2*1_000_000/s.options.HZ)
		out.assumed = out.assumed || !known
	}
	out.packets, out.jiffies = uint32(int32(packets)), usecsToJiffies(usecs, s.options.HZ)
	return out
}

// readSysctl falls back to the kernel's default: the file is missing in
// network namespaces other than the first.
func readSysctl(name string, fallback int) (value int, known bool) {
	text, err := os.ReadFile("/proc/sys/net/core/" + name)
	if err != nil {
		return fallback, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fallback, false
	}
	return n, true
}

// usecsToJiffies rounds up, as the kernel does (__usecs_to_jiffies in
// kernel/time/time.c); a tick need not be a whole number of microseconds.
func usecsToJiffies(usecs, hz int) uint32 {
	if usecs <= 0 {
		return 0
	}
	return uint32((int64(usecs)*int64(hz) + 999_999) / 1_000_000)
}

// kernelHZ: the coarse clock advances once per tick, and says so.
func kernelHZ() int {
	var res unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &res); err != nil || res.Nano() <= 0 {
		return 250
	}
	return int((int64(time.Second) + res.Nano()/2) / res.Nano())
}

func monotonicNs() uint64 { return clockNs(unix.CLOCK_MONOTONIC) }

func clockNs(clock int32) uint64 {
	var now unix.Timespec
	if err := unix.ClockGettime(clock, &now); err != nil {
		return 0
	}
	return uint64(now.Nano())
}
