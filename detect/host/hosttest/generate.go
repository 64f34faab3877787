package hosttest

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

// Spec describes a synthetic machine. Zero fields take the default in brackets.
type Spec struct {
	CPUs         int    // online CPUs [4]
	Nodes        int    // NUMA nodes, CPUs in equal blocks [1]
	SMT          int    // threads per core [1]; siblings are n and n+CPUs/SMT within a node
	NICs         int    // [1]
	QueuesPerNIC int    // queues in use per NIC [4]
	MaxQueues    int    // queues the device offers [QueuesPerNIC]
	Driver       string // "virtio_net" (one vector per direction), "i40e", "ice", "ixgbe", "mlx5_core" ["virtio_net"]
	// VirtioFeatures are feature bits beyond those every virtio NIC here has
	// (CTRL_VQ and MQ).
	VirtioFeatures []int
	// IRQStacked puts every interrupt on CPU 0; otherwise queues are spread
	// over the CPUs of the NIC's node.
	IRQStacked bool
	Isolated   string        // isolcpus=, list form
	Window     time.Duration // between the two samples [10s]
	// PacketsPerSecond is what each NIC receives in the window, in equal parts
	// over its queues [100000].
	PacketsPerSecond int
	// PacketsPerPoll is how many packets an interrupt brings [16].
	PacketsPerPoll int
	HZ             int    // [250]
	Ring, MaxRing  int    // [512], [4096]; virtio: 256 for both
	Release        string // ["6.12.0"]
}

func (s Spec) withDefaults() Spec {
	set := func(field *int, otherwise int) {
		if *field == 0 {
			*field = otherwise
		}
	}
	set(&s.CPUs, 4)
	set(&s.Nodes, 1)
	set(&s.SMT, 1)
	set(&s.NICs, 1)
	set(&s.QueuesPerNIC, 4)
	set(&s.MaxQueues, s.QueuesPerNIC)
	set(&s.PacketsPerSecond, 100_000)
	set(&s.PacketsPerPoll, 16)
	set(&s.HZ, 250)
	if s.Driver == "" {
		s.Driver = virtioNet
	}
	if s.Driver == virtioNet {
		set(&s.Ring, 256)
		set(&s.MaxRing, 256)
	}
	set(&s.Ring, 512)
	set(&s.MaxRing, 4096)
	if s.Window == 0 {
		s.Window = 10 * time.Second
	}
	if s.Release == "" {
		s.Release = "6.12.0"
	}
	return s
}

// check refuses what would be no machine.
func (s Spec) check() error {
	switch {
	case s.CPUs < 1 || s.CPUs > cpuset.MaxCPU || s.Nodes < 1 || s.SMT < 1 || s.CPUs%(s.Nodes*s.SMT) != 0:
		return fmt.Errorf("generate machine: %d CPUs do not divide into %d nodes of cores with %d threads", s.CPUs, s.Nodes, s.SMT)
	case s.Nodes > 64 || s.NICs > 32*64:
		return fmt.Errorf("generate machine: %d nodes and %d NICs are more than PCI addresses are made for", s.Nodes, s.NICs)
	case s.NICs < 0 || s.QueuesPerNIC < 1 || s.MaxQueues < s.QueuesPerNIC:
		return fmt.Errorf("generate machine: %d NICs with %d of %d queues", s.NICs, s.QueuesPerNIC, s.MaxQueues)
	case s.Ring > s.MaxRing || s.PacketsPerPoll < 1:
		return fmt.Errorf("generate machine: ring %d of %d, %d packets per poll", s.Ring, s.MaxRing, s.PacketsPerPoll)
	}
	if _, err := cpuset.ParseList(s.Isolated); err != nil {
		return fmt.Errorf("generate machine: isolated CPUs: %w", err)
	}
	return nil
}

// firstIRQ is the number of the first network interrupt; lower ones belong to
// the chipset on real machines.
const firstIRQ = 40

// machine is a Spec being built.
type machine struct {
	Spec
	tree *tree.Tree
	nics []nic
	err  error
}

