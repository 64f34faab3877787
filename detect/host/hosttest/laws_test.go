package hosttest

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
	"github.com/napitune/napitune/detect/knob"
)

func TestManagedInterruptRefuses(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{syscall.EPERM, syscall.EIO} {
		m := newMemory(t, virtio4())
		if err := m.Manage(41, cause); err != nil {
			t.Fatal(err)
		}
		refused(t, m, "proc/irq/41/smp_affinity", "2", cause)
		refused(t, m, "proc/irq/41/smp_affinity_list", "1", cause)
		write(t, m, "proc/irq/42/smp_affinity", "2")
		k, _ := knob.Lookup("irq.affinity")
		state := k.Read(m.View(), knob.Rx("eth0", 0, "irq.affinity"))
		if wantLock := cause == error(syscall.EPERM); (state.Status == knob.Locked) != wantLock {
			t.Errorf("%v: %+v", cause, state)
		}
	}
}

// A CPU without a free vector takes no further interrupt.
func TestFullCPURefuses(t *testing.T) {
	t.Parallel()
	m := newMemory(t, virtio4())
	for _, s := range m.samples {
		const table = " | CPU | avl | man | mac | act | vectors\n     0   150     0     0   51  32-82\n     1     0     0     0  201  33-235\n     2    10     0     0  191  33-225\n     3     0     0     0  201  33-235\n"
		if err := s.tree.WriteFile("sys/kernel/debug/irq/domains/VECTOR", []byte(table)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, m, "proc/irq/41/smp_affinity_list", "0")
	refused(t, m, "proc/irq/41/smp_affinity_list", "1", syscall.ENOSPC)
	refused(t, m, "proc/irq/41/smp_affinity_list", "1,3", syscall.ENOSPC)
	write(t, m, "proc/irq/41/smp_affinity_list", "1-2")
	if got := m.servedBy(41); got != cpuset.Of(2) {
		t.Errorf("fires on %s, want 2", got)
	}
	write(t, m, "proc/irq/41/smp_affinity_list", "2") // where it is already
}

func TestMaskParsing(t *testing.T) {
	t.Parallel()
	// What a kernel 6.18 with two CPUs answers.
	for text, want := range map[string]error{
		"3": nil, ",3": nil, "0": nil, "4": syscall.EOVERFLOW, "00000000,00000003": syscall.EOVERFLOW,
		"0,0,3": syscall.EOVERFLOW, "000000003": syscall.EOVERFLOW, "0x3": syscall.EINVAL, "zz": syscall.EINVAL, "": syscall.EINVAL,
	} {
		if _, err := parseMask(text, 2); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("parseMask(%q, 2): %v, want %v", text, err, want)
		}
	}
	if set, err := parseMask("1,00000000", 64); err != nil || set != cpuset.Of(32) {
		t.Errorf("parseMask of CPU 32: %v, %v", set, err)
	}
	for cpus, want := range map[int]string{2: "3", 4: "3", 8: "03", 33: "0,00000003", 64: "00000000,00000003"} {
		if got := maskText(cpuset.Of(0, 1), cpus); got != want {
			t.Errorf("maskText for %d CPUs = %q, want %q", cpus, got, want)
		}
	}
}

func FuzzParseMask(f *testing.F) {
	f.Add("3", 4)
	f.Add("ffffffff,00000000", 64)
	f.Fuzz(func(t *testing.T, text string, cpus int) {
		if cpus < 1 || cpus > 4096 {
			return
		}
		set, err := parseMask(text, cpus)
		if err != nil {
			if !set.IsEmpty() {
				t.Fatalf("parseMask(%q, %d) = %v, %v", text, cpus, set, err)
			}
			return
		}
		again, err := parseMask(maskText(set, cpus), cpus)
		if err != nil || again != set {
			t.Fatalf("%q with %d CPUs: %v prints %q, which reads %v, %v", text, cpus, set, maskText(set, cpus), again, err)
		}
	})
}

func FuzzParseColumns(f *testing.F) {
	f.Add("     CPU0 CPU1\n 38:  1  2  PCI-MSI 1-edge eth0-TxRx-0\nERR: 0\n")
	f.Add("CPU0\n")
	f.Fuzz(func(t *testing.T, text string) {
		table, err := parseColumns(text)
		if (err == nil) != (table != nil) {
			t.Fatalf("parseColumns(%q) = %v, %v", text, table, err)
		}
		if soft, err := parseSoftnet(text, cpuset.Range(0, 3)); (err == nil) != (soft != nil) {
			t.Fatalf("parseSoftnet(%q) = %v, %v", text, soft, err)
		}
		if stat, err := parseStat(text); (err == nil) != (stat != nil) {
			t.Fatalf("parseStat(%q) = %v, %v", text, stat, err)
		}
	})
}

