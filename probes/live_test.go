package probes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/probes/counters"
)

// These tests hold the probes against the running kernel's own counters. They
// need root, and change nothing outside network namespaces of their own.

// needRoot skips, or fails where CI promised a machine that can do it.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		runAlone(t)
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("this test needs root, and CI=true promises it")
	}
	t.Skip("skipped: loading eBPF programs and making network namespaces needs root")
}

// skipBefore skips on kernels older than the release that brought a feature,
// and fails on newer ones: there the feature is missing for another reason.
func skipBefore(t testing.TB, major, minor int, what string) {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	var haveMajor, haveMinor int
	if _, err := fmt.Sscanf(release, "%d.%d", &haveMajor, &haveMinor); err != nil {
		t.Fatalf("release %q: %v", release, err)
	}
	if haveMajor > major || haveMajor == major && haveMinor >= minor {
		t.Fatalf("%s, although Linux %s is not older than %d.%d", what, release, major, minor)
	}
	t.Skipf("skipped: %s: Linux %s is older than %d.%d", what, release, major, minor)
}

// hasTracepoint asks the kernel's types: each tracepoint has one of its own.
func hasTracepoint(t testing.TB, name string) bool {
	t.Helper()
	types, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	find := func(name string) bool {
		var found *btf.Typedef
		return types.TypeByName("btf_trace_"+name, &found) == nil
	}
	if !find("softirq_entry") {
		t.Fatal("the types of this kernel do not even name irq:softirq_entry")
	}
	return find(name)
}

// runAlone keeps two test processes from measuring each other: bursts of both
// in one softirq would be another experiment, and so would sysctls that the
// tests of the command change under the same lock.
func runAlone(t testing.TB) {
	t.Helper()
	file, err := os.OpenFile(os.TempDir()+"/napitune-test-machine.lock", os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() }) // unlocks
	for {
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			if err != nil {
				t.Fatalf("lock %s: %v", file.Name(), err)
			}
			return
		}
	}
}

// inNamespace moves the test's thread into a fresh network namespace and onto
// one CPU. The thread is never unlocked again: the runtime ends it, and the
// namespace goes with it.
func inNamespace(t testing.TB, cpu int) {
	t.Helper()
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	bringUp(t, "lo") // the probes send themselves a packet
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		t.Fatalf("pin to CPU %d: %v", cpu, err)
	}
}

// pair is a veth pair inside the test's namespace; packets sent to out arrive at in.
type pair struct{ out, in netlink.Link }

func makePair(t testing.TB, n int) pair {
	t.Helper()
	out, in := fmt.Sprintf("nto%d", n), fmt.Sprintf("nti%d", n)
	v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: in}
	v.Name = out
	if err := netlink.LinkAdd(v); err != nil {
		t.Fatalf("add veth %s: %v", out, err)
	}
	p := pair{out: bringUp(t, out), in: bringUp(t, in)}
	// The kernel notices the carrier later, and until then drops what is sent.
	for range 1000 {
		l, err := netlink.LinkByName(out)
		if err == nil && l.Attrs().OperState == netlink.OperUp {
			return p
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%s has no carrier", out)
	return p
}

func bringUp(t testing.TB, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatalf("find %s: %v", name, err)
	}
	// No IPv6 on it: router solicitations are packets that nobody planned.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	if err := netlink.LinkSetUp(l); err != nil {
		t.Fatalf("set %s up: %v", name, err)
	}
	return l
}

// attachXDP makes a veth receive through its NAPI instead of the backlog; with
// busy it also burns at least that much time on every packet.
func attachXDP(t testing.TB, l netlink.Link, busy time.Duration) {
	t.Helper()
	spins := int32(0)
	if busy > 0 {
		spins = int32(busy/clockRead(t)) + 1
	}
	prog := spinningXDP(t, spins)
	x, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: l.Attrs().Index, Flags: link.XDPDriverMode})
	if err != nil {
		t.Fatalf("attach XDP program to %s: %v", l.Attrs().Name, err)
	}
	t.Cleanup(func() { _ = x.Close() })
}

