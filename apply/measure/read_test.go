package measure

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/probes/counters"
	"github.com/napitune/napitune/rules/plan"
)

// observed is two seconds of a host with one card of two queues.
func observed() *detect.Observation {
	s := &detect.Snapshot{Devices: []*detect.Device{
		{Name: "eth0", Kind: "physical", Carrier: detect.Yes, Queues: []detect.Queue{
			{N: 0, Rx: true, Tx: true, RxIRQ: 40, TxIRQ: 40, NAPI: 8}, {N: 1, Rx: true, Tx: true, RxIRQ: 41, TxIRQ: 41, NAPI: 9},
		}},
		{Name: "lo", Kind: "loopback"},
		{Name: "bond0", Kind: "bond", Lower: []string{"eth0"}},
	}}
	return &detect.Observation{
		First: s, Last: s, Basis: detect.BasisWindow, Window: 2 * time.Second,
		Device: map[string]detect.DeviceDelta{
			"eth0": {Known: true, Counters: detect.InterfaceCounters{
				Known: true, RxPackets: 1500, RxBytes: 150_000, RxMissed: 400, RxFIFO: 400, RxDropped: 500, TxPackets: 100, TxBytes: 10_000, TxDropped: 0,
			}, Queue: map[detect.QueueID]map[string]uint64{{N: 0}: {"packets": 1200}, {N: 1}: {"packets": 300}, {Tx: true, N: 0}: {"packets": 100}}},
			"lo": {Known: true, Counters: detect.InterfaceCounters{Known: true, RxPackets: 250, TxPackets: 250}},
		},
		CPU:       map[int]detect.CPUShare{0: {Softirq: 0.3, IRQ: 0.1, Busy: 0.9, Steal: 0.2}, 1: {Softirq: 0.1, Busy: 0.2}},
		Interrupt: map[int]uint64{0: 900, 1: 100},
		IRQ:       map[int]detect.IRQDelta{40: {Total: 800, CPU: map[int]uint64{0: 800}}, 41: {Total: 200, CPU: map[int]uint64{0: 100, 1: 100}}},
		Softnet:   map[int]detect.SoftnetDelta{0: {Processed: 700, Dropped: 40, Squeezed: 6, ReceivedRPS: 2}, 1: {Processed: 60}},
		Protocols: map[string]uint64{
			"Ip.InReceives": 400, "Ip6.InReceives": 100, "IpExt.InNoECTPkts": 1000, "Ip6.InNoECTPkts": 200, "Ip6.InECT0Pkts": 50,
			"Tcp.OutSegs": 1000, "Tcp.RetransSegs": 10, "Tcp.InSegs": 600, "TcpExt.TCPOFOQueue": 3, "Udp.InDatagrams": 200,
		},
		Probes: &counters.Counters{AttachedNs: 1e9, CPUs: []counters.CPU{{
			Rx: counters.NetSoftirq{RaiseToEntryNs: counters.NewHist([]uint64{0, 0, 0, 4}, 20)}, Budget: counters.Budget{Runs: 5, Polls: 10, Work: 60, SqueezedTime: 2, SqueezedPackets: 1, SqueezedBoth: 1},
		}}, Virtio: []counters.Virtio{{RingReads: 100, Starved: 5}}},
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	got, ok := Read(observed(), []string{"eth0", "gone"})
	if !ok {
		t.Fatal("not read")
	}
	want := Sample{
		Seconds: 2, Packets: 1000, Bytes: 80_000, // 1500 + 100 + 400 missed in two seconds
		Elsewhere: 800 * 2.5 / 1600, OtherWork: 0.9 - 0.4 - 0.2 + 0.1, Steal: 0.2, UDPShare: 0.25,
		CPUs:       map[int]CPU{0: {Busy: 0.9, Softirq: 0.4}, 1: {Busy: 0.2, Softirq: 0.1}},
		Interrupts: map[int]float64{0: 0.9, 1: 0.1},
		Carrier:    map[string]bool{"eth0": true},
		Values: map[Key]float64{
			{"device_lost", ""}:           500.0 / 2600, // of 2,100 at eth0 and 500 at lo
			{backlogDropped, ""}:          40.0 / 800,
			{"squeezes", ""}:              3,
			{"received_rps", ""}:          1,
			{rxBytes, "eth0"}:             75_000,
			{txBytes, "eth0"}:             5000,
			{softirqShare, ""}:            0.5,
			{maxSoftirq, ""}:              0.4,
			{"gro_ratio", ""}:             2.5,
			{anyQueueShare, "eth0"}:       0.8,
			{"rx_ring_lost", "eth0"}:      200,
			{"tcp_retransmits", ""}:       0.01,
			{"tcp_out_of_order", ""}:      0.005,
			{"interrupts_per_second", ""}: 500, {"interrupts_per_packet", ""}: 0.5, {"max_cpu_interrupt_share", ""}: 0.9,
			{"softirq_latency", ""}: 5, {"packets_per_poll", ""}: 6, {"ring_starved", ""}: 0.05,
			{"squeezed_by_time", ""}: 2, {"squeezed_by_packets", ""}: 2,
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(1e-9, 0)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// What a host does not tell is absent and not zero.
func TestReadBlind(t *testing.T) {
	t.Parallel()
	for _, o := range []*detect.Observation{nil, {}, {Basis: detect.BasisWindow}} {
		if _, ok := Read(o, nil); ok {
			t.Errorf("%+v has no rates", o)
		}
	}
	s, ok := Read(&detect.Observation{Last: &detect.Snapshot{}, Basis: detect.BasisWindow, Window: time.Second}, []string{"eth0"})
	if !ok || !math.IsNaN(s.Elsewhere) || !math.IsNaN(s.UDPShare) {
		t.Errorf("%+v", s)
	}
	for _, k := range []Key{{softirqShare, ""}, {backlogDropped, ""}, {"tcp_retransmits", ""}, {rxBytes, "eth0"}} {
		if v, there := s.Values[k]; there {
			t.Errorf("%v is %v", k, v)
		}
	}
	blind := []Sample{s, s, s}
	if r := Judge(blind, blind, Promise{}); r.Verdict != Unclear {
		t.Errorf("nothing was seen and it is %s: %s", r.Verdict, r.Reason)
	}
}

func TestConcerned(t *testing.T) {
	t.Parallel()
	s := observed().Last
	for _, test := range []struct {
		ref  knob.Ref
		want []string
	}{
		{knob.Rx("eth0", 1, "rps.cpus"), []string{"eth0"}},
		{knob.Device("bond0", "gro_flush_timeout"), []string{"bond0", "eth0"}},
		{knob.Global("net.core.netdev_budget"), []string{"bond0", "eth0"}},
		{knob.Device("gone", "ring.rx"), nil},
	} {
		if diff := cmp.Diff(test.want, Concerned([]plan.Change{{Ref: test.ref}}, s)); diff != "" {
			t.Errorf("%s -want +got:\n%s", test.ref, diff)
		}
	}
}

func TestPending(t *testing.T) {
	t.Parallel()
	sent := func(queue int, cpus string) plan.Change {
		return plan.Change{Ref: knob.Rx("eth0", queue, "irq.affinity"), After: cpus}
	}
	fires := func(irq int, cpu int) func(*detect.Observation) {
		return func(o *detect.Observation) { o.IRQ[irq] = detect.IRQDelta{Total: 5, CPU: map[int]uint64{cpu: 5}} }
	}
	polled := func(cpu int, outside uint64) func(*detect.Observation) {
		return func(o *detect.Observation) {
			fires(40, 1)(o)
			o.Probes = &counters.Counters{NAPIs: []counters.NAPI{{Device: "eth0", ID: 8, CPU: cpu, Polls: 9, Outside: outside}}}
		}
	}
	for _, test := range []struct {
		name    string
		changes []plan.Change
		now     func(*detect.Observation)
		want    []string
	}{
		{"in place", []plan.Change{sent(0, "1")}, fires(40, 1), nil},
		{"the old CPU", []plan.Change{sent(0, "1")}, fires(40, 0), []string{"eth0/rx-0/irq.affinity: still fires on CPU 0"}},
		{"the last word", []plan.Change{sent(0, "0"), sent(0, "1")}, fires(40, 1), nil},
		{"polled without end", []plan.Change{sent(0, "1")}, func(o *detect.Observation) { o.IRQ[40] = detect.IRQDelta{} },
			[]string{"eth0/rx-0/irq.affinity: no interrupt since, so it is still polled where it was"}},
		{"no traffic", []plan.Change{sent(0, "1")}, func(o *detect.Observation) {
			o.IRQ[40] = detect.IRQDelta{}
			o.Device["eth0"].Queue[detect.QueueID{N: 0}]["packets"] = 0
		}, nil},
		{"polls stay", []plan.Change{sent(0, "1")}, polled(0, 0), []string{"eth0/rx-0/irq.affinity: still polled on CPU 0"}},
		{"polls by a thread", []plan.Change{sent(0, "1")}, polled(0, 9), nil},
		{"a queue that is gone", []plan.Change{sent(7, "1")}, nil, nil},
		{"the link", []plan.Change{{Ref: knob.Device("eth0", "ring.rx")}}, func(o *detect.Observation) {
			d := *o.Last.Devices[0]
			d.Carrier = detect.No
			o.Last = &detect.Snapshot{Devices: []*detect.Device{&d}}
		}, []string{"eth0 has no link yet"}},
	} {
		now := observed()
		if test.now != nil {
			test.now(now)
		}
		if diff := cmp.Diff(test.want, Pending(test.changes, observed(), now)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", test.name, diff)
		}
	}
}
