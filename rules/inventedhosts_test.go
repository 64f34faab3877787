package rules_test

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/topo"
	"github.com/napitune/napitune/profiles"
)

// inventedHosts are variations of machines as they stand in racks and clouds, in
// order and out of order, with what an expert says of each. None was captured:
// they ask whether the advice is right where nobody tuned the rules.
var inventedHosts = []scenario{
	{0, "AWS: ENA with a queue per vCPU, busy and even", sceneN(8, func(s *scene) {
		moderation(s.driver("ens5", "ena", even(8, 200_000)), true, 20)
		s.warm(8, 0.35)
	}), nil, nil, []string{"irq.affinity", "rps.cpus", "xps.cpus"}},
	{0, "AWS: ENA after a reboot with all queues on two vCPUs", sceneN(8, func(s *scene) {
		s.driver("ens5", "ena", []fire{{0: 200_000}, {0: 200_000}, {0: 200_000}, {0: 200_000}, {1: 200_000}, {1: 200_000}, {1: 200_000}, {1: 200_000}})
		s.heat(0, 0.7)
		s.heat(1, 0.7)
	}), []string{"irq-stacked"}, []string{"rx-3/irq.affinity", "rx-7/irq.affinity"}, append([]string{"rps.cpus"}, neverBudget...)},
	{0, "Azure: MANA with queue 0 and 2 on one of four vCPUs", scene4(func(s *scene) {
		s.driver("enP30832s1", "mana", []fire{{0: 90_000}, {1: 90_000}, {0: 90_000}, {3: 90_000}})
	}), []string{"irq-stacked"}, []string{"rx-2/irq.affinity"}, []string{"rx-1/irq.affinity", "rx-3/irq.affinity"}},
	{0, "Azure: the synthetic device alone, nothing to see", sceneN(8, func(s *scene) {
		d := s.driver("eth0", "hv_netvsc", even(8, 0))
		d.Kind = "synthetic"
	}), nil, nil, []string{"irq.affinity", "channels.combined"}},
	{0, "GCP: gve with receive and transmit blocks side by side", sceneN(16, func(s *scene) {
		s.nic("ens4", "physical", even(16, 60_000), even(16, 50_000)).Driver = "gve"
		s.warm(16, 0.15)
	}), nil, nil, []string{"irq.affinity"}},
	{0, "mlx5 on two sockets, a queue on each thread of its node", sceneN(64, func(s *scene) {
		s.sockets()
		var rx []fire
		for i := range 32 {
			rx = append(rx, fire{i%16 + 32*(i/16): 60_000})
		}
		s.driver("enp65s0f0", "mlx5_core", rx)
		s.warm(64, 0.1)
	}), nil, nil, []string{"irq.affinity", "channels.combined"}},
	{0, "mlx5 on two sockets, its queues dealt over both", sceneN(64, func(s *scene) {
		s.sockets()
		s.driver("enp65s0f0", "mlx5_core", even(32, 60_000))
		s.warm(32, 0.1)
	}), []string{"irq-remote-node"}, []string{"rx-16/irq.affinity", "rx-31/irq.affinity"}, []string{"rx-0/irq.affinity", "rps.cpus"}},
	{0, "i40e: 512 entries name all 64 queues", sceneN(64, func(s *scene) {
		s.driver("eth0", "i40e", even(64, 20_000)).RSS = &host.RSS{Table: table(512, 64), RxRings: 64}
	}), nil, nil, []string{"rss.table", "channels.combined"}},
	{0, "i40e: a table from the time when there were 8 queues", sceneN(64, func(s *scene) {
		s.driver("eth0", "i40e", even(64, 20_000)).RSS = &host.RSS{Table: table(512, 8), RxRings: 64}
		s.set(knob.Device("eth0", "rss.table"), "0-7*64")
	}), []string{"rss-unused-queues"}, []string{"rss.table"}, []string{"channels.combined"}},
	{0, "ixgbe: 32 queues, of which RSS can name 16", sceneN(32, func(s *scene) {
		d := s.driver("eth0", "ixgbe", append(even(16, 30_000), make([]fire, 16)...))
		d.RSS = &host.RSS{Table: table(128, 16), RxRings: 32}
	}), nil, nil, []string{"rss.table", "irq.affinity"}},
	{0, "bnxt: discards in bursts, CPUs with time to spare", sceneN(8, func(s *scene) {
		s.driver("eth0", "bnxt_en", even(8, 30_000))
		s.obs.Device["eth0"].Stats["rx_discards"] = 40_000
	}), []string{"rx-ring-overrun"}, []string{"ring.rx"}, append([]string{backlog}, neverBudget...)},
	{0, "igb: four queues for eight CPUs, lightly used", sceneN(8, func(s *scene) { s.driver("eno1", "igb", even(4, 15_000)) }),
		nil, nil, []string{"irq.affinity", "rps.cpus", "ring.rx"}},
	{0, "virtio without enough vectors, at rest", scene4(func(s *scene) { s.oneVector("eth0", 4, 5000) }),
		nil, nil, []string{"irq.affinity", "rps.cpus", "channels.combined"}},
	{0, "virtio without enough vectors, saturated", scene4(func(s *scene) { s.oneVector("eth0", 4, 400_000); s.heat(0, 0.9) }),
		[]string{"virtio-host-single-queue"}, nil, append([]string{"irq.affinity"}, neverBudget...)},
	{0, "vmxnet3 with eight even queues", sceneN(8, func(s *scene) { s.driver("ens192", "vmxnet3", even(8, 60_000)); s.warm(8, 0.2) }),
		nil, nil, []string{"ring.rx", "irq.affinity"}},
	{0, "a bond of two NICs that fill the same eight CPUs, which are all there are", sceneN(8, func(s *scene) {
		s.driver("eth0", "ice", even(8, 60_000))
		s.driver("eth1", "ice", even(8, 60_000))
		s.snap.Devices = append(s.snap.Devices, &detect.Device{Name: "bond0", Kind: "bond", Lower: []string{"eth0", "eth1"}})
		s.warm(8, 0.2)
	}), nil, nil, []string{"irq.affinity"}},
	{0, "KVM host: bridge, taps, vhost threads on quiet CPUs", sceneN(8, func(s *scene) {
		s.driver("eth0", "ice", even(4, 60_000)).Upper = []string{"br0"}
		s.snap.Devices = append(s.snap.Devices, &detect.Device{Name: "br0", Kind: "bridge", Lower: []string{"eth0", "vnet0"}})
		tap(s, 0)
		s.thread(30, "vhost-4242", 6, 0.4)
		s.warm(4, 0.3)
	}), nil, nil, []string{"irq.affinity", "feature.rx-gro"}},
	{0, "KVM host: LRO on below the bridge, a vhost thread on a NIC's CPU", sceneN(8, func(s *scene) {
		d := s.driver("eth0", "mlx5_core", even(4, 60_000))
		d.Upper = []string{"br0"}
		d.Features["rx-lro"] = host.Feature{On: true}
		s.set(knob.Device("eth0", "feature.rx-lro"), "on")
		s.snap.Devices = append(s.snap.Devices, &detect.Device{Name: "br0", Kind: "bridge", Lower: []string{"eth0"}})
		s.thread(30, "vhost-4242", 1, 0.4)
		s.heat(1, 0.6)
	}), []string{"lro-while-forwarding", "vhost-shares-irq-cpu"}, []string{"feature.rx-lro"}, []string{"feature.rx-gro"}},
	{0, "router with a flow table: two NICs, even, RPS off", sceneN(8, func(s *scene) {
		s.driver("wan", "igc", []fire{{0: 90_000}, {1: 90_000}, {2: 90_000}, {3: 90_000}})
		s.driver("lan", "igc", []fire{{4: 90_000}, {5: 90_000}, {6: 90_000}, {7: 90_000}})
		s.snap.Forwarding.IPv4 = detect.Yes
		s.warm(8, 0.4)
	}), nil, nil, []string{"rps.cpus", "rps.flow_cnt", "irq.affinity"}},
	{0, "k8s node: a queue per core, many veths with little each", sceneN(16, func(s *scene) {
		s.driver("eth0", "mlx5_core", even(16, 60_000))
		for i := range 60 {
			s.veth(fmt.Sprintf("cali%d", i), i%16, 9000)
		}
		s.warm(16, 0.3)
	}), nil, nil, []string{"rps.cpus", "irq.affinity"}},
	{0, "one CPU, squeezed and saturated: nothing to spread to", sceneN(1, func(s *scene) {
		budgets(s)
		s.nic("eth0", "virtio", even(1, 90_000), nil)
		s.heat(0, 0.95)
		s.squeezed(0, 400, "time", 0.9, 1)
	}), []string{"cpu-saturated"}, nil, append([]string{"rps.cpus", "irq.affinity"}, neverBudget...)},
	{0, "Raspberry Pi: one interrupt, light", scene4(func(s *scene) { s.board(20_000) }), nil, nil, []string{"rps.cpus", "irq.affinity"}},
	{0, "Raspberry Pi: one interrupt, saturated by a gigabit", scene4(func(s *scene) { s.board(400_000); s.heat(0, 0.95) }),
		[]string{"rps-needed"}, []string{"rx-0/rps.cpus"}, []string{"channels.combined"}},
	{0, "small board with its NIC behind USB, saturated", scene4(func(s *scene) {
		s.usb("eth0", 800_000)
		s.stranger("dwc2_hsotg:usb1", fire{0: 800_000})
		s.heat(0, 0.92)
		s.obs.NetRx[0] = 400_000
	}), []string{"rps-needed"}, []string{"rx-0/rps.cpus"}, append([]string{"channels.combined", "irq.affinity", "ring.rx"}, neverBudget...)},
	{0, "router board: both NICs on the same little core, squeezed: they part, no RPS on top", sceneN(8, func(s *scene) {
		budgets(s)
		s.driver("eth1", "r8169", []fire{{0: 250_000}})
		s.driver("eth2", "r8169", []fire{{0: 240_000}})
		s.snap.Topo.Little = cpuset.Range(0, 3)
		s.heat(0, 0.97)
		s.squeezed(0, 400, "packets", 0.9, 1)
	}), []string{"irq-stacked", "cpu-saturated"}, []string{"irq.affinity"}, append([]string{"rps.cpus"}, neverBudget...)},
	{0, "a script set the packet budget to ten, and CPUs with time leave work over", scene4(func(s *scene) {
		budgets(s)
		s.set(knob.Global(budgetKnob), "10")
		s.driver("eth0", "igb", even(4, 40_000))
		s.warm(4, 0.15)
		for cpu := range 4 {
			s.obs.Softnet[cpu] = detect.SoftnetDelta{Processed: 300_000, Squeezed: 30_000}
		}
	}), []string{"budget-undersized"}, []string{budgetKnob}, []string{usecsKnob, backlog, "irq.affinity", "rps.cpus"}},
	{0, "driver losses since boot, a quiet window", scene4(func(s *scene) {
		s.driver("eth0", "ixgbe", even(4, 9000))
		lose(s, "eth0", 4000)
		s.sinceBoot()
	}), nil, nil, []string{"ring.rx", "irq.affinity"}},
	{0, "isolated CPUs, interrupts kept off them", sceneN(8, func(s *scene) {
		s.driver("eth0", "ice", even(2, 60_000)).Channels.MaxCombined = 8
		s.snap.Topo.Isolated, s.snap.Topo.NohzFull = cpuset.Range(2, 7), cpuset.Range(2, 7)
	}), nil, nil, []string{"channels.combined", "irq.affinity", "rps.cpus"}},
	{0, "real-time host: 300 interrupts a second on an isolated CPU", sceneN(8, func(s *scene) {
		s.driver("eth0", "ice", []fire{{0: 9000}, {5: 3000}})
		s.snap.Topo.Isolated = cpuset.Range(2, 7)
		s.snap.Processes = []host.Process{{PID: 8, Comm: "tuned"}}
	}), []string{"irq-on-isolated-cpu"}, []string{"rx-1/irq.affinity"}, []string{"rx-0/irq.affinity"}},
	{0, "container: no interrupts, no masks, no ethtool", scene4(func(s *scene) {
		s.snap.IRQs = detect.IRQTable{CPUs: s.snap.IRQs.CPUs, Masked: true}
		s.snap.Devices = append(s.snap.Devices, &detect.Device{Name: "eth0", Kind: "veth"})
		s.obs.CPU = map[int]detect.CPUShare{}
	}), nil, nil, neverBudget},
	{0, "hybrid laptop: the wireless card on an efficiency core", sceneN(20, func(s *scene) {
		s.driver("wlp0s20f3", "iwlwifi", []fire{{14: 20_000}})
		s.snap.Topo.Little = cpuset.Range(12, 19)
	}), nil, nil, []string{"irq.affinity", "rps.cpus"}},
	{0, "EPYC with sixteen caches of four cores, a queue in each", sceneN(64, func(s *scene) {
		s.caches(4)
		var rx []fire
		for i := range 16 {
			rx = append(rx, fire{4 * i: 90_000})
		}
		s.driver("enp1s0", "bnxt_en", rx)
		s.warm(64, 0.15)
	}), nil, nil, []string{"irq.affinity"}},
	{0, "EPYC: all sixteen queues in one cache of four cores, hot", sceneN(64, func(s *scene) {
		s.caches(4)
		var rx []fire
		for i := range 16 {
			rx = append(rx, fire{i % 4: 90_000})
		}
		s.driver("enp1s0", "bnxt_en", rx)
		s.warm(4, 0.8)
	}), []string{"irq-stacked"}, []string{"irq.affinity"}, append([]string{"rps.cpus"}, neverBudget...)},
	{0, "Graviton: 64 cores without siblings, the 32 queues that ENA has", sceneN(64, func(s *scene) {
		s.driver("ens5", "ena", even(32, 60_000))
		s.warm(32, 0.3)
	}), nil, nil, []string{"rps.cpus", "irq.affinity", "channels.combined"}},
	{0, "a single-queue guest that spreads by RPS, with time to spare", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(1, 90_000), nil)
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "0-3")
		s.heat(0, 0.3)
	}), nil, nil, []string{"rps.cpus"}},
	{0, "a second port without a cable, GRO off", scene4(func(s *scene) {
		s.driver("eth0", "ice", even(4, 9000))
		d := s.driver("eth1", "ice", make([]fire, 4))
		d.Carrier, d.Features["rx-gro"] = detect.No, host.Feature{}
		s.set(knob.Device("eth1", "feature.rx-gro"), "off")
	}), nil, nil, []string{"feature.rx-gro"}},
	{0, "one bulk copy on one queue, its CPU with time to spare", sceneN(8, func(s *scene) {
		spread(s, 900_000, 100, 100, 100, 100, 100, 100, 100)
	}), nil, nil, []string{"rps.cpus", "rss.table", "irq.affinity"}},
	{0, "a VPN program that reads its tun device too slowly", scene4(func(s *scene) { tap(s, 5000) }), []string{"tap-drops"}, nil, []string{"ring.rx", backlog}},
	{0, "minimal policy: uneven but without harm", scene4(func(s *scene) {
		s.driver("eth0", "ice", all(4, 0, 50_000))
		s.policy = func(p *profiles.Policy) { p.HarmOnly = true }
	}), nil, nil, []string{"irq.affinity"}},
}