type nic struct {
	name    string
	index   int
	node    int
	pci     string // address
	dir     string // directory of the net device, below sys/devices
	virtio  string
	vectors []genVector
}

type genVector struct {
	irq, queue int
	rx, tx     bool
	name       string
	cpu        int // where it fires
}

// Generate makes two samples of a synthetic machine, the second one Window
// later. The same Spec always gives the same machine.
func Generate(spec Spec) ([]*host.Host, error) {
	spec = spec.withDefaults()
	if err := spec.check(); err != nil {
		return nil, err
	}
	g := &machine{Spec: spec, tree: tree.New()}
	g.layOut()
	g.settings()
	g.topology()
	for i := range g.nics {
		g.device(&g.nics[i])
	}
	second := g.tree.Clone()
	const before = 10 // windows since boot at the first sample
	g.counters(before)
	first := g.host(0)
	g.tree = second
	g.counters(before + 1)
	return []*host.Host{first, g.host(1)}, g.err
}

// write keeps the first error, so that building stays readable.
func (g *machine) write(name, text string) {
	if err := g.tree.WriteFile(name, []byte(text+"\n")); err != nil && g.err == nil {
		g.err = err
	}
}

func (g *machine) link(name, target string) {
	if err := g.tree.Symlink(name, target); err != nil && g.err == nil {
		g.err = err
	}
}

func (g *machine) mkdir(name string) {
	if err := g.tree.Mkdir(name); err != nil && g.err == nil {
		g.err = err
	}
}

func (g *machine) mode(name string, mode fs.FileMode) {
	if err := g.tree.SetMode(name, mode); err != nil && g.err == nil {
		g.err = err
	}
}

// nodeCPUs are the CPUs of a node, first threads of the cores first.
func (g *machine) nodeCPUs(node int) []int {
	size := g.CPUs / g.Nodes
	out := make([]int, size)
	for i := range out {
		out[i] = node*size + i
	}
	return out
}

// layOut decides names, places and interrupts of the NICs.
func (g *machine) layOut() {
	irq := firstIRQ
	for i := range g.NICs {
		n := nic{name: "eth" + strconv.Itoa(i), index: i + 2, node: i % g.Nodes}
		root := n.node * 256 / g.Nodes
		n.pci = fmt.Sprintf("0000:%02x:%02x.0", root+i/g.Nodes/32, i/g.Nodes%32)
		n.dir = fmt.Sprintf("pci0000:%02x/%s/net/%s", root, n.pci, n.name)
		if g.Driver == virtioNet {
			n.virtio = "virtio" + strconv.Itoa(i)
			n.dir = fmt.Sprintf("pci0000:%02x/%s/%s/net/%s", root, n.pci, n.virtio, n.name)
		}
		n.vectors = g.vectorsOf(n, &irq)
		g.nics = append(g.nics, n)
	}
}

func (g *machine) vectorsOf(n nic, irq *int) []genVector {
	var out []genVector
	add := func(queue int, rx, tx bool, format string, args ...any) {
		v := genVector{irq: *irq, queue: queue, rx: rx, tx: tx, name: fmt.Sprintf(format, args...)}
		if queue >= 0 && !g.IRQStacked {
			cpus := g.nodeCPUs(n.node)
			v.cpu = cpus[(n.index/g.Nodes*g.QueuesPerNIC+queue)%len(cpus)]
		}
		out = append(out, v)
		*irq++
	}
	if g.Driver == virtioNet {
		// All pairs have vectors from the start (virtnet_probe).
		add(-1, false, false, "%s-config", n.virtio)
		for q := range g.MaxQueues {
			add(q, true, false, "%s-input.%d", n.virtio, q)
			add(q, false, true, "%s-output.%d", n.virtio, q)
		}
		return out
	}
	for q := range g.QueuesPerNIC {
		switch g.Driver {
		case "i40e", "ice", "iavf":
			add(q, true, true, "%s-%s-TxRx-%d", g.Driver, n.name, q)
		case "mlx5_core":
			add(q, true, true, "mlx5_comp%d@pci:%s", q, n.pci)
		default:
			add(q, true, true, "%s-TxRx-%d", n.name, q)
		}
	}
	return out
}