// spinningXDP passes every packet after so many clock reads.
func spinningXDP(t testing.TB, spins int32) *ebpf.Program {
	t.Helper()
	ins := asm.Instructions{asm.Mov.Imm(asm.R6, 0)}
	if spins > 0 {
		ins = append(ins,
			asm.FnKtimeGetNs.Call().WithSymbol("spin"),
			asm.Add.Imm(asm.R6, 1),
			asm.JLT.Imm(asm.R6, spins, "spin"),
		)
	}
	ins = append(ins, asm.Mov.Imm(asm.R0, 2), asm.Return()) // XDP_PASS
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: ins})
	if err != nil {
		t.Fatalf("load XDP program: %v", err)
	}
	t.Cleanup(func() { _ = prog.Close() })
	return prog
}

// clockRead is the shortest time that a clock read of a program was seen to
// take: 20 ns on metal, 50 times that under emulation.
func clockRead(t testing.TB) time.Duration {
	t.Helper()
	const spins = 1000
	prog := spinningXDP(t, spins)
	shortest := time.Second
	for range 200 {
		_, took, err := prog.Benchmark(udpFrame(), 1, nil)
		if err != nil {
			t.Fatalf("time the XDP program: %v", err)
		}
		shortest = min(shortest, took)
	}
	return max(shortest/spins, time.Nanosecond)
}

// burster sends the same number of packets to each of several devices with
// softirqs held off, so that one NET_RX softirq finds all of them.
type burster struct {
	socket  int
	to      unix.SockaddrLinklayer
	packets int
}

// newBurster makes the device whose egress program sends the burst. Egress
// runs with softirqs held off on every kernel; running a program by the test
// command holds them off only on newer ones (6.18 does, 6.1 does not).
func newBurster(t testing.TB, each int32, pairs []pair) burster {
	t.Helper()
	ins := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	for i, p := range pairs {
		loop := "loop" + strconv.Itoa(i)
		ins = append(ins,
			asm.Mov.Imm(asm.R7, 0),
			asm.Mov.Reg(asm.R1, asm.R6).WithSymbol(loop),
			asm.Mov.Imm(asm.R2, int32(p.out.Attrs().Index)),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnCloneRedirect.Call(),
			asm.Add.Imm(asm.R7, 1),
			asm.JLT.Imm(asm.R7, each, loop),
		)
	}
	ins = append(ins, asm.Mov.Imm(asm.R0, 2), asm.Return()) // TC_ACT_SHOT: the packet itself goes nowhere
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: ins})
	if err != nil {
		t.Fatalf("load burst program: %v", err)
	}
	defer prog.Close() // the filter keeps it
	trigger := makePair(t, triggerPair).out.Attrs().Index
	attachEgress(t, trigger, prog)
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("make packet socket: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(socket) })
	return burster{
		socket: socket, to: unix.SockaddrLinklayer{Ifindex: trigger, Halen: 6},
		packets: int(each) * len(pairs),
	}
}

// triggerPair is a number that no other pair of a test has.
const triggerPair = 99

func attachEgress(t testing.TB, device int, prog *ebpf.Program) {
	t.Helper()
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: device, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil {
		t.Fatalf("add clsact to device %d: %v", device, err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: device, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Priority: 1,
			Protocol: unix.ETH_P_ALL,
		},
		Fd: prog.FD(), Name: "burst", DirectAction: true,
	}
	if err := netlink.FilterAdd(filter); err != nil {
		t.Fatalf("add burst program to device %d: %v", device, err)
	}
}

// start sends one burst and does not wait for anything.
func (b burster) start(t testing.TB) {
	t.Helper()
	if err := b.sendOnce(); err != nil {
		t.Fatalf("send burst: %v", err)
	}
}

func (b burster) sendOnce() error {
	// The program drops the packet it is called for, and the socket is told so.
	if err := unix.Sendto(b.socket, udpFrame(), 0, &b.to); err != nil && !errors.Is(err, unix.ENOBUFS) {
		return err
	}
	return nil
}

// send sends one burst and waits until this CPU has received it: the kernel
// hands the rest of a burst to ksoftirqd when somebody waits for the CPU, and
// two bursts in one softirq are another experiment.
func (b burster) send(t testing.TB) {
	t.Helper()
	before := readProcessed(t)
	b.start(t)
	for range 10_000 {
		if readProcessed(t)-before >= uint32(b.packets) {
			return
		}
		runtime.Gosched()
	}
	t.Fatalf("a burst of %d packets was not received", b.packets)
}