func TestAffinityWrites(t *testing.T) {
	t.Parallel()
	m := newMemory(t, virtio4())
	refused(t, m, "proc/irq/41/smp_affinity", "0", syscall.EINVAL)
	refused(t, m, "proc/irq/41/smp_affinity", "10", syscall.EOVERFLOW)
	refused(t, m, "proc/irq/41/smp_affinity_list", "4", syscall.ERANGE)
	refused(t, m, "proc/irq/41/smp_affinity_list", "x", syscall.EINVAL)
	write(t, m, "proc/irq/41/smp_affinity", "c")
	got := map[string]string{}
	for _, f := range []string{"smp_affinity", "smp_affinity_list", "effective_affinity", "effective_affinity_list"} {
		got[f] = read(t, m, "proc/irq/41/"+f)
	}
	want := map[string]string{"smp_affinity": "c", "smp_affinity_list": "2-3", "effective_affinity": "4", "effective_affinity_list": "2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	write(t, m, "proc/irq/41/smp_affinity_list", "1-2")
	if got := read(t, m, "proc/irq/41/effective_affinity_list"); got != "2" {
		t.Errorf("the interrupt left CPU 2, which is in the new mask, for %s", got)
	}
}

func TestOfflineCPUsTakeNoInterrupt(t *testing.T) {
	t.Parallel()
	m := newMemory(t, virtio4())
	for _, s := range m.samples {
		if err := s.tree.WriteFile("sys/devices/system/cpu/online", []byte("0-2\n")); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, m, "proc/irq/41/smp_affinity", "8", syscall.EINVAL)
	write(t, m, "proc/irq/41/smp_affinity", "e")
	if got := read(t, m, "proc/irq/41/effective_affinity_list"); got != "1" {
		t.Errorf("effective %s, want 1", got)
	}
	write(t, m, "sys/class/net/eth0/queues/rx-0/rps_cpus", "c")
	if got := read(t, m, "sys/class/net/eth0/queues/rx-0/rps_cpus"); got != "4" {
		t.Errorf("RPS mask %s keeps an offline CPU", got)
	}
	write(t, m, "sys/class/net/eth0/queues/rx-0/rps_cpus", "8")
	if got := read(t, m, "sys/class/net/eth0/queues/rx-0/rps_cpus"); got != "0" {
		t.Errorf("RPS mask of offline CPUs only is %s, want it off", got)
	}
	write(t, m, "sys/class/net/eth0/queues/tx-0/xps_cpus", "9")
	if got := read(t, m, "sys/class/net/eth0/queues/tx-0/xps_cpus"); got != "1" {
		t.Errorf("XPS mask %s keeps an offline CPU", got)
	}
}

// rises are the counters between the first and the last sample, per CPU.
func rises(t *testing.T, m *Memory) map[string][]uint64 {
	t.Helper()
	if err := m.flush(); err != nil {
		t.Fatal(err)
	}
	m.counts = nil // read what a collector would read
	c, err := m.parsed()
	if err != nil {
		t.Fatal(err)
	}
	last := len(m.samples) - 1
	out := map[string][]uint64{}
	diff := func(name string, t, first *table, r, was *row) {
		if t == first {
			was = nil
		}
		if r != nil {
			out[name] = r.since(was)
		}
	}
	for label, r := range c.interrupts[last].labels {
		diff("irq "+label, c.interrupts[last], c.interrupts[0], r, c.interrupts[0].find(label))
	}
	for _, name := range []string{"NET_RX", "NET_TX", "TIMER"} {
		diff(name, c.softirqs[last], c.softirqs[0], c.softirqs[last].find(name), c.softirqs[0].find(name))
	}
	for name, at := range map[string]int{"processed": softnetProcessed, "squeezed": softnetSqueezed} {
		diff(name, c.softnet[last], c.softnet[0], c.softnet[last].row(at), c.softnet[0].row(at))
	}
	for name, at := range map[string]int{"softirq": statSoftirq, "idle": statIdle} {
		diff(name, c.stat[last], c.stat[0], c.stat[last].row(at), c.stat[0].row(at))
	}
	return out
}

func sum(counts []uint64) uint64 {
	total := uint64(0)
	for _, n := range counts {
		total += n
	}
	return total
}

func TestWorkFollowsInterrupts(t *testing.T) {
	t.Parallel()
	m := newMemory(t, virtio4())
	before := rises(t, m)
	if before["NET_RX"][0] == 0 || before["NET_RX"][1] != 0 || before["softirq"][0] == 0 {
		t.Fatalf("the machine is not stacked: %v", before)
	}
	// Pair 1 (input 43, output 44) to CPU 1 and so on: an even machine.
	for q := 1; q < 4; q++ {
		for side := range 2 {
			write(t, m, fmt.Sprintf("proc/irq/%d/smp_affinity", 41+2*q+side), strconv.FormatUint(1<<q, 16))
		}
	}
	after := rises(t, m)
	for _, name := range []string{"NET_RX", "NET_TX", "processed", "softirq"} {
		if sum(before[name]) != sum(after[name]) {
			t.Errorf("%s: %v became %v: work appeared or vanished", name, before[name], after[name])
		}
		quarter := sum(before[name]) / 4
		for cpu, n := range after[name] {
			if n+3 < quarter || n > quarter+3 {
				t.Errorf("%s of CPU %d is %d, want about %d: %v", name, cpu, n, quarter, after[name])
			}
		}
	}
	for cpu := range 4 {
		if was, is := before["idle"][cpu]+before["softirq"][cpu], after["idle"][cpu]+after["softirq"][cpu]; was != is {
			t.Errorf("CPU %d had %d ticks and has %d", cpu, was, is)
		}
	}
	if diff := cmp.Diff([]uint64{0, 0, 0, sum(before["irq 47"])}, after["irq 47"]); diff != "" {
		t.Errorf("interrupt 47 (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before["TIMER"], after["TIMER"]); diff != "" {
		t.Errorf("timers moved:\n%s", diff)
	}
	first, _ := m.Host(0).ReadFile(interruptsFile)
	if want, _ := must(Generate(virtio4()))[0].ReadFile(interruptsFile); !slices.Equal(first, want) {
		t.Error("the first sample changed")
	}
}

// A single sample counts since boot, and all of it moves.
func TestSingleSample(t *testing.T) {
	t.Parallel()
	hosts, err := Generate(virtio4())
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMemory(hosts[:1])
	if err != nil {
		t.Fatal(err)
	}
	before := rises(t, m)
	write(t, m, "proc/irq/41/smp_affinity", "4")
	after := rises(t, m)
	if diff := cmp.Diff([]uint64{0, 0, sum(before["irq 41"]), 0}, after["irq 41"]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if sum(after["NET_RX"]) != sum(before["NET_RX"]) || after["NET_RX"][2] == 0 {
		t.Errorf("NET_RX %v became %v", before["NET_RX"], after["NET_RX"])
	}
}

// Counters wrap at 2^32 between the samples; /proc/stat does not.
func TestWrappedCounters(t *testing.T) {
	t.Parallel()
	m := newMemory(t, virtio4())
	c, err := m.parsed()
	if err != nil {
		t.Fatal(err)
	}
	const near = 1<<32 - 5
	c.interrupts[0].find("41").counts[0] = near
	c.interrupts[1].find("41").counts[0] = 15
	c.interrupts[0].find("41").counts[3] = near
	c.interrupts[1].find("41").counts[3] = near
	write(t, m, "proc/irq/41/smp_affinity", "8")
	if got := c.interrupts[1].find("41").counts; got[0] != near || got[3] != 15 {
		t.Errorf("counts %v, want all 20 on CPU 3", got)
	}
	wide, narrow := &row{counts: []uint64{1 << 40}, wide: true}, &row{counts: []uint64{1<<32 - 1}}
	wide.add(0, 1)
	narrow.add(0, 1)
	if wide.counts[0] != 1<<40+1 || narrow.counts[0] != 0 {
		t.Errorf("wide %d, narrow %d", wide.counts[0], narrow.counts[0])
	}
}

func TestRPSHousekeeping(t *testing.T) {
	t.Parallel()
	spec := virtio4()
	spec.Isolated = "2-3"
	m := newMemory(t, spec)
	const file = "sys/class/net/eth0/queues/rx-1/rps_cpus"
	write(t, m, file, "e")
	if got := read(t, m, file); got != "2" {
		t.Errorf("mask %s, want isolated CPUs taken off", got)
	}
	refused(t, m, file, "c", syscall.EINVAL)
	refused(t, m, file, "1f", syscall.EOVERFLOW)
	write(t, m, file, "0")
	if got := read(t, m, file); got != "0" {
		t.Errorf("mask %s, want it off", got)
	}
	write(t, m, "proc/irq/41/smp_affinity", "8") // isolation does not bind interrupts
}

func TestFlowCountRounds(t *testing.T) {
	t.Parallel()
	m := newMemory(t, virtio4())
	const file = "sys/class/net/eth0/queues/rx-0/rps_flow_cnt"
	for text, want := range map[string]string{"1000": "1024", "4096": "4096", "1": "1", "0": "0", "0x10": "16"} {
		write(t, m, file, text)
		if got := read(t, m, file); got != want {
			t.Errorf("%s became %s, want %s", text, got, want)
		}
	}
	refused(t, m, file, "-1", syscall.EINVAL)
	refused(t, m, file, "many", syscall.EINVAL)
}

func TestSingleQueueHasNoXPS(t *testing.T) {
	t.Parallel()
	m := newMemory(t, Spec{CPUs: 4, QueuesPerNIC: 1})
	refused(t, m, "sys/class/net/eth0/queues/tx-0/xps_cpus", "1", fs.ErrNotExist)
	k, _ := knob.Lookup("xps.cpus")
	if got := k.Read(m.View(), knob.Tx("eth0", 0, "xps.cpus")); got.Status != knob.Unsupported || !strings.Contains(got.Reason, "one transmit queue") {
		t.Errorf("%+v", got)
	}
}

func TestSysctlLaws(t *testing.T) {
	t.Parallel()
	m := newMemory(t, virtio4())
	const core = "proc/sys/net/core/"
	refused(t, m, core+"netdev_budget_usecs", "7999", syscall.EINVAL)
	refused(t, m, core+"dev_weight", "0", syscall.EINVAL)
	refused(t, m, core+"gro_normal_batch", "0", syscall.EINVAL)
	refused(t, m, core+"rps_sock_flow_entries", "536870913", syscall.EINVAL)
	refused(t, m, core+"flow_limit_table_len", "1000", syscall.EINVAL)
	refused(t, m, core+"flow_limit_cpu_bitmap", "1f", syscall.EOVERFLOW)
	refused(t, m, core+"netdev_budget", "many", syscall.EINVAL)
	for name, value := range map[string][2]string{
		"netdev_budget_usecs": {"8000", "8000"}, "netdev_budget": {"-1", "-1"}, "rps_sock_flow_entries": {"1000", "1024"},
		"flow_limit_table_len": {"8192", "8192"}, "flow_limit_cpu_bitmap": {"3", "3"},
	} {
		write(t, m, core+name, value[0])
		if got := read(t, m, core+name); got != value[1] {
			t.Errorf("%s: %s became %s, want %s", name, value[0], got, value[1])
		}
	}
}

func TestDeviceWideNAPIWrites(t *testing.T) {
	t.Parallel()
	m := newMemory(t, i40e2())
	if err := m.Writer().SetNAPI(host.NAPI{ID: 8194, GROFlushTimeout: 50000, DeferHardIRQs: 7}); err != nil {
		t.Fatal(err)
	}
	write(t, m, "sys/class/net/eth0/gro_flush_timeout", "20000")
	napis, err := m.Host(1).Netdev.NAPIs()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range napis {
		want := uint64(0)
		if n.IfIndex == 2 {
			want = 20000
		}
		if n.GROFlushTimeout != want {
			t.Errorf("NAPI %d of %d: %d, want %d", n.ID, n.IfIndex, n.GROFlushTimeout, want)
		}
		if n.ID == 8194 && n.DeferHardIRQs != 7 {
			t.Errorf("the other value of NAPI %d was lost", n.ID)
		}
	}
	refused(t, m, "sys/class/net/eth0/napi_defer_hard_irqs", "2147483648", syscall.ERANGE)
	refused(t, m, "sys/class/net/eth0/napi_defer_hard_irqs", "-1", syscall.EINVAL)
	refused(t, m, "sys/class/net/eth0/threaded", "2", syscall.EOPNOTSUPP)
	write(t, m, "sys/class/net/eth0/threaded", "1")
	if err := m.Writer().SetNAPI(host.NAPI{ID: 1}); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("set no NAPI: %v", err)
	}
}

func TestRingLaws(t *testing.T) {
	t.Parallel()
	m := newMemory(t, i40e2())
	w := m.Writer()
	if err := w.SetRings("eth0", host.Rings{Rx: 1000, Tx: 512}); err != nil {
		t.Fatal(err)
	}
	got, err := m.Host(0).Ethtool.Rings("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(host.Rings{MaxRx: 4096, MaxTx: 4096, Rx: 1024, Tx: 512}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, r := range []host.Rings{{Rx: 4097, Tx: 512}, {Rx: 512, Tx: -1}, {Rx: 0, Tx: 512}} {
		if err := w.SetRings("eth0", r); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	v := newMemory(t, virtio4())
	if err := v.Writer().SetRings("eth0", host.Rings{Rx: 128, Tx: 256}); !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Errorf("virtio without ring reset: %v", err)
	}
	spec := virtio4()
	spec.VirtioFeatures = []int{virtioRingReset}
	v = newMemory(t, spec)
	if err := v.Writer().SetRings("eth0", host.Rings{Rx: 128, Tx: 256}); err != nil {
		t.Errorf("virtio with ring reset: %v", err)
	}
	if err := v.Writer().SetRings("eth0", host.Rings{Rx: 128, Tx: 19}); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("virtio transmit ring of 19: %v", err)
	}
	for _, tt := range []struct {
		driver      string
		want, limit int
		size        int
	}{{"ixgbe", 100, 4096, 104}, {"ice", 10, 8160, 64}, {"mlx5_core", 1025, 8192, 2048}, {"i40e", 4090, 4096, 4096}, {"bnxt_en", 511, 2047, 511}} {
		if got := ringSize(tt.driver, tt.want, tt.limit); got != tt.size {
			t.Errorf("%s: ring of %d became %d, want %d", tt.driver, tt.want, got, tt.size)
		}
	}
}

func TestCoalesceLaws(t *testing.T) {
	t.Parallel()
	on, off := true, false
	m := newMemory(t, i40e2())
	if err := m.Writer().SetCoalesce("eth0", host.Coalesce{AdaptiveRx: &off, Values: map[string]int{"rx-usecs": 20}}); err != nil {
		t.Fatal(err)
	}
	off = true // the machine keeps its own copy
	got, _ := m.Host(1).Ethtool.Coalesce("eth0")
	wantOff := false
	if diff := cmp.Diff(host.Coalesce{AdaptiveRx: &wantOff, AdaptiveTx: &on, Values: map[string]int{"rx-usecs": 20, "tx-usecs": 50}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := m.Writer().SetCoalesce("eth0", host.Coalesce{Values: map[string]int{"rx-frames": 3}}); !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Errorf("a field the driver has not: %v", err)
	}
	// A delay asked for together with the switch is forgotten, the other side stays.
	m = newMemory(t, Spec{Driver: "mlx5_core"})
	for _, tt := range []struct {
		on   bool
		want int
	}{{false, mlx5Usecs}, {false, 20}, {true, dimUsecs}} {
		if err := m.Writer().SetCoalesce("eth0", host.Coalesce{AdaptiveRx: &tt.on, Values: map[string]int{"rx-usecs": 20}}); err != nil {
			t.Fatal(err)
		}
		if got, _ := m.Host(1).Ethtool.Coalesce("eth0"); got.Values["rx-usecs"] != tt.want || got.Values["tx-usecs"] != 50 {
			t.Errorf("mlx5_core with adaptive moderation %v: %v, want rx-usecs %d", tt.on, got.Values, tt.want)
		}
	}
	base := func(change func(map[string]int)) host.Coalesce {
		values := map[string]int{"rx-usecs": 0, "rx-frames": 1, "tx-usecs": 0, "tx-frames": 1}
		change(values)
		return host.Coalesce{Values: values}
	}
	for _, tt := range []struct {
		features []int
		set      host.Coalesce
		want     error
	}{
		{nil, base(func(map[string]int) {}), nil},
		{nil, base(func(v map[string]int) { v["rx-usecs"] = 20 }), syscall.EOPNOTSUPP},
		{nil, base(func(v map[string]int) { v["rx-frames"] = 8 }), syscall.EOPNOTSUPP},
		{[]int{virtioNotfCoal}, base(func(v map[string]int) { v["rx-usecs"] = 20 }), nil},
		{[]int{virtioNotfCoal}, base(func(v map[string]int) { v["tx-frames"] = 0 }), syscall.EBUSY},
	} {
		spec := virtio4()
		spec.VirtioFeatures = tt.features
		if err := newMemory(t, spec).Writer().SetCoalesce("eth0", tt.set); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("virtio %v, %v: %v, want %v", tt.features, tt.set.Values, err, tt.want)
		}
	}
}

// A feature for which drivers reset the device costs the masks of its
// interrupts, if it changes, and nobody else's.
func TestResetLaw(t *testing.T) {
	t.Parallel()
	m := newMemory(t, i40e2())
	affinity := func(dev string) string {
		v := m.View()
		kind, _ := knob.Lookup("irq.affinity")
		return kind.Read(v, knob.Rx(dev, 3, kind.Name)).Value
	}
	if affinity("eth0") != "0" {
		t.Fatalf("affinity %s: a reset would not be seen", affinity("eth0"))
	}
	set := func(feature string, on bool) {
		if err := m.Writer().SetFeatures("eth0", map[string]bool{feature: on}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		feature string
		on      bool
		want    string
	}{{"rx-gro", false, "0"}, {"rx-lro", true, "0"}, {"rx-ntuple-filter", true, "0"}, {"rx-ntuple-filter", false, "3"}} {
		if set(tt.feature, tt.on); affinity("eth0") != tt.want || affinity("eth1") != "0" {
			t.Errorf("%s %v: affinity %s, want %s; the other device's is %s", tt.feature, tt.on, affinity("eth0"), tt.want, affinity("eth1"))
		}
	}
}

func TestFeatureLaws(t *testing.T) {
	t.Parallel()
	m := newMemory(t, i40e2())
	if err := m.Writer().SetFeatures("eth0", map[string]bool{"rx-lro": true, "rx-gro": false}); err != nil {
		t.Fatal(err)
	}
	got, _ := m.Host(0).Ethtool.Features("eth0")
	if got["rx-lro"].On {
		t.Error("a fixed feature was granted")
	}
	if got["rx-gro"] != (host.Feature{}) {
		t.Errorf("rx-gro is %+v", got["rx-gro"])
	}
	got["rx-gro"] = host.Feature{On: true}
	if again, _ := m.Host(0).Ethtool.Features("eth0"); again["rx-gro"].On {
		t.Error("a caller can change the features")
	}
	m.features["eth0"] = host.Features{"rx-lro": {}, "rx-gro-hw": {On: true}}
	if err := m.Writer().SetFeatures("eth0", map[string]bool{"rx-lro": true}); err != nil {
		t.Fatal(err)
	}
	if got, _ := m.Host(0).Ethtool.Features("eth0"); got["rx-lro"].On || !got["rx-lro"].Requested {
		t.Errorf("LRO beside GRO by the device: %+v", got["rx-lro"])
	}
}

func TestRSSLaws(t *testing.T) {
	t.Parallel()
	m := newMemory(t, i40e2())
	table := make([]uint32, 512)
	w := m.Writer()
	if err := w.SetRSS("eth0", table[:511]); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("short table: %v", err)
	}
	table[7] = 8
	if err := w.SetRSS("eth0", table); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("queue that is not in use: %v", err)
	}
	table[7] = 1
	if err := w.SetRSS("eth0", table); err != nil {
		t.Fatal(err)
	}
	// Queue 1 has 1 slot of 512 now, queue 0 the others.
	after := rises(t, m)
	total := sum(after["irq 40"]) + sum(after["irq 41"])
	if got := sum(after["irq 41"]); got != total/512 && got != total/512+1 {
		t.Errorf("queue 1 got %d of %d", got, total)
	}
	if sum(after["irq 42"]) != 0 {
		t.Errorf("queue 2 still got %d", sum(after["irq 42"]))
	}
	c, _ := m.Host(0).Ethtool.Channels("eth0")
	c.Combined = 1
	if err := w.SetChannels("eth0", c); !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "existing indirection table") {
		t.Errorf("fewer channels than the user's table names: %v", err)
	}
	c.Combined = 4
	if err := w.SetChannels("eth0", c); err != nil {
		t.Fatal(err)
	}
	if got, _ := m.Host(1).Ethtool.RSS("eth0"); got.Table[7] != 1 || got.Table[8] != 0 || got.RxRings != 4 {
		t.Errorf("the user's table did not survive: %v of %d", got.Table[:9], got.RxRings)
	}
}