// settings writes the sysctls with the kernel's defaults.
func (g *machine) settings() {
	for name, value := range map[string]string{
		"netdev_budget": "300", "netdev_budget_usecs": strconv.Itoa(2_000_000 / g.HZ),
		"dev_weight": "64", "dev_weight_rx_bias": "1", "dev_weight_tx_bias": "1", "netdev_max_backlog": "1000",
		"flow_limit_cpu_bitmap": maskText(cpuset.Set{}, g.CPUs), "flow_limit_table_len": "4096",
		"rps_sock_flow_entries": "0", "gro_normal_batch": "8", "rps_default_mask": maskText(cpuset.Set{}, g.CPUs),
	} {
		g.write("proc/sys/net/core/"+name, value)
	}
	g.write("proc/sys/kernel/osrelease", g.Release)
	g.write("proc/sys/kernel/random/boot_id", "00000000-0000-4000-8000-000000000000")
	cmdline := "BOOT_IMAGE=/vmlinuz root=/dev/vda1 ro"
	if g.Isolated != "" {
		cmdline += " isolcpus=" + g.Isolated
	}
	g.write("proc/cmdline", cmdline)
	g.write("proc/irq/default_smp_affinity", maskText(g.all(), g.CPUs))
}

func (g *machine) all() cpuset.Set { return cpuset.Range(0, g.CPUs-1) }

// topology writes the CPU and node trees. Core c of a node has the threads
// first+c, first+c+cores, … as on x86 servers.
func (g *machine) topology() {
	const cpu = "sys/devices/system/cpu/"
	all := g.all().String()
	for _, name := range []string{"online", "possible", "present"} {
		g.write(cpu+name, all)
	}
	g.write(cpu+"isolated", g.Isolated)
	size := g.CPUs / g.Nodes
	cores := size / g.SMT
	g.write("sys/devices/system/node/online", cpuset.Range(0, g.Nodes-1).String())
	for node := range g.Nodes {
		dir := "sys/devices/system/node/node" + strconv.Itoa(node) + "/"
		local := cpuset.Of(g.nodeCPUs(node)...)
		g.write(dir+"cpulist", local.String())
		g.write(dir+"cpumap", maskText(local, g.CPUs))
		distances := make([]string, g.Nodes)
		for other := range distances {
			distances[other] = "21"
			if other == node {
				distances[other] = "10"
			}
		}
		g.write(dir+"distance", strings.Join(distances, " "))
		g.write(dir+"meminfo", fmt.Sprintf("Node %d MemTotal:       33554432 kB", node))
		for i, id := range g.nodeCPUs(node) {
			siblings := make([]int, g.SMT)
			for thread := range siblings {
				siblings[thread] = node*size + i%cores + thread*cores
			}
			core := cpuset.Of(siblings...)
			at := cpu + "cpu" + strconv.Itoa(id) + "/"
			g.write(at+"online", "1")
			g.write(at+"topology/core_id", strconv.Itoa(i%cores))
			g.write(at+"topology/physical_package_id", strconv.Itoa(node))
			g.write(at+"topology/thread_siblings_list", core.String())
			g.write(at+"topology/core_cpus_list", core.String())
			g.write(at+"topology/core_siblings_list", local.String())
			g.write(at+"topology/package_cpus_list", local.String())
			g.write(at+"cache/index3/level", "3")
			g.write(at+"cache/index3/type", "Unified")
			g.write(at+"cache/index3/shared_cpu_list", local.String())
			g.mkdir(at + "node" + strconv.Itoa(node))
		}
	}
}