// readProcessed is the sum of processed over all CPUs.
func readProcessed(t testing.TB) uint32 {
	t.Helper()
	var sum uint32
	for _, line := range fileLines(t, "/proc/net/softnet_stat") {
		sum += parse(t, line[:8], 16)
	}
	return sum
}

// udpFrame is a small UDP packet for nobody: counted as processed, then dropped.
func udpFrame() []byte {
	frame := make([]byte, 14+20+8+18)
	copy(frame[0:], []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0})
	ip := frame[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], []byte{192, 0, 2, 1, 192, 0, 2, 2})
	binary.BigEndian.PutUint16(ip[24:], uint16(len(ip)-20))
	return frame
}

// kernelTotals are the kernel's own counters, per CPU.
type kernelTotals struct {
	processed, squeezed map[int]uint32
	softirqs            map[string]map[int]uint32
	interrupts          map[int]map[int]uint32 // line → CPU
}

func readKernel(t testing.TB) kernelTotals {
	t.Helper()
	k := kernelTotals{
		processed: map[int]uint32{}, squeezed: map[int]uint32{},
		softirqs: map[string]map[int]uint32{}, interrupts: map[int]map[int]uint32{},
	}
	for _, line := range fileLines(t, "/proc/net/softnet_stat") {
		f := strings.Fields(line)
		if len(f) < 13 {
			skipBefore(t, 5, 10, fmt.Sprintf("softnet_stat has %d columns and no CPU number", len(f)))
		}
		cpu := int(parse(t, f[12], 16))
		k.processed[cpu], k.squeezed[cpu] = parse(t, f[0], 16), parse(t, f[2], 16)
	}
	for _, line := range fileLines(t, "/proc/softirqs")[1:] {
		f := strings.Fields(line)
		row := map[int]uint32{}
		for cpu, v := range f[1:] {
			row[cpu] = parse(t, v, 10)
		}
		k.softirqs[strings.TrimSuffix(f[0], ":")] = row
	}
	lines := fileLines(t, "/proc/interrupts")
	header := strings.Fields(lines[0])
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		irq, err := strconv.Atoi(strings.TrimSuffix(f[0], ":"))
		if err != nil {
			continue // NMI, LOC and kin are not lines
		}
		k.interrupts[irq] = map[int]uint32{}
		for i, name := range header {
			cpu, _ := strconv.Atoi(strings.TrimPrefix(name, "CPU"))
			k.interrupts[irq][cpu] = parse(t, f[1+i], 10)
		}
	}
	return k
}

func fileLines(t testing.TB, name string) []string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(bytes.TrimSpace(data)), "\n")
}

