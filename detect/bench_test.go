package detect

import (
	"bytes"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

// generatedInterrupts writes /proc/interrupts for a machine with a NIC queue
// per CPU (of four NICs) and as many interrupts of other things.
func generatedInterrupts(cpus, rows int) []byte {
	var b bytes.Buffer
	b.WriteString("     ")
	for c := range cpus {
		fmt.Fprintf(&b, "       CPU%-4d", c)
	}
	b.WriteByte('\n')
	for r := range rows {
		fmt.Fprintf(&b, "%4d:", r+30)
		for c := range cpus {
			n := 0
			if c == r%cpus {
				n = 4_000_000_000 + r
			}
			fmt.Fprintf(&b, " %10d", n)
		}
		if r%2 == 0 {
			fmt.Fprintf(&b, "  IR-PCI-MSI %d-edge      i40e-eth%d-TxRx-%d\n", 0x4000000+r, r/2%4, r/8)
		} else {
			fmt.Fprintf(&b, "  IR-PCI-MSI %d-edge      nvme%dq%d\n", 0x8000000+r, r%7, r)
		}
	}
	for _, name := range []string{"NMI", "LOC", "RES", "CAL", "TLB"} {
		b.WriteString(name + ":")
		for c := range cpus {
			fmt.Fprintf(&b, " %10d", c)
		}
		b.WriteString("   Some interrupts\n")
	}
	return b.Bytes()
}

func generatedSoftirqs(cpus int) []byte {
	var b bytes.Buffer
	for c := range cpus {
		fmt.Fprintf(&b, " CPU%d", c)
	}
	b.WriteByte('\n')
	for _, name := range []string{"HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"} {
		fmt.Fprintf(&b, "%12s:", name)
		for c := range cpus {
			fmt.Fprintf(&b, " %10d", 1000+c)
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

func generatedStat(cpus int) []byte {
	var b bytes.Buffer
	for c := range cpus {
		fmt.Fprintf(&b, "cpu%d %d 2 3 400000 5 6 7 8 0 0\n", c, 1000+c)
	}
	b.WriteString("btime 1700000000\n")
	return b.Bytes()
}

// generatedHost is a machine of any size: sysfs tree, counters, four NICs.
func generatedHost(t testing.TB, cpus int) *host.Host {
	t.Helper()
	fsys := tree.New()
	put := func(name, text string) {
		if err := fsys.WriteFile(name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	all := cpuset.Range(0, cpus-1).String() + "\n"
	for _, name := range []string{"online", "possible", "present"} {
		put("sys/devices/system/cpu/"+name, all)
	}
	put("sys/devices/system/cpu/isolated", "\n")
	put("sys/devices/system/node/node0/cpulist", all)
	for c := range cpus {
		dir := "sys/devices/system/cpu/cpu" + strconv.Itoa(c)
		put(dir+"/topology/core_cpus_list", fmt.Sprintf("%d-%d\n", c&^1, c|1))
		put(dir+"/topology/physical_package_id", "0\n")
		put(dir+"/topology/package_cpus_list", all)
		put(dir+"/cache/index0/level", "3\n")
		put(dir+"/cache/index0/type", "Unified\n")
		put(dir+"/cache/index0/shared_cpu_list", fmt.Sprintf("%d-%d\n", c&^15, c|15))
	}
	put("proc/interrupts", string(generatedInterrupts(cpus, cpus)))
	put("proc/softirqs", string(generatedSoftirqs(cpus)))
	put("proc/stat", string(generatedStat(cpus)))
	numbers := make([]int, cpus)
	for c := range numbers {
		numbers[c] = c
	}
	put("proc/net/softnet_stat", softnetText(15, numbers...))
	for r := 0; r < cpus; r += 2 {
		put(fmt.Sprintf("proc/irq/%d/smp_affinity_list", r+30), strconv.Itoa(r)+"\n")
	}
	links := []host.Link{}
	for n := range 4 {
		links = append(links, host.Link{Name: fmt.Sprintf("eth%d", n), Index: n + 2, Up: true, Running: true})
	}
	return &host.Host{FS: fsys, Links: func() ([]host.Link, error) { return links, nil }}
}

func BenchmarkParseInterrupts(b *testing.B) {
	for _, cpus := range []int{8, 128, 1152} {
		b.Run(strconv.Itoa(cpus), func(b *testing.B) {
			data := generatedInterrupts(cpus, cpus)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if table, errs := parseInterrupts(data); len(errs) > 0 || len(table.Rows) != cpus {
					b.Fatal(len(table.Rows), errs)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(cpus*cpus), "ns/cell")
		})
	}
}

func BenchmarkParseSoftirqs(b *testing.B) {
	data := generatedSoftirqs(512)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, errs := parseSoftirqs(data); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}

func BenchmarkParseSoftnet(b *testing.B) {
	numbers := make([]int, 512)
	for c := range numbers {
		numbers[c] = c
	}
	data := []byte(softnetText(15, numbers...))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, errs := parseSoftnet(data, cpuset.Set{}); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}

func BenchmarkCollect(b *testing.B) {
	for _, cpus := range []int{8, 128, 1152} {
		b.Run(strconv.Itoa(cpus), func(b *testing.B) {
			h := generatedHost(b, cpus)
			b.ReportAllocs()
			for b.Loop() {
				s, err := Collect(h)
				if err != nil || Between(s, s) == nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCapture1152(b *testing.B) {
	h := capturedHost(b, "pcp/hpe_1152cpu_i40e")
	b.ReportAllocs()
	for b.Loop() {
		s, err := Collect(h)
		if err != nil || Between(s) == nil {
			b.Fatal(err)
		}
	}
}

// TestCostIsLinear compares the time per count of a small and a large table.
// The tolerance is wide because the machine is shared; a quadratic parser
// would be off by two orders of magnitude.
func TestCostIsLinear(t *testing.T) {
	perCell := func(cpus int) float64 {
		data := generatedInterrupts(cpus, cpus)
		best := time.Duration(1 << 62)
		for range 5 {
			start := time.Now()
			parseInterrupts(data)
			best = min(best, time.Since(start))
		}
		return float64(best.Nanoseconds()) / float64(cpus*cpus)
	}
	small, large := perCell(96), perCell(768)
	if large > 8*small+20 {
		t.Errorf("%.1f ns per count with 96 CPUs, %.1f with 768", small, large)
	}
}

// TestGeneratedHost keeps the generator honest, so that the benchmarks measure
// what they say.
func TestGeneratedHost(t *testing.T) {
	s, err := Collect(generatedHost(t, 32))
	if err != nil {
		t.Fatal(err)
	}
	if d := s.Device("eth1"); len(s.Devices) != 4 || show(d) != "0:rx32/tx32 1:rx40/tx40 2:rx48/tx48 3:rx56/tx56" {
		t.Errorf("%d devices, eth1 %q", len(s.Devices), show(d))
	}
	if !s.Softnet.Identified || len(s.Softnet.Rows) != 32 || s.Topo.Cores(s.Topo.Online) != 16 || len(s.CPUTimes.CPUs) != 32 {
		t.Errorf("softnet %d rows, %d cores", len(s.Softnet.Rows), s.Topo.Cores(s.Topo.Online))
	}
}