// device writes everything of one NIC that does not count.
func (g *machine) device(n *nic) {
	dir := "sys/devices/" + n.dir
	function := "sys/devices/" + n.dir[:strings.Index(n.dir, n.pci)+len(n.pci)]
	g.link("sys/class/net/"+n.name, "../../devices/"+n.dir)
	g.link("sys/bus/pci/devices/"+n.pci, "../../../"+strings.TrimPrefix(function, "sys/"))
	for name, value := range map[string]string{
		"ifindex": strconv.Itoa(n.index), "iflink": strconv.Itoa(n.index), "type": "1", "mtu": "1500", "flags": "0x1003",
		"operstate": "up", "carrier": "1", "speed": g.speed(), "duplex": "full", "tx_queue_len": "1000",
		"gro_flush_timeout": "0", "napi_defer_hard_irqs": "0", "threaded": "0", "address": fmt.Sprintf("02:00:00:00:%02x:%02x", n.index/256, n.index%256),
		"uevent": fmt.Sprintf("INTERFACE=%s\nIFINDEX=%d", n.name, n.index),
	} {
		g.write(dir+"/"+name, value)
	}
	local := cpuset.Of(g.nodeCPUs(n.node)...)
	g.write(function+"/numa_node", strconv.Itoa(g.nodeOf(n)))
	g.write(function+"/local_cpulist", local.String())
	g.write(function+"/class", "0x020000")
	owner, up := n.pci, "../../../.."
	if n.virtio != "" {
		owner, up = n.virtio, "../../../../.."
		virtio := function + "/" + n.virtio
		g.link("sys/bus/virtio/devices/"+n.virtio, "../../../"+strings.TrimPrefix(virtio, "sys/"))
		g.write(virtio+"/features", g.features())
		g.write(virtio+"/device", "0x0001")
		g.link(virtio+"/driver", strings.TrimPrefix(up, "../")+"/bus/virtio/drivers/virtio_net")
		g.mkdir("sys/bus/virtio/drivers/virtio_net")
		g.link(virtio+"/subsystem", strings.TrimPrefix(up, "../")+"/bus/virtio")
		g.link(function+"/driver", "../../../bus/pci/drivers/virtio-pci")
		g.mkdir("sys/bus/pci/drivers/virtio-pci")
		g.write(function+"/uevent", "DRIVER=virtio-pci\nPCI_SLOT_NAME="+n.pci)
	} else {
		g.link(function+"/driver", "../../../bus/pci/drivers/"+g.Driver)
		g.mkdir("sys/bus/pci/drivers/" + g.Driver)
		g.write(function+"/uevent", "DRIVER="+g.Driver+"\nPCI_SLOT_NAME="+n.pci)
	}
	g.link(function+"/subsystem", "../../../bus/pci")
	g.link(dir+"/device", "../../../"+owner)
	g.link(dir+"/subsystem", up+"/../class/net")
	g.queues(dir)
	g.interrupts(n, function)
}

// nodeOf is numa_node: -1 on machines with one node, as firmware mostly says.
func (g *machine) nodeOf(n *nic) int {
	if g.Nodes == 1 {
		return -1
	}
	return n.node
}

func (g *machine) speed() string {
	if g.Driver == virtioNet {
		return "-1"
	}
	return "25000"
}

// features is the feature string of virtio devices, 128 characters since 6.17
// and 64 before (drivers/virtio/virtio.c, features_show).
func (g *machine) features() string {
	const ctrlVQ, mq = 17, 22
	out := []byte(strings.Repeat("0", 64))
	for _, bit := range append([]int{ctrlVQ, mq}, g.VirtioFeatures...) {
		if bit >= 0 && bit < len(out) {
			out[bit] = '1'
		}
	}
	return string(out)
}

func (g *machine) queues(dir string) {
	empty := maskText(cpuset.Set{}, g.CPUs)
	for q := range g.QueuesPerNIC {
		rx, tx := dir+"/queues/rx-"+strconv.Itoa(q)+"/", dir+"/queues/tx-"+strconv.Itoa(q)+"/"
		g.write(rx+"rps_cpus", empty)
		g.write(rx+"rps_flow_cnt", "0")
		g.write(tx+"tx_timeout", "0")
		g.write(tx+"xps_cpus", empty)
		g.write(tx+"xps_rxqs", maskText(cpuset.Set{}, g.MaxQueues))
		if g.MaxQueues == 1 {
			// The file is listed and cannot be read (netif_is_multiqueue).
			if err := g.tree.FailOp(tree.Read, tx+"xps_cpus", fs.ErrNotExist); err != nil && g.err == nil {
				g.err = err
			}
		}
	}
}