func parse(t testing.TB, s string, base int) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(s, base, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// edge is both sides' totals at a moment when the counters in question stood
// still: read before and after the probes, and found equal.
type edge struct {
	// earlier and kernel are the kernel's totals before and after the probes
	// were read: equal as far as they had to stand still.
	earlier, kernel kernelTotals
	probes          *counters.Counters
	at              uint64 // monotonic ns, while they stood still
}

// quietEdge waits for such a moment; the machine has other traffic than ours.
// still says which of the kernel's counters must not move.
func quietEdge(t testing.TB, s *Session, still func(kernelTotals) any) edge {
	t.Helper()
	for range 500 {
		before := readKernel(t)
		c, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		// A run that had already been counted by one side and not by the
		// other must have time to end.
		time.Sleep(200 * time.Microsecond)
		at := monotonicNs()
		again, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		after := readKernel(t)
		if cmp.Equal(still(before), still(after)) && cmp.Equal(c.CPUs, again.CPUs, sameCounts()) {
			return edge{earlier: before, kernel: after, probes: again, at: at}
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("no quiet moment in 500 attempts: the machine is too busy to compare counters exactly")
	return edge{}
}

// sameCounts compares what net_rx_action did and nothing that ticks by itself.
func sameCounts() cmp.Option {
	return cmp.Comparer(func(a, b counters.CPU) bool {
		return a.CPU == b.CPU && a.Budget.Runs == b.Budget.Runs && a.Budget.Work == b.Budget.Work &&
			a.Softirq["NET_RX"].Runs == b.Softirq["NET_RX"].Runs && a.Outside == b.Outside
	})
}

func netRxStill(k kernelTotals) any {
	return []any{k.processed, k.squeezed, k.softirqs["NET_RX"]}
}

func delta(later, earlier map[int]uint32) map[int]uint64 {
	out := map[int]uint64{}
	for k, v := range later {
		if d := v - earlier[k]; d != 0 { // 32-bit counters wrap
			out[k] = uint64(d)
		}
	}
	return out
}

// openSession tells the session the limits of the host: a test's thread is in
// a network namespace where they cannot be read.
func openSession(t testing.TB, o Options) *Session {
	t.Helper()
	outside := make(chan Options, 1)
	go func() { // on a thread of its own, in the namespace where the process began
		o.BudgetPackets, _ = readSysctl("netdev_budget", 0)
		o.BudgetUsecs, _ = readSysctl("netdev_budget_usecs", 0)
		outside <- o
	}()
	s, err := Open(<-outside)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	for _, st := range s.Status() {
		if st.State != counters.Attached && st.State != counters.Off {
			t.Logf("probe %s: %s: %s", st.Name, st.State, st.Reason)
		}
	}
	return s
}

// requireAttached fails where the test cannot say anything without the probe.
func requireAttached(t testing.TB, s *Session, names ...string) {
	t.Helper()
	for _, name := range names {
		for _, st := range s.Status() {
			if st.Name == name && st.State != counters.Attached {
				t.Fatalf("probe %s is %s: %s", name, st.State, st.Reason)
			}
		}
	}
}

func between(t testing.TB, first, last edge) *counters.Counters {
	t.Helper()
	d, err := last.probes.Sub(first.probes)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// perCPU collects one number of every CPU, zeros left out as in delta.
func perCPU(c *counters.Counters, number func(counters.CPU) uint64) map[int]uint64 {
	out := map[int]uint64{}
	for _, row := range c.CPUs {
		if n := number(row); n != 0 {
			out[row.CPU] = n
		}
	}
	return out
}

// attempts is how often an experiment may be disturbed.
const attempts = 20

// outcome is what an experiment found. Disturbed says how the kernel's own
// figures, or those of the witness, prove that something else took part, and
// only then is the experiment repeated; a difference fails the test at once.
type outcome struct {
	disturbed   string
	differences []string
}

func repeatWhileDisturbed(t *testing.T, experiment func() outcome) {
	t.Helper()
	for range attempts {
		o := experiment()
		if o.disturbed == "" {
			for _, d := range o.differences {
				t.Error(d)
			}
			return
		}
		t.Logf("repeated: %s; %d differences", o.disturbed, len(o.differences))
	}
	t.Fatalf("disturbed in %d attempts", attempts)
}

// compare describes a difference, if there is one.
func compare(what string, kernel, probes map[int]uint64) []string {
	if diff := cmp.Diff(kernel, probes); diff != "" {
		return []string{what + " per CPU (-kernel +probes):\n" + diff}
	}
	return nil
}

// compareNetRx holds squeezes and runs against the kernel, on every CPU.
func compareNetRx(d *counters.Counters, first, last edge) []string {
	netRx := perCPU(d, func(c counters.CPU) uint64 { return c.Softirq["NET_RX"].Runs })
	return slices.Concat(
		compare("squeezes of all causes", delta(last.kernel.squeezed, first.kernel.squeezed),
			perCPU(d, func(c counters.CPU) uint64 { return c.Budget.Squeezes() })),
		compare("NET_RX softirqs", delta(last.kernel.softirqs["NET_RX"], first.kernel.softirqs["NET_RX"]), netRx),
		compare("net_rx_action runs", netRx, perCPU(d, func(c counters.CPU) uint64 { return c.Budget.Runs })),
	)
}

// compareWork holds NAPI work against processed, where all packets are ours:
// of packets that GRO merges, the kernel counts one.
func compareWork(got counters.Budget, processed uint64) []string {
	if got.Work != processed {
		return []string{fmt.Sprintf("NAPI work is %d, the kernel processed %d", got.Work, processed)}
	}
	return nil
}

func lastCPU() int { return runtime.NumCPU() - 1 }

// TestSqueezeCauses sends bursts whose effect on net_rx_action is known
// (net/core/dev.c: a NAPI is polled once per run with weight 64 against a
// budget of 300, and the limits are tested after each poll). The time limit is
// set so high, or the slow NAPI made so slow, that a virtual CPU which is taken
// away for a while changes nothing.
func TestSqueezeCauses(t *testing.T) {
	needRoot(t)
	tick := time.Second / time.Duration(kernelHZ())
	tests := []struct {
		name   string
		napis  int
		each   int32         // packets per NAPI and burst
		slow   time.Duration // per packet of the last NAPI
		limit  time.Duration // netdev_budget_usecs
		bursts int
		want   counters.Budget // causes per burst
	}{
		{name: "one full NAPI", napis: 1, each: 100, limit: time.Second, bursts: 300},
		{name: "four full NAPIs", napis: 4, each: 100, limit: time.Second, bursts: 300},
		{name: "five full NAPIs", napis: 5, each: 100, limit: time.Second, bursts: 300,
			want: counters.Budget{SqueezedPackets: 1}},
		{name: "six full NAPIs", napis: 6, each: 100, limit: time.Second, bursts: 300,
			want: counters.Budget{SqueezedPackets: 1}},
		// Below the weight of a poll, so that the run ends with it.
		{name: "one slow NAPI", napis: 1, each: 60, slow: tick / 7, limit: 2 * tick, bursts: 20,
			want: counters.Budget{SqueezedTime: 1}},
		{name: "four fast and one slow NAPI", napis: 5, each: 63, slow: tick / 3, limit: 10 * tick, bursts: 20,
			want: counters.Budget{SqueezedBoth: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inNamespace(t, lastCPU())
			budgetUsecs(t, int(tt.limit.Microseconds()))
			var pairs []pair
			for i := range tt.napis {
				p := makePair(t, i)
				busy := time.Duration(0)
				if i == tt.napis-1 {
					busy = tt.slow
				}
				attachXDP(t, p.in, busy)
				pairs = append(pairs, p)
			}
			b := newBurster(t, tt.each, pairs)
			b.send(t) // neighbours, routes and caches are warm after the first
			w := startWitness(t)
			s := openSession(t, Options{})
			requireAttached(t, s, "budget", "napi")
			if !s.knowsKernelCounters() {
				t.Fatal("the kernel's own count of squeezes was not found")
			}
			bursts := tt.bursts
			repeatWhileDisturbed(t, func() outcome {
				first := quietEdge(t, s, netRxStill)
				for range bursts {
					b.send(t)
				}
				last := quietEdge(t, s, netRxStill)
				o := judgeBursts(t, first, last, planned{
					pairs: pairs, bursts: uint64(bursts), each: uint64(tt.each), causes: tt.want, witness: w,
				})
				// The fewer, the sooner no other packet comes between.
				bursts = max(bursts/2, 1)
				return o
			})
			noMisses(t, s)
		})
	}
}

// planned is what a number of equal bursts must do.
type planned struct {
	pairs   []pair
	bursts  uint64
	each    uint64          // packets per pair and burst
	causes  counters.Budget // of one burst
	witness *witness
}

func (p planned) squeezes() counters.Budget {
	return counters.Budget{
		SqueezedPackets: p.bursts * p.causes.SqueezedPackets, SqueezedTime: p.bursts * p.causes.SqueezedTime,
		SqueezedBoth: p.bursts * p.causes.SqueezedBoth,
	}
}

func judgeBursts(t *testing.T, first, last edge, p planned) outcome {
	t.Helper()
	d := between(t, first, last)
	got := budgetOf(d, lastCPU())
	packets, want := p.bursts*p.each*uint64(len(p.pairs)), p.squeezes()
	t.Logf("%d bursts, %d packets: %d by packets, %d by time, %d by both; %d polls, %d full, at most %d per run",
		p.bursts, packets, got.SqueezedPackets, got.SqueezedTime, got.SqueezedBoth, got.Polls, got.Full, got.MaxPolls)
	differences := compareNetRx(d, first, last)
	if hidden := p.witness.hiddenRuns(t, first, last); hidden != "" || len(differences) > 0 {
		return outcome{disturbed: hidden, differences: differences}
	}
	squeezed := delta(last.kernel.squeezed, first.kernel.squeezed)[lastCPU()]
	if squeezed != want.Squeezes() {
		return outcome{disturbed: fmt.Sprintf(
			"the kernel itself squeezed %d times, planned was %d: other packets, or a CPU taken away", squeezed, want.Squeezes())}
	}
	differences = slices.Concat(compareCauses(want, got), compareNAPIs(t, d, p.pairs, p.bursts*p.each))
	processed := delta(last.kernel.processed, first.kernel.processed)[lastCPU()]
	if processed == packets || got.Work == processed {
		return outcome{differences: slices.Concat(differences, compareWork(got, processed))}
	}
	for _, d := range differences {
		t.Error(d) // other packets are no excuse for these
	}
	return outcome{disturbed: fmt.Sprintf("the kernel itself processed %d packets, sent were %d", processed, packets)}
}

// hiddenRuns says whether runs of net_rx_action were hidden from eBPF.
func (w *witness) hiddenRuns(t testing.TB, first, last edge) string {
	t.Helper()
	hidden := w.hidden(t, first.at, last.at, func(e hiddenEvent) bool { return e.vector == vectorRx })
	if len(hidden) == 0 {
		return ""
	}
	return fmt.Sprintf("this kernel hid NET_RX softirqs from eBPF, per CPU: %v", hidden)
}

func compareCauses(want, got counters.Budget) []string {
	causes := func(b counters.Budget) counters.Budget {
		return counters.Budget{
			SqueezedPackets: b.SqueezedPackets, SqueezedTime: b.SqueezedTime, SqueezedBoth: b.SqueezedBoth,
			SqueezedUnexplained: b.SqueezedUnexplained, InferredRuns: b.InferredRuns,
		}
	}
	if diff := cmp.Diff(causes(want), causes(got)); diff != "" {
		return []string{"causes of squeezes (-want +got):\n" + diff}
	}
	return nil
}

func budgetOf(d *counters.Counters, cpu int) counters.Budget {
	for _, c := range d.CPUs {
		if c.CPU == cpu {
			return c.Budget
		}
	}
	return counters.Budget{}
}

// compareNAPIs: every packet that was sent to a device was polled there.
func compareNAPIs(t *testing.T, d *counters.Counters, pairs []pair, want uint64) []string {
	t.Helper()
	var out []string
	work := map[string]uint64{}
	here := thisNamespace(t)
	for _, n := range d.NAPIs {
		if n.NetNS != here {
			continue
		}
		work[n.Device] += n.Work
		if n.WorkPerPoll.Count() != n.Polls {
			out = append(out, fmt.Sprintf("NAPI of %s: histogram holds %d polls of %d", n.Device, n.WorkPerPoll.Count(), n.Polls))
		}
	}
	for _, p := range pairs {
		if name := p.in.Attrs().Name; work[name] != want {
			out = append(out, fmt.Sprintf("work of %s = %d, want %d", name, work[name], want))
		}
	}
	return out
}

// thisNamespace is the inode of the thread's network namespace.
func thisNamespace(t testing.TB) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		t.Fatal(err)
	}
	return uint32(st.Ino)
}

// TestCountsEqualKernel: every softirq vector and every interrupt line, on
// every CPU, over a second of whatever the machine does plus traffic and disk
// writes of ours.
func TestCountsEqualKernel(t *testing.T) {
	needRoot(t)
	inNamespace(t, lastCPU())
	p := makePair(t, 0) // without XDP: through the backlog
	b := newBurster(t, 100, []pair{p})
	var lines []int
	for irq := range readKernel(t).interrupts {
		lines = append(lines, irq)
	}
	w := startWitness(t)
	s := openSession(t, Options{IRQs: lines})
	requireAttached(t, s, "softirq", "irq", "backlog")
	file, err := os.Create(t.TempDir() + "/interrupts")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	first := stillCounts(t, s)
	for round := range 100 {
		if round%20 == 0 {
			provokeAnswers() // a guest without a disk has no interrupts but its NIC's
		}
		b.send(t)
		w.drain(t)
		if _, err := file.Write(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		if err := file.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	last := stillCounts(t, s)
	var softirqs, interrupts, hidden uint64
	for c, end := range last {
		start := first[c] // a line that is new had counted nothing
		kernel, probes := uint64(end.kernel-start.kernel), end.probes-start.probes
		unseen := w.hidden(t, start.at, end.at, c.matches)[c.cpu]
		if kernel != probes+unseen {
			t.Errorf("%v: the kernel counted %d, the probes %d, hidden from eBPF were %d", c, kernel, probes, unseen)
		}
		hidden += unseen
		if c.vector >= 0 {
			softirqs += kernel
		} else {
			interrupts += kernel
		}
	}
	t.Logf("%d counters: %d softirqs, %d interrupts, %d of them hidden from eBPF", len(last), softirqs, interrupts, hidden)
	if softirqs == 0 || interrupts == 0 {
		t.Error("no softirq or no interrupt in the whole test: nothing was compared")
	}
	noMisses(t, s)
}

// TestKsoftirqd sends bursts that take longer than softirqs may run where they
// are raised (2 ms, MAX_SOFTIRQ_TIME in kernel/softirq.c): the rest runs in the
// thread, as often as the witness saw it there, and takes the time that the
// scheduler charges it.
func TestKsoftirqd(t *testing.T) {
	needRoot(t)
	inNamespace(t, lastCPU())
	p := makePair(t, 0)
	attachXDP(t, p.in, 100*time.Microsecond)
	b := newBurster(t, 200, []pair{p})
	b.send(t)
	thread, spent := ksoftirqd(t, lastCPU())
	w := startWitness(t)
	if w == nil {
		ciHas(t, "tracefs: without it nobody else tells where softirqs ran")
		return
	}
	s := openSession(t, Options{SampleOneIn: 1})
	requireAttached(t, s, "softirq")
	first, began := quietEdge(t, s, netRxStill), spent()
	for range 20 {
		b.send(t)
	}
	last := quietEdge(t, s, netRxStill)
	charged := spent() - began
	var got counters.NetSoftirq
	var all counters.Softirq
	for _, row := range between(t, first, last).CPUs {
		if row.CPU == lastCPU() {
			got, all = row.Rx, row.Softirq["NET_RX"]
		}
	}
	var want uint64
	hidden := w.hidden(t, first.at, last.at, func(e hiddenEvent) bool { return e.thread == thread && e.vector == vectorRx })
	for _, e := range w.events {
		if at := uint64(e.at * 1e9); at > first.at && at <= last.at && e.thread == thread && e.vector == vectorRx {
			want++
		}
	}
	want -= hidden[lastCPU()]
	t.Logf("%d of %d NET_RX runs in ksoftirqd, %v of %v; the scheduler charged it %v", got.KsoftirqdRuns, all.Runs,
		time.Duration(got.KsoftirqdTimeNs), time.Duration(all.TimeNs), time.Duration(charged))
	if got.KsoftirqdRuns != want || want == 0 {
		t.Errorf("%d runs in ksoftirqd, the witness saw %d", got.KsoftirqdRuns, want)
	}
	// Its other work is little beside packets of 100 µs, and what the hypervisor
	// takes is part of the one time and not of the other.
	if got.KsoftirqdTimeNs < charged/2 || got.KsoftirqdTimeNs > all.TimeNs {
		t.Errorf("NET_RX took %d ns in ksoftirqd and %d in all, the scheduler charged %d", got.KsoftirqdTimeNs, all.TimeNs, charged)
	}
}

// ksoftirqd is the thread of a CPU, and what tells how long it has run, in ns.
func ksoftirqd(t testing.TB, cpu int) (thread uint32, spent func() uint64) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err != nil || strings.TrimSpace(string(comm)) != fmt.Sprintf("ksoftirqd/%d", cpu) {
			continue // another thread, or one that is gone
		}
		dir := filepath.Dir(name)
		return parse(t, filepath.Base(dir), 10), func() uint64 {
			text, err := os.ReadFile(dir + "/schedstat")
			if err != nil {
				t.Fatal(err)
			}
			ns, err := strconv.ParseUint(strings.Fields(string(text))[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return ns
		}
	}
	t.Fatalf("CPU %d has no ksoftirqd", cpu)
	return 0, nil
}

// TestIRQTime: every handler is timed where nothing is sampled, and none takes
// longer than the test.
func TestIRQTime(t *testing.T) {
	needRoot(t)
	inNamespace(t, lastCPU())
	var lines []int
	for irq := range readKernel(t).interrupts {
		lines = append(lines, irq)
	}
	s := openSession(t, Options{IRQs: lines, SampleOneIn: 1})
	requireAttached(t, s, "irq")
	first, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	began := monotonicNs()
	file, err := os.Create(t.TempDir() + "/interrupts")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for range 50 {
		if _, err := file.Write(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		if err := file.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	provokeAnswers() // a guest without a disk has no interrupts but its NIC's
	last, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	elapsed := monotonicNs() - began
	d, err := last.Sub(first)
	if err != nil {
		t.Fatal(err)
	}
	var timed uint64
	for _, row := range d.IRQs {
		// At either edge one handler may be under way.
		if row.TimedIRQs+1 < row.Count || row.TimedIRQs > row.Count+1 {
			t.Errorf("line %d on CPU %d: %d of %d handlers timed", row.IRQ, row.CPU, row.TimedIRQs, row.Count)
		}
		if row.TimeNs < row.TimedIRQs || row.TimeNs > elapsed {
			t.Errorf("line %d on CPU %d: %d handlers took %d ns of %d", row.IRQ, row.CPU, row.TimedIRQs, row.TimeNs, elapsed)
		}
		timed += row.TimedIRQs
	}
	if timed == 0 {
		t.Error("no interrupt in the whole test: nothing was timed")
	}
	t.Logf("%d handlers timed", timed)
}

// noMisses: a program that is interrupted by an event of its own hook does not
// see it, which the kernel counts per program (recursion_misses).
func noMisses(t testing.TB, s *Session) {
	t.Helper()
	c, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range c.Cost {
		if p.Missed > 0 {
			t.Errorf("%s missed %d events", p.Program, p.Missed)
		}
	}
	if !t.Failed() {
		t.Logf("recursion misses of %d programs: none", len(c.Cost))
	}
}

// counter names one softirq vector or one interrupt line on one CPU.
type counter struct{ vector, irq, cpu int }

func (c counter) matches(e hiddenEvent) bool { return e.vector == c.vector && e.irq == c.irq }

func (c counter) String() string {
	if c.vector >= 0 {
		return fmt.Sprintf("softirq %s on CPU %d", vectorNames[c.vector], c.cpu)
	}
	return fmt.Sprintf("interrupt %d on CPU %d", c.irq, c.cpu)
}

// still is one counter of both sides at a moment when the kernel's stood still.
type still struct {
	kernel uint32
	probes uint64
	at     uint64
}

// stillCounts reads until every counter has stood still around a reading of
// the probes; each may have a moment of its own, for they do not depend on each
// other.
func stillCounts(t testing.TB, s *Session) map[counter]still {
	t.Helper()
	out := map[counter]still{}
	const readings = 5000
	for range readings {
		before := kernelCounts(t)
		// Whoever was counted by the kernel just before must reach the program.
		time.Sleep(200 * time.Microsecond)
		at := monotonicNs()
		probes := probeCounts(t, s)
		after := kernelCounts(t)
		for c, n := range after {
			if _, have := out[c]; !have && n == before[c] {
				out[c] = still{kernel: n, probes: probes[c], at: at}
			}
		}
		if len(out) >= len(after) {
			return out
		}
	}
	t.Fatalf("some counter moved in each of %d readings, %d stood still", readings, len(out))
	return nil
}

func kernelCounts(t testing.TB) map[counter]uint32 {
	t.Helper()
	k := readKernel(t)
	out := map[counter]uint32{}
	for vector, name := range vectorNames {
		for cpu, n := range k.softirqs[name] {
			out[counter{vector, -1, cpu}] = n
		}
	}
	for irq, row := range k.interrupts {
		for cpu, n := range row {
			out[counter{-1, irq, cpu}] = n
		}
	}
	return out
}

func probeCounts(t testing.TB, s *Session) map[counter]uint64 {
	t.Helper()
	c, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	out := map[counter]uint64{}
	for _, row := range c.CPUs {
		for vector, name := range vectorNames {
			out[counter{vector, -1, row.CPU}] = row.Softirq[name].Runs
		}
	}
	for _, row := range c.IRQs {
		out[counter{-1, row.IRQ, row.CPU}] = row.Count
	}
	return out
}

// ciHas skips a test that this machine cannot do, and fails it under CI, which can.
func ciHas(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("CI must have %s", what)
	}
	t.Skipf("skipped: this machine has no %s", what)
}