// driver adds a device of a driver with combined vectors.
func (s *scene) driver(name, driver string, rx []fire) *detect.Device {
	d := s.nic(name, "physical", rx, nil)
	d.Driver = driver
	return d
}

// warm gives the first n CPUs a softirq share.
func (s *scene) warm(n int, share float64) {
	for cpu := range n {
		s.heat(cpu, share)
	}
}

// sockets makes a machine of two nodes with two threads per core, numbered as
// Linux does: first threads of node 0, of node 1, then the second ones. The
// device's node is 0.
func (s *scene) sockets() {
	n := len(s.snap.Topo.CPUs)
	half, quarter := n/2, n/4
	var sets [2]cpuset.Set
	for id := range n {
		core := id % half
		node := core / quarter
		s.snap.Topo.CPUs[id] = topo.CPU{ID: id, Package: node, Node: node, LLC: node * quarter, Core: core}
		sets[node] = sets[node].Union(cpuset.Of(id))
	}
	s.snap.Topo.Nodes = []topo.Node{
		{ID: 0, CPUs: sets[0], HasMemory: true, Distance: map[int]int{0: 10, 1: 21}},
		{ID: 1, CPUs: sets[1], HasMemory: true, Distance: map[int]int{0: 21, 1: 10}},
	}
}

// caches gives every n cores a last-level cache of their own.
func (s *scene) caches(n int) {
	for id, cpu := range s.snap.Topo.CPUs {
		cpu.LLC = id / n * n
		s.snap.Topo.CPUs[id] = cpu
	}
}

// oneVector adds a virtio device whose queues share one interrupt on CPU 0.
func (s *scene) oneVector(name string, queues int, count uint64) {
	d := s.nic(name, "virtio", append([]fire{{0: count}}, make([]fire, queues-1)...), nil)
	for i := range d.Queues {
		d.Queues[i].RxIRQ, d.Queues[i].TxIRQ = d.Queues[0].RxIRQ, d.Queues[0].RxIRQ
	}
}

// board adds the network device of a small board: one queue, no ethtool channels.
func (s *scene) board(count uint64) {
	d := s.driver("end0", "bcmgenet", []fire{{0: count}})
	d.Channels, d.Rings, d.Node = nil, nil, topo.Unknown
}

// table is an even RSS table.
func table(entries, queues int) []uint32 {
	out := make([]uint32, entries)
	for i := range out {
		out[i] = uint32(i % queues)
	}
	return out
}