func (g *machine) interrupts(n *nic, function string) {
	for _, v := range n.vectors {
		irq := strconv.Itoa(v.irq)
		g.write(function+"/msi_irqs/"+irq, "msix")
		one := cpuset.Of(v.cpu)
		g.write("proc/irq/"+irq+"/smp_affinity", maskText(one, g.CPUs))
		g.write("proc/irq/"+irq+"/smp_affinity_list", one.String())
		g.write("proc/irq/"+irq+"/effective_affinity", maskText(one, g.CPUs))
		g.write("proc/irq/"+irq+"/effective_affinity_list", one.String())
		g.write("proc/irq/"+irq+"/affinity_hint", maskText(cpuset.Set{}, g.CPUs))
		g.write("proc/irq/"+irq+"/node", strconv.Itoa(g.nodeOf(n)))
	}
}

// load is what the NICs did in one window.
type load struct {
	interrupts map[int]uint64 // per IRQ
	netRx      []uint64       // per CPU
	netTx      []uint64
	packets    []uint64
	squeezed   []uint64
	softirq    []uint64 // ticks
}

// Costs of the model: 1 µs of softirq time per packet, one transmit completion
// interrupt per eight receive interrupts, and a squeeze in every tenth run on
// a CPU that is busy for more than nine tenths of the window.
const (
	packetsPerTick   = 10_000 // of 10 ms
	rxPerTxInterrupt = 8
	runsPerSqueeze   = 10
)

func (g *machine) window() load {
	l := load{
		interrupts: map[int]uint64{}, netRx: make([]uint64, g.CPUs), netTx: make([]uint64, g.CPUs),
		packets: make([]uint64, g.CPUs), squeezed: make([]uint64, g.CPUs), softirq: make([]uint64, g.CPUs),
	}
	perQueue := uint64(float64(g.PacketsPerSecond) * g.Window.Seconds() / float64(g.QueuesPerNIC))
	polls := perQueue / uint64(g.PacketsPerPoll)
	for _, n := range g.nics {
		for _, v := range n.vectors {
			switch {
			case v.queue < 0 || v.queue >= g.QueuesPerNIC:
			case v.rx:
				l.interrupts[v.irq] = polls
				l.netRx[v.cpu] += polls
				l.packets[v.cpu] += perQueue
			default:
				l.interrupts[v.irq] = polls / rxPerTxInterrupt
				l.netTx[v.cpu] += polls / rxPerTxInterrupt
			}
		}
	}
	ticks := g.ticks()
	for cpu, packets := range l.packets {
		l.softirq[cpu] = min(packets/packetsPerTick, ticks)
		if l.softirq[cpu]*10 > ticks*9 {
			l.squeezed[cpu] = l.netRx[cpu] / runsPerSqueeze
		}
	}
	return l
}

// ticks is the window in USER_HZ (100 per second).
func (g *machine) ticks() uint64 { return uint64(g.Window.Seconds() * 100) }

// counters writes the files that count, after so many windows since boot.
func (g *machine) counters(windows uint64) {
	l := g.window()
	g.writeInterrupts(l, windows)
	g.writeSoftirqs(l, windows)
	g.writeSoftnet(l, windows)
	g.writeStat(l, windows)
	g.writeNetDev(l, windows)
}

func (g *machine) header(width int) []byte {
	out := []byte(strings.Repeat(" ", width))
	for cpu := range g.CPUs {
		out = append(out, fmt.Sprintf("%-11s", "CPU"+strconv.Itoa(cpu))...)
	}
	return append(out, '\n')
}