func TestHashFields(t *testing.T) {
	t.Parallel()
	m := newMemory(t, Spec{CPUs: 4, Driver: "ixgbe"})
	if err := m.Writer().SetHashFields("eth0", "udp4", "sdfn"); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Host(0).Ethtool.HashFields("eth0", "udp4"); err != nil || got != "sdfn" {
		t.Errorf("%q, %v", got, err)
	}
	if got, _ := m.Host(0).Ethtool.HashFields("eth0", "udp6"); got != "sd" {
		t.Errorf("udp6 changed too: %q", got)
	}
	if err := m.Writer().SetHashFields("eth0", "udp4", "xyz"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("nonsense: %v", err)
	}
}

// xps_rxqs names receive queues that the device was made with, in use or not, and
// goes with its transmit queue.
func TestXPSQueuesLaw(t *testing.T) {
	t.Parallel()
	for _, spec := range []Spec{{CPUs: 4, QueuesPerNIC: 2, MaxQueues: 6}, {Driver: "i40e", QueuesPerNIC: 2, MaxQueues: 6}} {
		m := newMemory(t, spec)
		file := func(q int) string { return fmt.Sprintf("sys/class/net/eth0/queues/tx-%d/xps_rxqs", q) }
		channels := func(n int) {
			if err := m.Writer().SetChannels("eth0", host.Channels{MaxCombined: 6, Combined: n}); err != nil {
				t.Fatal(err)
			}
		}
		refused(t, m, file(0), "40", syscall.EOVERFLOW)
		write(t, m, file(0), "20")
		write(t, m, file(1), "3")
		channels(1)
		channels(2)
		if first, second := read(t, m, file(0)), read(t, m, file(1)); first != "20" || second != "00" {
			t.Errorf("%s: %s and %s after fewer and more queues", spec.Driver, first, second)
		}
	}
}

