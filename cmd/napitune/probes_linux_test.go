package main

import (
	"context"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink" //nolint:depguard // brings up the loopback of a namespace of its own

	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/probes/counters"
)

// echo sends datagrams to itself over loopback, some thousands a second, until
// the test ends: each one reaches a socket, and somebody reads it.
func echo(t *testing.T) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		_ = socket.Close()
		<-ended
	})
	go func() {
		defer close(ended)
		buffer := make([]byte, 16)
		for {
			if _, err := socket.WriteTo([]byte("napitune"), socket.LocalAddr()); err != nil {
				return
			}
			if _, _, err := socket.ReadFrom(buffer); err != nil {
				return
			}
			time.Sleep(200 * time.Microsecond)
		}
	}()
}

// The probes that are off by default count when they are named, and doctor
// tells their state.
func TestOptionalProbesLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	echo(t)
	stream(t, 2000, carefree) // to nobody, so that each packet is dropped

	out, errs := answered(t, command("advise", "--for", "3s", "--probes", "all", "--format", "json"))
	a := decode[report.Advice](t, out)
	for _, name := range []string{"gro", "latency", "drops"} {
		if !slices.Contains(a.Window.Probes, name) {
			t.Errorf("%s did not take part: %q\n%s", name, a.Window.Probes, errs)
		}
	}
	if a.Probed == nil || a.Probed.Drops == nil {
		t.Fatalf("nothing of the optional probes in\n%s", out)
	}
	paths := map[string]uint64{}
	for _, l := range a.Probed.Latency {
		paths[l.Path] += l.Samples
		if l.P50Ns == 0 || l.P50Ns > l.P90Ns || l.P90Ns > l.P99Ns || l.Node < 0 || l.CPUs == "" {
			t.Errorf("%+v", l)
		}
	}
	if paths["poll to socket"] == 0 || paths["socket to read"] == 0 {
		t.Errorf("latency: %+v", a.Probed.Latency)
	}
	var dropped uint64
	for _, d := range a.Probed.Drops.CPUs {
		dropped += d.Other
	}
	// 2,000 a second for the length of the window, less what a busy machine
	// keeps the sender from.
	if want := uint64(2000 * a.Probed.Drops.Seconds / 10); a.Probed.Drops.Seconds == 0 || dropped < want {
		t.Errorf("%d dropped in %g s, want %d at least", dropped, a.Probed.Drops.Seconds, want)
	}

	out, _ = answered(t, command("advise", "--for", "3s", "--no-color"))
	if strings.Contains(out, "Counted by probes") {
		t.Errorf("probes that nobody asked for counted:\n%s", out)
	}

	out, _ = mustEnd(t, 0, command("doctor", "--format", "json"))
	states := map[string]string{}
	for _, p := range decode[report.Doctor](t, out).Probes {
		states[p.Name] = p.State + ": " + p.Reason
	}
	all, _ := probeNames()
	for _, name := range all {
		if strings.HasPrefix(states[name], report.ProbeOff) || states[name] == "" {
			t.Errorf("doctor did not try %s: %q", name, states[name])
		}
	}
	if !strings.HasPrefix(states["drops"], report.ProbeAttached) || !strings.Contains(states["drops"], "counts with --probes drops only") {
		t.Errorf("drops is %q", states["drops"])
	}
}