func (g *machine) writeInterrupts(l load, windows uint64) {
	total := 0
	for _, n := range g.nics {
		total += len(n.vectors)
	}
	out := make([]byte, 0, (total+3)*(g.CPUs*11+80))
	out = append(out, g.header(11)...)
	for _, n := range g.nics {
		for i, v := range n.vectors {
			out = append(out, fmt.Sprintf("%4d:", v.irq)...)
			for cpu := range g.CPUs {
				count := uint64(0)
				if cpu == v.cpu {
					count = uint64(uint32(l.interrupts[v.irq] * windows))
				}
				out = appendPadded(append(out, ' '), count, 10)
			}
			out = append(out, fmt.Sprintf("  PCI-MSIX-%s %3d-edge      %s\n", n.pci, i, v.name)...)
		}
	}
	for _, name := range []string{"LOC", "RES"} {
		out = append(out, fmt.Sprintf("%4s:", name)...)
		for range g.CPUs {
			out = appendPadded(append(out, ' '), 1000*windows, 10)
		}
		out = append(out, "   Local timer or rescheduling interrupts\n"...)
	}
	if err := g.tree.WriteFile(interruptsFile, out); err != nil && g.err == nil {
		g.err = err
	}
}

func (g *machine) writeSoftirqs(l load, windows uint64) {
	out := g.header(20)
	for _, name := range []string{"HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"} {
		out = append(out, fmt.Sprintf("%12s:", name)...)
		for cpu := range g.CPUs {
			count := uint64(0)
			switch name {
			case "NET_TX":
				count = l.netTx[cpu]
			case "NET_RX":
				count = l.netRx[cpu]
			case "TIMER", "SCHED", "RCU":
				count = 500
			}
			out = appendPadded(append(out, ' '), uint64(uint32(count*windows)), 10)
		}
		out = append(out, '\n')
	}
	g.write(softirqsFile, strings.TrimSuffix(string(out), "\n"))
}

func (g *machine) writeSoftnet(l load, windows uint64) {
	var out strings.Builder
	for cpu := range g.CPUs {
		fmt.Fprintf(&out, "%08x %08x %08x", uint32(l.packets[cpu]*windows), 0, uint32(l.squeezed[cpu]*windows))
		fmt.Fprintf(&out, "%s %08x 00000000 00000000\n", strings.Repeat(" 00000000", 9), cpu)
	}
	g.write(softnetFile, strings.TrimSuffix(out.String(), "\n"))
}

func (g *machine) writeStat(l load, windows uint64) {
	var lines strings.Builder
	var sum [10]uint64
	ticks := g.ticks()
	for cpu := range g.CPUs {
		softirq := l.softirq[cpu]
		user := min(ticks/50, ticks-softirq)
		fields := [10]uint64{0: user, statIdle: ticks - softirq - user, statSoftirq: softirq}
		fmt.Fprintf(&lines, "cpu%d", cpu)
		for i := range fields {
			fields[i] *= windows
			sum[i] += fields[i]
			fmt.Fprintf(&lines, " %d", fields[i])
		}
		lines.WriteByte('\n')
	}
	text := "cpu "
	for _, n := range sum {
		text += fmt.Sprintf(" %d", n)
	}
	text += "\n" + lines.String() + "ctxt 1000\nbtime 1700000000\nprocesses 1000"
	g.write(statFile, text)
	uptime := float64(windows) * g.Window.Seconds()
	g.write("proc/uptime", fmt.Sprintf("%.2f %.2f", uptime, uptime*float64(g.CPUs)))
}