func TestVirtioChannels(t *testing.T) {
	t.Parallel()
	m := newMemory(t, Spec{CPUs: 6, QueuesPerNIC: 1, MaxQueues: 4, IRQStacked: true})
	w := m.Writer()
	write(t, m, "proc/sys/net/core/rps_default_mask", "3")
	write(t, m, "sys/class/net/eth0/queues/rx-0/rps_cpus", "2")
	for _, c := range []host.Channels{{Combined: 5}, {Combined: 0}, {Combined: 1, Rx: 1}, {Rx: 1, Tx: 1}} {
		if err := w.SetChannels("eth0", c); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	before := rises(t, m)
	if err := w.SetChannels("eth0", host.Channels{MaxCombined: 4, Combined: 4}); err != nil {
		t.Fatal(err)
	}
	if got, _ := m.Host(0).Ethtool.Channels("eth0"); got.Combined != 4 || got.MaxCombined != 4 {
		t.Errorf("%+v", got)
	}
	// Six CPUs over four pairs: 2, 2, 1, 1.
	for q, want := range []string{"0-1", "2-3", "4", "5"} {
		for side := range 2 {
			name := fmt.Sprintf("proc/irq/%d/smp_affinity_list", 41+2*q+side)
			if got := read(t, m, name); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
		mask, _ := cpuset.ParseList(want)
		if got := read(t, m, fmt.Sprintf("sys/class/net/eth0/queues/tx-%d/xps_cpus", q)); got != maskText(mask, 6) {
			t.Errorf("XPS of queue %d: %s", q, got)
		}
	}
	for q, want := range []string{"02", "03", "03", "03"} {
		if got := read(t, m, fmt.Sprintf("sys/class/net/eth0/queues/rx-%d/rps_cpus", q)); got != want {
			t.Errorf("RPS of queue %d: %s, want %s", q, got, want)
		}
	}
	after := rises(t, m)
	for q, cpu := range []int{0, 2, 4, 5} {
		name := "irq " + strconv.Itoa(41+2*q)
		if got := after[name][cpu]; got != before["irq 41"][0]/4 {
			t.Errorf("%s on CPU %d: %d, want a quarter of %d", name, cpu, got, before["irq 41"][0])
		}
	}
	queues, _ := m.Host(1).Netdev.Queues()
	if len(queues) != 8 || queues[3].NAPI <= 8193 || queues[4].NAPI != -1 {
		t.Errorf("queues %+v", queues)
	}
	if err := w.SetChannels("eth0", host.Channels{MaxCombined: 4, Combined: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Host(0).ReadFile("sys/class/net/eth0/queues/rx-2/rps_cpus"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a removed queue: %v", err)
	}
	if got := read(t, m, "proc/irq/45/smp_affinity_list"); got != "4" {
		t.Errorf("the vector of a pair out of use moved to %s", got)
	}
}

func TestChannelsWithFreshVectors(t *testing.T) {
	t.Parallel()
	m := newMemory(t, i40e2())
	w := m.Writer()
	before := rises(t, m)
	if err := w.SetChannels("eth0", host.Channels{MaxCombined: 16, Combined: 10}); err != nil {
		t.Fatal(err)
	}
	v := m.View()
	for q := range 10 {
		irq, err := v.IRQ("eth0", false, q)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, m, fmt.Sprintf("proc/irq/%d/smp_affinity_list", irq)); got != "0-15" {
			t.Errorf("queue %d: affinity %s, want the default", q, got)
		}
		if q >= 8 && irq < 56 {
			t.Errorf("queue %d has the old interrupt %d", q, irq)
		}
	}
	text := read(t, m, interruptsFile)
	if !strings.Contains(text, "i40e-eth0-TxRx-9\n") && !strings.Contains(text, "i40e-eth0-TxRx-9") {
		t.Errorf("no line of the new queue:\n%s", text)
	}
	after := rises(t, m)
	was, is := uint64(0), uint64(0)
	for q := range 10 {
		irq, _ := v.IRQ("eth0", false, q)
		is += sum(after["irq "+strconv.Itoa(irq)])
		if q < 8 {
			was += sum(before["irq "+strconv.Itoa(40+q)])
		}
	}
	if is+10 < was || is > was {
		t.Errorf("eth0 had %d interrupts and has %d", was, is)
	}
	if got, _ := m.Host(0).Ethtool.RSS("eth0"); got.RxRings != 10 || got.Table[9] != 9 {
		t.Errorf("the table was not spread anew: %v of %d", got.Table[:12], got.RxRings)
	}
	if err := w.SetChannels("eth0", host.Channels{MaxCombined: 16, Combined: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Host(1).ReadDir("proc/irq/42"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("directory of a freed interrupt: %v", err)
	}
	if strings.Contains(read(t, m, interruptsFile), "i40e-eth0-TxRx-2") {
		t.Error("line of a freed interrupt")
	}
	refused(t, m, "proc/irq/42/smp_affinity", "1", syscall.ENOENT)
	if got := m.View().Devices[0]; got.RxQueues != 2 || got.TxQueues != 2 {
		t.Errorf("%+v", got)
	}
}

// A capture of /proc alone has no devices: one queue of two must still take
// half of the work along and not all of it.
func TestWorkFollowsWithoutDeviceTree(t *testing.T) {
	t.Parallel()
	sample := func(a, b, plain, runs int) *host.Host {
		files := tree.New()
		for name, text := range map[string]string{
			interruptsFile: fmt.Sprintf("  CPU0 CPU1\n 30: %d 0 PCI-MSI eth0-rx-0\n 31: %d 0 PCI-MSI eth0-rx-1\n 16: %d 0 IO-APIC ehci, eth1\n 17: 5000 0 PCI-MSI nvme0q1\n", a, b, plain),
			softirqsFile:   fmt.Sprintf("  CPU0 CPU1\n NET_RX: %d 0\n", runs),
			"proc/net/dev": "Inter-|\n eth1: 0 0\n",
		} {
			if err := files.WriteFile(name, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		return &host.Host{FS: files}
	}
	m, err := NewMemory([]*host.Host{sample(100, 100, 100, 1000), sample(200, 300, 200, 1400)})
	if err != nil {
		t.Fatal(err)
	}
	write(t, m, "proc/irq/31/smp_affinity", "2")
	// 200 of 400 network interrupts moved.
	if diff := cmp.Diff([]uint64{200, 200}, rises(t, m)["NET_RX"]); diff != "" {
		t.Errorf("NET_RX (-want +got):\n%s", diff)
	}
}

func TestVectorNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]vector{
		"  PCI-MSI 1-edge      eth0-TxRx-3":                 {queue: 3, rx: true, tx: true},
		"  PCI-MSI 1-edge      i40e-eth0-TxRx-11":           {queue: 11, rx: true, tx: true},
		"  PCI-MSI 1-edge      eth0-Tx-Rx-2":                {queue: 2, rx: true, tx: true},
		"  PCI-MSI 1-edge      virtio0-input.1":             {queue: 1, rx: true},
		"  PCI-MSI 1-edge      virtio10-output.0":           {queue: 0, tx: true},
		"  PCI-MSI 1-edge      eth2-rx-1":                   {queue: 1, rx: true},
		"  PCI-MSI 1-edge      eth2-tx-1":                   {queue: 1, tx: true},
		"  PCI-MSI 1-edge      eth2-rxtx-1":                 {queue: 1, rx: true, tx: true},
		"  PCI-MSI 1-edge      mlx5_comp7@pci:0000:3b:00.0": {queue: 7, rx: true, tx: true},
	} {
		got, ok := parseVector(name, 0)
		if !ok || got != want {
			t.Errorf("%q: %+v, %v, want %+v", name, got, ok, want)
		}
	}
	for _, name := range []string{"  PCI-MSI virtio0-config", "  IO-APIC eth0", "  PCI-MSI i40e-0000:3b:00.0:misc", "", "  PCI-MSI mlx5_async0@pci:0000:3b:00.0"} {
		if got, ok := parseVector(name, 0); ok {
			t.Errorf("%q: %+v", name, got)
		}
	}
}

// New queues get NAPIs with the values of the device, not with the kernel's.
func TestNewQueuesHaveTheValuesOfTheDevice(t *testing.T) {
	t.Parallel()
	samples, err := Generate(Spec{QueuesPerNIC: 1, MaxQueues: 2})
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMemory(samples)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"gro_flush_timeout": "20000", "napi_defer_hard_irqs": "3", "threaded": "1"} {
		if err := m.Writer().WriteFile("sys/class/net/eth0/"+name, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Writer().SetNAPI(host.NAPI{ID: 8193, GROFlushTimeout: 5, Threaded: 0}); err != nil {
		t.Fatal(err)
	}
	if err := m.Writer().SetChannels("eth0", host.Channels{MaxCombined: 2, Combined: 2}); err != nil {
		t.Fatal(err)
	}
	napis, err := m.Host(0).Netdev.NAPIs()
	want := []host.NAPI{
		{IfIndex: 2, ID: 8193, IRQ: -1, GROFlushTimeout: 5},
		{IfIndex: 2, ID: 8194, IRQ: -1, GROFlushTimeout: 20000, DeferHardIRQs: 3, Threaded: 1},
	}
	if diff := cmp.Diff(want, napis); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// A table that is given back to the driver follows the number of queues again.
func TestResetRSS(t *testing.T) {
	t.Parallel()
	samples, err := Generate(Spec{Driver: "ixgbe", QueuesPerNIC: 4})
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMemory(samples)
	if err != nil {
		t.Fatal(err)
	}
	w := m.Writer()
	if err := w.SetRSS("eth0", slices.Repeat([]uint32{3, 2, 1, 0}, 32)); err != nil {
		t.Fatal(err)
	}
	fewer := host.Channels{MaxCombined: 4, Combined: 2}
	if err := w.SetChannels("eth0", fewer); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("fewer queues than the user's table names: %v", err)
	}
	if err := w.SetRSS("eth0", nil); err != nil {
		t.Fatal(err)
	}
	if err := w.SetChannels("eth0", fewer); err != nil {
		t.Errorf("after the reset: %v", err)
	}
	rss, err := m.Host(1).Ethtool.RSS("eth0")
	if diff := cmp.Diff(slices.Repeat([]uint32{0, 1}, 64), rss.Table); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