// What the probes cost is told for every window: from statistics, those that run
// per packet included, or as an estimate.
func TestProbeCostLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	echo(t)
	p, err := attachProbes(&detect.Snapshot{}, append(mustDefault(t), "drops"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	if err := p.Watch(context.Background(), counters.WholeWindow); err != nil {
		t.Fatal(err)
	}
	c, err := p.Read()
	if err != nil {
		t.Fatal(err)
	}
	// Names of devices mean something in the namespace of the reader only.
	if !slices.ContainsFunc(c.GRO, func(g counters.GRO) bool { return g.Device == "lo" && g.NetNS == c.NetNS && g.NetNS != 0 }) {
		t.Errorf("no loopback of namespace %d in %+v", c.NetNS, c.GRO)
	}
	if spent, ok := c.Spent(); !ok || spent.Estimated || spent.Runs == 0 || spent.Ns == 0 {
		t.Errorf("cost: %+v, %v", spent, ok)
	}
	seen := map[string]bool{}
	for _, row := range c.Cost {
		_, hook, _ := strings.Cut(row.Hook, "/")
		seen[hook] = true
		counted, attached := time.Duration(row.CountedNs), time.Duration(row.AttachedNs)
		switch hook {
		case "netif_receive_skb":
			// A busy machine makes windows shorter and has default probes pause.
			if row.Runs == 0 || counted == 0 || counted != attached {
				t.Errorf("%s: %d runs; counted for %s of %s", hook, row.Runs, counted, attached)
			}
		case "kfree_skb":
			if counted == 0 || counted != attached {
				t.Errorf("%s: counted for %s of %s", hook, counted, attached)
			}
		case "softirq_entry":
			if row.Runs == 0 || counted == 0 || counted >= attached {
				t.Errorf("%s: %d runs; counted for %s of %s", hook, row.Runs, counted, attached)
			}
		}
	}
	if !seen["netif_receive_skb"] || !seen["kfree_skb"] || !seen["softirq_entry"] {
		t.Errorf("programs with a cost: %v", seen)
	}

	for _, test := range []struct{ args, want string }{
		{"", "BPF statistics take part in windows from 2.5s on"},
		{"--probes default,latency", "BPF statistics take part in windows from 2.5s on; without latency, which counts no events"},
	} {
		args := append([]string{"advise", "--for", "500ms", "--format", "json"}, strings.Fields(test.args)...)
		out, _ := answered(t, command(args...))
		o := decode[report.Advice](t, out).Overhead
		if o.ProbeRuns < 100 || o.ProbeSeconds <= 0 || o.ProbesEstimated != test.want {
			t.Errorf("half a second %s: %+v", test.args, o)
		}
	}
	out, _ := answered(t, command("advise", "--for", "500ms", "--format", "json", "--probes", "latency"))
	if o := decode[report.Advice](t, out).Overhead; o.ProbesUnknown == "" || o.ProbeSeconds != 0 {
		t.Errorf("half a second of latency alone: %+v", o)
	}
}

// A budget that somebody changes within the window is seen,
// and squeezes are judged by the new one from then on.
func TestBudgetChangesLive(t *testing.T) {
	needs(t, os.Getuid() == 0, "root")
	lockMachine(t)
	keepSysctls(t)
	file := sysctlPath("net.core.netdev_budget")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	budget, err := strconv.Atoi(strings.TrimSpace(string(before)))
	if err != nil {
		t.Fatal(err)
	}
	first := &detect.Snapshot{Knobs: map[knob.Ref]knob.State{knob.Global("net.core.netdev_budget"): {Value: strconv.Itoa(budget)}}}
	p, err := attachProbes(first, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	begin, err := p.Read()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strconv.Itoa(budget+50)), 0); err != nil {
		t.Fatal(err)
	}
	end, errRead := p.Read()
	if err := os.WriteFile(file, before, 0); err != nil {
		t.Fatal(err)
	}
	if errRead != nil {
		t.Fatal(errRead)
	}
	c, err := end.Sub(begin)
	if err != nil {
		t.Fatal(err)
	}
	if !c.BudgetChanged || begin.BudgetPackets != uint64(budget) || end.BudgetPackets != uint64(budget)+50 {
		t.Errorf("budget %d and then %d, changed %v; want %d, %d", begin.BudgetPackets, end.BudgetPackets, c.BudgetChanged, budget, budget+50)
	}
}

func mustDefault(t *testing.T) []string {
	t.Helper()
	_, byDefault := probeNames()
	if len(byDefault) == 0 {
		t.Fatal("no probe counts by default")
	}
	return byDefault
}