// writeNetDev writes /proc/net/dev and the statistics of sysfs.
func (g *machine) writeNetDev(l load, windows uint64) {
	var out strings.Builder
	out.WriteString("Inter-|   Receive                                                |  Transmit\n")
	out.WriteString(" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n")
	for _, n := range g.nics {
		packets := uint64(0)
		for _, v := range n.vectors {
			if v.rx {
				packets += l.interrupts[v.irq] * uint64(g.PacketsPerPoll) * windows
			}
		}
		sent := packets / 2
		fmt.Fprintf(&out, "%6s: %d %d 0 0 0 0 0 0 %d %d 0 0 0 0 0 0\n", n.name, packets*1000, packets, sent*100, sent)
		dir := "sys/devices/" + n.dir + "/statistics/"
		for name, value := range map[string]uint64{
			"rx_packets": packets, "rx_bytes": packets * 1000, "tx_packets": sent, "tx_bytes": sent * 100,
			"rx_dropped": 0, "rx_errors": 0, "rx_fifo_errors": 0, "rx_missed_errors": 0, "rx_over_errors": 0,
			"tx_dropped": 0, "tx_errors": 0,
		} {
			g.write(dir+name, strconv.FormatUint(value, 10))
		}
	}
	g.write("proc/net/dev", strings.TrimSuffix(out.String(), "\n"))
}

// host puts the answers that are not files around the tree.
func (g *machine) host(sample int) *host.Host {
	g.mode("proc/irq/default_smp_affinity", 0o644)
	spec, nics := g.Spec, slices.Clone(g.nics)
	virtualization := "none"
	if spec.Driver == virtioNet {
		virtualization = "kvm"
	}
	h := &host.Host{
		FS: g.tree,
		Ident: func() (host.Ident, error) {
			return host.Ident{
				Release: spec.Release, Arch: "x86_64", HZ: spec.HZ, Virtualization: virtualization,
				BootID: "00000000-0000-4000-8000-000000000000",
			}, nil
		},
		Links: func() ([]host.Link, error) {
			out := []host.Link{{Name: "lo", Index: 1, Up: true, Running: true, Loopback: true, MTU: 65536, RxQueues: 1, TxQueues: 1}}
			for _, n := range nics {
				out = append(out, host.Link{
					Name: n.name, Index: n.index, Up: true, Running: true, MTU: 1500,
					RxQueues: spec.MaxQueues, TxQueues: spec.MaxQueues,
				})
			}
			return out, nil
		},
		Processes: func() ([]host.Process, error) { return nil, nil },
		Ethtool:   spec.ethtool(nics),
		Netdev:    spec.netdev(nics),
	}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(sample) * spec.Window)
	h.Now = func() time.Time { return at }
	return h
}

// ethtool answers for the NICs of the machine, and "no such device" for others.
func (s Spec) ethtool(nics []nic) host.Ethtool {
	known := map[string]nic{}
	for _, n := range nics {
		known[n.name] = n
	}
	find := func(dev string) (nic, error) {
		n, ok := known[dev]
		if !ok {
			return nic{}, fmt.Errorf("ethtool %s: %w", dev, fs.ErrNotExist)
		}
		return n, nil
	}
	return host.Ethtool{
		DriverInfo: func(dev string) (host.DriverInfo, error) {
			n, err := find(dev)
			if err != nil {
				return host.DriverInfo{}, err
			}
			return host.DriverInfo{Driver: s.Driver, Version: s.Release, Bus: n.pci}, nil
		},
		Channels: answer(find, host.Channels{MaxCombined: s.MaxQueues, Combined: s.QueuesPerNIC}),
		Rings:    answer(find, host.Rings{MaxRx: s.MaxRing, MaxTx: s.MaxRing, Rx: s.Ring, Tx: s.Ring}),
		Coalesce: func(dev string) (host.Coalesce, error) {
			if _, err := find(dev); err != nil {
				return host.Coalesce{}, err
			}
			return s.coalesce(), nil
		},
		Features: func(dev string) (host.Features, error) {
			if _, err := find(dev); err != nil {
				return nil, err
			}
			return s.deviceFeatures(), nil
		},
		RSS:        func(dev string) (host.RSS, error) { _, err := find(dev); return s.rss(err) },
		HashFields: func(dev, flow string) (string, error) { _, err := find(dev); return s.hashFields(flow, err) },
		Stats:      answer(find, host.Stats(nil)),
	}
}

