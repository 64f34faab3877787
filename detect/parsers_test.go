package detect

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/topo"
)

// sets compares CPU sets, which are comparable values.
var sets = cmp.Comparer(func(a, b cpuset.Set) bool { return a == b })

// messages is what a person reads; comparing it keeps the texts honest.
func messages(errs []error) []string {
	var out []string
	for _, err := range errs {
		out = append(out, err.Error())
	}
	return out
}

func irq(number int, chip string, actions []string, counts ...uint32) IRQ {
	return IRQ{Number: number, Chip: chip, Actions: actions, Counts: counts, Node: topo.Unknown}
}

func TestParseInterrupts(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want IRQTable
		errs []string
	}{
		"masked by a container runtime": {text: "", want: IRQTable{Masked: true}},
		"blank":                         {text: "\n", want: IRQTable{Masked: true}},
		"x86 before 6.2, after and with remapping": {
			text: "           CPU0       CPU1       \n" +
				" 27:         10          2   PCI-MSI 1572865-edge      virtio0-input.0\n" +
				" 28:          0 4294967295  PCI-MSIX-0000:00:03.0   1-edge      eth0-TxRx-0\n" +
				"NMI:          1          2   Non-maskable interrupts\n" +
				" 29:          5          6  IR-PCI-MSI-edge      eth1\n" +
				"ERR:          7\n",
			want: IRQTable{CPUs: []int{0, 1}, Rows: []IRQ{
				irq(27, "PCI-MSI 1572865-edge", []string{"virtio0-input.0"}, 10, 2),
				irq(28, "PCI-MSIX-0000:00:03.0 1-edge", []string{"eth0-TxRx-0"}, 0, 4294967295),
				irq(29, "IR-PCI-MSI-edge", []string{"eth1"}, 5, 6),
			}, Named: map[string][]uint32{"NMI": {1, 2}, "ERR": {7}}},
		},
		"level column, chip of two words, offline CPUs": {
			text: "           CPU1       CPU7\n 26:   27389481          0   SiFive PLIC 131 Edge      eth0\n 11:  1  2     GICv3  27 Level     arch_timer\nIPI0:  3  4       Rescheduling interrupts\n",
			want: IRQTable{CPUs: []int{1, 7}, Rows: []IRQ{
				irq(26, "SiFive PLIC 131 Edge", []string{"eth0"}, 27389481, 0),
				irq(11, "GICv3 27 Level", []string{"arch_timer"}, 1, 2),
			}, Named: map[string][]uint32{"IPI0": {3, 4}}},
		},
		"several actions, names with spaces, freed vectors": {
			text: "           CPU0\n 16:  5   IO-APIC  16-fasteoi   ehci_hcd:usb1, eth1\n 17: 6  IO-APIC 17-fasteoi a,b\n 67:  0  PCI-MSIX-0000:27:00.0   2-edge    \n 70:  29   xen-dyn    -event     vif0-q0-tx\n 74:  1   xen-pirq    -msi-x     ens3-TxRx-0\n 3:  0   PCI-MSI  mlx5_async@pci:0002:00:00.0\n",
			want: IRQTable{CPUs: []int{0}, Rows: []IRQ{
				irq(16, "IO-APIC 16-fasteoi", []string{"ehci_hcd:usb1", "eth1"}, 5),
				irq(17, "IO-APIC 17-fasteoi", []string{"a", "b"}, 6),
				irq(67, "PCI-MSIX-0000:27:00.0 2-edge", nil, 0),
				irq(70, "xen-dyn -event", []string{"vif0-q0-tx"}, 29),
				irq(74, "xen-pirq -msi-x", []string{"ens3-TxRx-0"}, 1),
				irq(3, "PCI-MSI", []string{"mlx5_async@pci:0002:00:00.0"}, 0),
			}, Named: map[string][]uint32{}},
		},
		"old ARM without a chip column": {
			text: "           CPU0\n  1:          0   4020KEY\n 27:      18210   sep4020 Timer Tick\n 28:      12055   eth0\nErr:          0\n",
			want: IRQTable{CPUs: []int{0}, Rows: []IRQ{
				irq(1, "", []string{"4020KEY"}, 0),
				irq(27, "", []string{"sep4020 Timer Tick"}, 18210),
				irq(28, "", []string{"eth0"}, 12055),
			}, Named: map[string][]uint32{"Err": {0}}},
		},
		"damaged lines are left out": {
			text: " CPU0 CPU1\n 1: 5 IO-APIC 1-edge a\n 2: 1 2 3 IO-APIC 2-edge b\n 3: 1 99999999999 c\n 4: 1 2x c\n no label\nLOC: 1 Local\n 5: 1 2  IO-APIC 5-edge   c\n 6: 1 4294967296 c\n",
			want: IRQTable{CPUs: []int{0, 1}, Rows: []IRQ{irq(5, "IO-APIC 5-edge", []string{"c"}, 1, 2)}, Named: map[string][]uint32{}},
			errs: []string{
				"line 2: interrupt 1: 1 counts for 2 CPUs",
				"line 3: interrupt 2: 3 counts for 2 CPUs",
				`line 4: interrupt 3: count "99999999999" does not fit 32 bits`,
				"line 5: interrupt 4: 1 counts for 2 CPUs",
				`line 6: "no" is not an interrupt label`,
				"line 7: interrupt LOC: 1 counts for 2 CPUs",
				`line 9: interrupt 6: count "4294967296" does not fit 32 bits`,
			},
		},
		"cut off": {
			text: " CPU0\n 1: 5 IO-APIC 1-edge a\n 2: 1",
			want: IRQTable{CPUs: []int{0}, Rows: []IRQ{irq(1, "IO-APIC 1-edge", []string{"a"}, 5)}, Named: map[string][]uint32{}},
			errs: []string{"the last line is cut off"},
		},
		"no header":       {text: " 1: 5 a\n", errs: []string{`header: "1:" is not a CPU`}},
		"header unsorted": {text: " CPU1 CPU0\n", errs: []string{"header: CPU0 follows CPU1"}},
		"header cut":      {text: " CPU0 CPU", errs: []string{"the last line is cut off"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, errs := parseInterrupts([]byte(tc.text))
			if diff := cmp.Diff(tc.want, got, sets); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.errs, messages(errs)); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseSoftirqs(t *testing.T) {
	text := "                CPU0       CPU1       CPU3\n      HI:          0          1          2\n  NET_RX:  4294967295         7          0\n  NET_TX:          1          2\n   BLOCK:          1          2          3          4\n   SCHED: 1 2 x\n     RCU: 1 2 3"
	got, errs := parseSoftirqs([]byte(text))
	want := Softirqs{CPUs: []int{0, 1, 3}, Counts: map[string][]uint32{"HI": {0, 1, 2}, "NET_RX": {4294967295, 7, 0}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{
		"line 4: NET_TX: not one count for each of the 3 CPUs of the header",
		"line 5: BLOCK: not one count for each of the 3 CPUs of the header",
		"line 6: SCHED: not one count for each of the 3 CPUs of the header",
		"the last line is cut off",
	}, messages(errs)); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

// softnetText makes rows of the given width; the first column holds the row
// number + 1, the CPU column the given CPU.
func softnetText(columns int, cpus ...int) string {
	var sb strings.Builder
	for i, cpu := range cpus {
		for c := range columns {
			v := 0
			switch c {
			case 0:
				v = i + 1
			case 1:
				v = 0x10
			case 2:
				v = 0xff
			case softnetRPS:
				v = 9
			case softnetFlowLimit:
				v = 10
			case softnetBacklog:
				v = 11
			case softnetCPU:
				v = cpu
			}
			if c > 0 {
				sb.WriteByte(' ')
			}
			fmt.Fprintf(&sb, "%08x", v)
		}
		sb.WriteByte('\n')
	}
	return sb.String()
}

func TestParseSoftnet(t *testing.T) {
	row := func(cpu, n int, rps, limit, backlog uint32) SoftnetRow {
		return SoftnetRow{CPU: cpu, Processed: uint32(n), Dropped: 16, Squeezed: 255, ReceivedRPS: rps, FlowLimit: limit, Backlog: backlog}
	}
	for name, tc := range map[string]struct {
		text   string
		online cpuset.Set
		want   Softnet
		errs   []string
	}{
		"9 columns":                        {text: softnetText(9, 0), online: cpuset.Of(0), want: Softnet{Columns: 9, Identified: true, Rows: []SoftnetRow{row(0, 1, 0, 0, 0)}}},
		"11 columns, offline CPU between":  {text: softnetText(11, 0, 0), online: cpuset.Of(1, 7), want: Softnet{Columns: 11, Identified: true, Rows: []SoftnetRow{row(1, 1, 9, 10, 0), row(7, 2, 9, 10, 0)}}},
		"11 columns, other number of CPUs": {text: softnetText(11, 0, 0), online: cpuset.Of(0, 1, 2), want: Softnet{Columns: 11, Rows: []SoftnetRow{row(0, 1, 9, 10, 0), row(1, 2, 9, 10, 0)}}, errs: []string{"2 rows without CPU numbers for 3 online CPUs"}},
		"11 columns, CPUs not known":       {text: softnetText(11, 0), want: Softnet{Columns: 11, Rows: []SoftnetRow{row(0, 1, 9, 10, 0)}}, errs: []string{"rows carry no CPU number and the online CPUs are not known"}},
		"13 columns, hex CPU":              {text: softnetText(13, 0, 0x1a), want: Softnet{Columns: 13, Identified: true, Rows: []SoftnetRow{row(0, 1, 9, 10, 11), row(26, 2, 9, 10, 11)}}},
		"15 columns":                       {text: softnetText(15, 3), want: Softnet{Columns: 15, Identified: true, Rows: []SoftnetRow{row(3, 1, 9, 10, 11)}}},
		"more columns than today":          {text: softnetText(20, 3), want: Softnet{Columns: 20, Identified: true, Rows: []SoftnetRow{row(3, 1, 9, 10, 11)}}},
		"whole last line without line feed": {text: strings.TrimSuffix(softnetText(11, 0, 0), "\n"), online: cpuset.Of(0, 1),
			want: Softnet{Columns: 11, Identified: true, Rows: []SoftnetRow{row(0, 1, 9, 10, 0), row(1, 2, 9, 10, 0)}}},
		"last number cut": {text: strings.TrimSuffix(softnetText(11, 0, 0), "a\n"), online: cpuset.Of(0, 1),
			want: Softnet{Columns: 11, Rows: []SoftnetRow{row(0, 1, 9, 10, 0)}}, errs: []string{"the last line is cut off"}},
		"a damaged row makes positions worthless": {text: "0000000g" + softnetText(9, 0)[8:] + softnetText(9, 0, 0), online: cpuset.Of(0, 1),
			want: Softnet{Columns: 9, Rows: []SoftnetRow{row(0, 1, 0, 0, 0), row(1, 2, 0, 0, 0)}}, errs: []string{`line 1: column 0: "0000000g" is not an eight-digit hex number`}},
		"CPU numbers that run backwards": {text: softnetText(13, 1, 0), want: Softnet{Columns: 13, Rows: []SoftnetRow{row(0, 1, 9, 10, 11), row(1, 2, 9, 10, 11)}}, errs: []string{"CPU 0 follows CPU 1"}},
		"too few columns":                {text: softnetText(8, 0), errs: []string{"line 1: 8 columns, want at least 9", "no row"}},
		"empty":                          {errs: []string{"no row"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, errs := parseSoftnet([]byte(tc.text), tc.online)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.errs, messages(errs)); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseStat(t *testing.T) {
	text := "cpu  9 9 9 9\ncpu0 1 2 3 4 5 6 7 8 9 10 11\ncpu3 1 2 3 4\ncpu4 1 2 3\ncpu5 1 2 x 4\nintr 5 1\nbtime 1700000000\ncpu6 1 2 3 4"
	got, errs := parseStat([]byte(text))
	want := CPUTimes{BootTime: 1700000000, CPUs: map[int]CPUTime{
		0: {User: 1, Nice: 2, System: 3, Idle: 4, IOWait: 5, IRQ: 6, Softirq: 7, Steal: 8, Guest: 9, GuestNice: 10},
		3: {User: 1, Nice: 2, System: 3, Idle: 4},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("times (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"line 4: cpu4: 3 columns", `line 5: cpu5: "x" is not a number`, "the last line is cut off"}, messages(errs)); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

func TestParseNetDev(t *testing.T) {
	text := "Inter-|   Receive |  Transmit\n face |bytes    packets|bytes\n    lo:       1 2 0 0 0 0 0 0 1 2 0 0 0 0 0 0\n  eth0:10 20 30 40 50 60 70 80 90 100 110 120 130 140 150 160\n eth0:1: 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\n eth1: 1 2 3\n nothing\n"
	got, errs := parseNetDev([]byte(text))
	want := map[string]InterfaceCounters{
		"lo":     {Known: true, RxBytes: 1, RxPackets: 2, TxBytes: 1, TxPackets: 2},
		"eth0":   {Known: true, RxBytes: 10, RxPackets: 20, RxErrors: 30, RxDropped: 40, RxFIFO: 50, TxBytes: 90, TxPackets: 100, TxErrors: 110, TxDropped: 120},
		"eth0:1": {Known: true, RxBytes: 1, RxPackets: 1, RxErrors: 1, RxDropped: 1, RxFIFO: 1, TxBytes: 1, TxPackets: 1, TxErrors: 1, TxDropped: 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{`line 6: "eth1": 3 columns, want 16`, `line 7: " nothing" has no interface name`}, messages(errs)); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

func TestParseProtocols(t *testing.T) {
	out := Protocols{}
	errs := parseProtocolPairs([]byte("Tcp: MaxConn InErrs\nTcp: -1 7\nUdp: A B\nUdp: 1\nIp: A\nIcmp: 1\nX: y\nX: z\nUdp: InErrors\nUdp: 3\nUdp: lonely\n"), out)
	errs = append(errs, parseSNMP6([]byte("Ip6InReceives \t5\nUdp6InErrors 9\nBad6 x\nnothing 1\n"), out)...)
	if diff := cmp.Diff(Protocols{"Tcp.InErrs": 7, "Udp.InErrors": 3, "Ip6.InReceives": 5, "Udp6.InErrors": 9}, out); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	if len(errs) != 5 {
		t.Errorf("errors %q, want 5", messages(errs))
	}
}

func TestParseCmdline(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"": {},
		"ro quiet isolcpus=nohz,domain,2-3 a=b=c\n":    {"ro": "", "quiet": "", "isolcpus": "nohz,domain,2-3", "a": "b=c"},
		`dyndbg="file x +p" "quoted name=1 2" x=1 x=2`: {"dyndbg": "file x +p", "quoted name": "1 2", "x": "2"},
		"nohz_full=1-3 -- isolcpus=9":                  {"nohz_full": "1-3"},
		`unclosed="a b`:                                {"unclosed": "a b"},
		"BOOT_IMAGE=(hd0,gpt3)/vmlinuz\tro\x00":        {"BOOT_IMAGE": "(hd0,gpt3)/vmlinuz", "ro": ""},
	} {
		if diff := cmp.Diff(want, parseCmdline(text)); diff != "" {
			t.Errorf("parseCmdline(%q) (-want +got):\n%s", text, diff)
		}
	}
}

func TestIsolcpus(t *testing.T) {
	for value, want := range map[string]struct {
		domain, nohz bool
		cpus         string
	}{
		"2-3":               {true, false, "2-3"},
		"domain,2-3,5":      {true, false, "2-3,5"},
		"nohz,2":            {false, true, "2"},
		"managed_irq,1-3":   {false, false, "1-3"},
		"nohz,domain,0-1,4": {true, true, "0-1,4"},
		"domain":            {true, false, ""},
		"":                  {true, false, ""},
	} {
		domain, nohz, cpus := isolcpus(value)
		if domain != want.domain || nohz != want.nohz || cpus != want.cpus {
			t.Errorf("isolcpus(%q) = %v, %v, %q, want %+v", value, domain, nohz, cpus, want)
		}
	}
}

// TestTruncated cuts files at every byte: what is read from a part must be a
// part of what is read from the whole.
func TestTruncated(t *testing.T) {
	interrupts := "           CPU0       CPU1\n 27:         10         25   PCI-MSI 1572865-edge      virtio0-input.0\n 28:          3 4294967295  PCI-MSIX-0000:00:03.0   1-edge      eth0-TxRx-12\nLOC:        123        456   Local timer interrupts\nERR:         71\n"
	whole, errs := parseInterrupts([]byte(interrupts))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for n := range len(interrupts) {
		part, errs := parseInterrupts([]byte(interrupts[:n]))
		if len(part.Rows) > len(whole.Rows) || n > 0 && interrupts[n-1] != '\n' && len(errs) == 0 && !part.Masked {
			t.Errorf("interrupts cut at %d: %d rows, errors %v", n, len(part.Rows), errs)
		}
		for i, row := range part.Rows {
			if diff := cmp.Diff(whole.Rows[i], row, sets); diff != "" {
				t.Errorf("interrupts cut at %d, row %d (-whole +part):\n%s", n, i, diff)
			}
		}
		for name, row := range part.Named {
			if !cmp.Equal(whole.Named[name], row) {
				t.Errorf("interrupts cut at %d: %s = %v", n, name, row)
			}
		}
	}
	softnet := softnetText(13, 0, 1, 5)
	all, _ := parseSoftnet([]byte(softnet), cpuset.Set{})
	for n := range len(softnet) {
		part, _ := parseSoftnet([]byte(softnet[:n]), cpuset.Set{})
		for i, row := range part.Rows {
			if row != all.Rows[i] {
				t.Errorf("softnet cut at %d: row %d = %+v", n, i, row)
			}
		}
	}
	stat := "cpu  1 2 3 4\ncpu0 10 20 30 40 50 60 70 80 90 100\ncpu1 11 21 31 41 51 61 71 81 91 101\nbtime 1700000000\n"
	times, _ := parseStat([]byte(stat))
	for n := range len(stat) {
		part, _ := parseStat([]byte(stat[:n]))
		for cpu, v := range part.CPUs {
			if v != times.CPUs[cpu] {
				t.Errorf("stat cut at %d: cpu%d = %+v", n, cpu, v)
			}
		}
		if part.BootTime != 0 && part.BootTime != times.BootTime {
			t.Errorf("stat cut at %d: btime %d", n, part.BootTime)
		}
	}
}

func FuzzParseInterrupts(f *testing.F) {
	f.Add([]byte(" CPU0 CPU1\n 1: 5 6 IO-APIC 1-edge a, b\nERR: 1\n"))
	f.Add([]byte(" CPU0\n 28: 1 eth0\n"))
	f.Add([]byte(" CPU3\n\xff: 1\n:\n 1:1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		table, errs := parseInterrupts(data)
		if len(table.CPUs) == 0 && !table.Masked && (len(errs) == 0 || table.Rows != nil || table.Named != nil) {
			t.Fatalf("no CPUs, errors %v, table %+v", errs, table)
		}
		for _, row := range table.Rows {
			if len(row.Counts) != len(table.CPUs) {
				t.Fatalf("interrupt %d has %d counts for %d CPUs", row.Number, len(row.Counts), len(table.CPUs))
			}
			for _, n := range row.Counts {
				if !bytes.Contains(data, fmt.Append(nil, n)) {
					t.Fatalf("interrupt %d: count %d is not in the text", row.Number, n)
				}
			}
		}
	})
}

func FuzzParseSoftirqs(f *testing.F) {
	f.Add([]byte(" CPU0 CPU1\n NET_RX: 1 2\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, errs := parseSoftirqs(data)
		if got.CPUs == nil && (got.Counts != nil || len(errs) == 0) {
			t.Fatalf("%+v, %v", got, errs)
		}
		for name, row := range got.Counts {
			if len(row) != len(got.CPUs) {
				t.Fatalf("%s has %d counts for %d CPUs", name, len(row), len(got.CPUs))
			}
		}
	})
}

func FuzzParseSoftnet(f *testing.F) {
	for _, columns := range []int{9, 11, 13, 15} {
		f.Add([]byte(softnetText(columns, 0, 1)), 2)
	}
	f.Fuzz(func(t *testing.T, data []byte, online int) {
		got, errs := parseSoftnet(data, cpuset.Range(0, min(online, 8)-1))
		if len(got.Rows) == 0 && (len(errs) == 0 || got.Identified || got.Columns != 0) {
			t.Fatalf("%+v, %v", got, errs)
		}
		last := -1
		for _, r := range got.Rows {
			if r.CPU <= last {
				t.Fatalf("CPU %d after %d", r.CPU, last)
			}
			last = r.CPU
		}
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("cpu0 1 2 3 4\nbtime 5\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, errs := parseStat(data)
		if got.CPUs == nil && len(errs) == 0 {
			t.Fatalf("%+v, %v", got, errs)
		}
	})
}

func FuzzParseNetFiles(f *testing.F) {
	f.Add([]byte("eth0: 1 2 3 4 5 6 7 8 1 2 3 4 5 6 7 8\n"))
	f.Add([]byte("Tcp: A B\nTcp: 1 2\n"))
	f.Add([]byte("Udp6InErrors 1\n"))
	f.Add([]byte(`a="b c" isolcpus=nohz,1`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for name := range func() map[string]InterfaceCounters { m, _ := parseNetDev(data); return m }() {
			if name == "" {
				t.Fatal("an interface without a name")
			}
		}
		out := Protocols{}
		parseProtocolPairs(data, out)
		parseSNMP6(data, out)
		for name := range parseCmdline(string(data)) {
			if name == "" {
				t.Fatal("an argument without a name")
			}
		}
		isolcpus(string(data))
	})
}