func answer[T any](find func(string) (nic, error), v T) func(string) (T, error) {
	return func(dev string) (T, error) {
		if _, err := find(dev); err != nil {
			var zero T
			return zero, err
		}
		return v, nil
	}
}

func (s Spec) coalesce() host.Coalesce {
	if s.Driver == virtioNet {
		return host.Coalesce{Values: map[string]int{"rx-usecs": 0, "rx-frames": 1, "tx-usecs": 0, "tx-frames": 1}}
	}
	on := true
	alsoOn := true
	return host.Coalesce{AdaptiveRx: &on, AdaptiveTx: &alsoOn, Values: map[string]int{"rx-usecs": 50, "tx-usecs": 50}}
}

func (s Spec) deviceFeatures() host.Features {
	virtio := s.Driver == virtioNet
	f := host.Features{
		"rx-gro": {On: true, Requested: true}, "rx-gro-list": {}, "rx-udp-gro-forwarding": {},
		"rx-gro-hw": {Fixed: true}, "rx-lro": {Fixed: true}, "rx-ntuple-filter": {On: !virtio, Requested: !virtio, Fixed: virtio},
		"rx-hashing": {On: !virtio, Requested: !virtio, Fixed: virtio},
	}
	if virtio {
		f["rx-gro-hw"] = host.Feature{On: true, Requested: true, Fixed: true}
	}
	return f
}

// rssSlots is the size of the tables: 512 on i40e (I40E_HLUT_ARRAY_SIZE), 128 else.
func (s Spec) rssSlots() int {
	if s.Driver == "i40e" {
		return 512
	}
	return 128
}

func (s Spec) rss(err error) (host.RSS, error) {
	if err == nil && s.Driver == virtioNet {
		// Without VIRTIO_NET_F_RSS (virtnet_get_rxfh_indir_size).
		err = fmt.Errorf("read RSS: %w", host.ErrUnsupported)
	}
	if err != nil {
		return host.RSS{}, err
	}
	table := make([]uint32, s.rssSlots())
	for i := range table {
		table[i] = uint32(i % s.QueuesPerNIC)
	}
	return host.RSS{Table: table, Function: "toeplitz", RxRings: s.QueuesPerNIC}, nil
}

func (s Spec) hashFields(flow string, err error) (string, error) {
	if err == nil && s.Driver == virtioNet {
		err = fmt.Errorf("read hash fields of %s: %w", flow, host.ErrUnsupported)
	}
	switch {
	case err != nil:
		return "", err
	case strings.HasPrefix(flow, "udp") && s.Driver == "ixgbe":
		return "sd", nil // RSS over ports of UDP is off by default (ixgbe_main.c)
	}
	return "sdfn", nil
}

// netdev answers queue-get and napi-get as kernels since 6.8 do: with the
// interrupt for ice and mlx5, without for the others.
func (s Spec) netdev(nics []nic) host.Netdev {
	tells := s.Driver == "ice" || s.Driver == "mlx5_core"
	var queues []host.Queue
	var napis []host.NAPI
	const firstID = 8193 // above MIN_NAPI_ID on any machine (include/net/busy_poll.h)
	for _, n := range nics {
		for q := range s.QueuesPerNIC {
			id := firstID + len(napis)
			napi := host.NAPI{IfIndex: n.index, ID: id, IRQ: -1}
			for _, v := range n.vectors {
				if v.queue == q && v.rx && tells {
					napi.IRQ = v.irq
				}
			}
			napis = append(napis, napi)
			onTx := -1
			if tells {
				onTx = id
			}
			queues = append(queues, host.Queue{IfIndex: n.index, ID: q, NAPI: id}, host.Queue{IfIndex: n.index, ID: q, Tx: true, NAPI: onTx})
		}
	}
	return host.Netdev{
		NAPIs:  func() ([]host.NAPI, error) { return slices.Clone(napis), nil },
		Queues: func() ([]host.Queue, error) { return slices.Clone(queues), nil },
		QStats: func() ([]host.QStat, error) { return nil, fmt.Errorf("qstats-get: %w", host.ErrUnsupported) },
	}
}
