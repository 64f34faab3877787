package probes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The tests of this file measure and print; they run on demand only:
//
//	make probe-cost
//	NAPITUNE_COST=1 go test -run 'TestCostTable|TestOverhead' -v ./probes
//
// NAPITUNE_COST_PAIRS sets the number of pairs (15), NAPITUNE_COST_SLICE the
// length of one side of a pair; without it that is 2s, and for the probes as
// advise runs them 1s and 4s too, and the 10s of its default.

func needCost(t *testing.T) {
	t.Helper()
	if os.Getenv("NAPITUNE_COST") == "" {
		t.Skip("skipped: a measurement, not a check; set NAPITUNE_COST=1")
	}
	needRoot(t)
}

// flood sends small UDP packets as fast as one thread can, through a veth
// pair into another namespace where a thread on another CPU reads them: one
// packet per softirq and per poll, the worst case for probes on both.
type flood struct {
	socket   int
	received chan uint64
}

const floodPort = 9000

func startFlood(t testing.TB) *flood { return startFloodOf(t, flooded{port: floodPort}) }

// flooded is what receives a flood.
type flooded struct {
	port int  // floodPort is read from, others are closed
	gro  bool // its veth has a NAPI of its own and GRO, and RPS to the other CPU
}

func startFloodOf(t testing.TB, to flooded) *flood {
	t.Helper()
	inNamespace(t, 0)
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there, err := netns.New() // moves this thread
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if err := netns.Set(here); err != nil {
		t.Fatal(err)
	}
	p := makePair(t, 0)
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	addr := func(l netlink.Link, cidr string) {
		t.Helper()
		a, err := netlink.ParseAddr(cidr)
		must("parse address", err)
		must("add address "+cidr, netlink.AddrAdd(l, a))
	}
	must("move peer", netlink.LinkSetNsFd(p.in, int(there)))
	addr(p.out, "198.18.0.1/24")
	must("enter namespace", netns.Set(there))
	addr(p.in, "198.18.0.2/24")
	must("set peer up", netlink.LinkSetUp(p.in))
	if to.gro {
		setOffload(t, p.in.Attrs().Name, ethtoolSetGRO, 1)
		must("steer", os.WriteFile(ownSysfs(t)+"/class/net/"+p.in.Attrs().Name+"/queues/rx-0/rps_cpus", []byte("2"), 0))
	}
	receiver, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must("make receiving socket", err)
	must("bind", unix.Bind(receiver, &unix.SockaddrInet4{Port: floodPort, Addr: [4]byte{198, 18, 0, 2}}))
	must("set timeout", unix.SetsockoptTimeval(receiver, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}))
	must("leave namespace", netns.Set(here))
	if to.gro {
		// Packets of a veth that could send larger ones need no merging (veth_skb_is_eligible_for_gro).
		setOffload(t, p.out.Attrs().Name, ethtoolSetTSO, 0)
	}
	time.Sleep(50 * time.Millisecond) // carrier
	sender, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must("make sending socket", err)
	must("connect", unix.Connect(sender, &unix.SockaddrInet4{Port: to.port, Addr: [4]byte{198, 18, 0, 2}}))
	f := &flood{socket: sender, received: make(chan uint64, 1)}
	done := make(chan struct{})
	go f.receive(receiver, done)
	t.Cleanup(func() {
		close(done)
		t.Logf("%d packets read in all", <-f.received)
		_ = unix.Close(sender)
		_ = unix.Close(receiver)
	})
	f.send(t, 200*time.Millisecond) // neighbours, branch predictors, frequency
	return f
}

func (f *flood) receive(socket int, done chan struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var set unix.CPUSet
	set.Set(lastCPU())
	_ = unix.SchedSetaffinity(0, &set)
	var n uint64
	buf := make([]byte, 64)
	for {
		if _, err := unix.Read(socket, buf); err == nil {
			n++
			continue
		}
		select {
		case <-done:
			f.received <- n
			return
		default: // the timeout only
		}
	}
}

// sent is the result of sending for a while.
type sent struct {
	packets  uint64
	wall     time.Duration
	cpu      time.Duration // of the sending thread, softirqs on top of it included
	switches int64         // times the thread was taken off its CPU
}

func (s sent) perWall() float64 { return float64(s.packets) / s.wall.Seconds() }
func (s sent) perCPU() float64  { return float64(s.packets) / s.cpu.Seconds() }

func (f *flood) send(t testing.TB, length time.Duration) sent {
	t.Helper()
	var payload [18]byte
	before, began := threadTimes(t), time.Now()
	var s sent
	for time.Since(began) < length {
		for range 64 {
			err := error(unix.ECONNREFUSED)
			for errors.Is(err, unix.ECONNREFUSED) { // by a closed port, of an earlier packet
				_, err = unix.Write(f.socket, payload[:])
			}
			if err != nil {
				t.Fatalf("send: %v", err)
			}
			s.packets++
		}
	}
	s.wall = time.Since(began)
	after := threadTimes(t)
	s.cpu = time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	s.switches = after.Nivcsw - before.Nivcsw
	return s
}

func threadTimes(t testing.TB) unix.Rusage {
	t.Helper()
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func setting(t testing.TB, name string, fallback int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func slice(t testing.TB) time.Duration {
	t.Helper()
	text := os.Getenv("NAPITUNE_COST_SLICE")
	if text == "" {
		return 2 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestOverhead compares full-rate throughput without and with probes, in pairs
// that take turns in going first.
func TestOverhead(t *testing.T) {
	needCost(t)
	f := startFlood(t)
	usual := slice(t)
	sets := []costSet{
		{"nothing (the noise)", []string{}, true, usual},
		{"default, as advise runs them", nil, true, usual},
		{"default, attached all the time", nil, false, usual},
		{"default without softirq-delay, all the time", []string{"softirq", "budget", "napi", "backlog", "irq", "virtio"}, false, usual},
		{"softirq and budget, all the time", []string{"softirq", "budget"}, false, usual},
	}
	if os.Getenv("NAPITUNE_COST_SLICE") == "" {
		for _, length := range []time.Duration{time.Second, 4 * time.Second, 10 * time.Second} {
			sets = append(sets, costSet{"default, as advise runs them", nil, true, length})
		}
	}
	if only := os.Getenv("NAPITUNE_COST_SET"); only != "" {
		sets = slices.DeleteFunc(sets, func(s costSet) bool { return !strings.Contains(s.name, only) })
	}
	fmt.Printf("\n### Throughput lost to probes\n\n")
	fmt.Println("| probes | each side | pairs | packets/s without | throughput lost, wall (median, quartiles) | per CPU second of the sender (median, quartiles) |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, set := range sets {
		var wall, cpu, base []float64
		for i := range setting(t, "NAPITUNE_COST_PAIRS", 15) {
			without, with := measurePair(t, f, set, i%2 == 1)
			wall = append(wall, 100*(1-with.perWall()/without.perWall()))
			cpu = append(cpu, 100*(1-with.perCPU()/without.perCPU()))
			base = append(base, without.perWall())
		}
		fmt.Printf("| %s | %v | %d | %.0f | %s | %s |\n", set.name, set.length, len(wall), quantile(base, 0.5), spread(wall), spread(cpu))
	}
}

// costSet is one way to run probes.
type costSet struct {
	name    string
	probes  []string // as in Options
	limited bool     // through Watch, which bounds the cost
	length  time.Duration
}

func measurePair(t *testing.T, f *flood, set costSet, reverse bool) (without, with sent) {
	t.Helper()
	probed := func() {
		s, err := Open(Options{Probes: set.probes})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			if !set.limited {
				done <- nil
				return
			}
			done <- s.Watch(ctx, set.length)
		}()
		with = f.send(t, set.length)
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if reverse {
		probed()
	}
	without = f.send(t, set.length)
	if !reverse {
		probed()
	}
	return without, with
}

func spread(v []float64) string {
	return fmt.Sprintf("%.1f %% (%.1f … %.1f)", quantile(v, 0.5), quantile(v, 0.25), quantile(v, 0.75))
}

func quantile(v []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[int(q*float64(len(s)-1)+0.5)]
}

// eventCost is what an event of a program costs.
type eventCost struct {
	name, hook string
	ns         []float64 // of each round
	runs       uint64
}

// TestCostTable prints ns per event of every program at full rate, from the
// kernel's BPF statistics, beside that of an empty program: the statistics'
// own clock reads. Two floods, since what is read is not lost too; the row of a
// program is from the one that called it more often.
func TestCostTable(t *testing.T) {
	needCost(t)
	rows := map[string]*eventCost{}
	for name, to := range map[string]flooded{
		"read":              {port: floodPort},
		"refused, GRO, RPS": {port: floodPort + 1, gro: true},
	} {
		t.Run(name, func(t *testing.T) {
			for name, row := range eventCosts(t, startFloodOf(t, to)) {
				if rows[name] == nil || row.runs > rows[name].runs {
					rows[name] = row
				}
			}
		})
	}
	fmt.Printf("\n### Cost of one event\n\n")
	fmt.Println("| program | hook | events | ns per event (median of 5) | range |")
	fmt.Println("|---|---|---|---|---|")
	sorted := slices.SortedFunc(maps.Values(rows), func(a, b *eventCost) int {
		return cmp.Or(cmp.Compare(a.hook, b.hook), strings.Compare(a.name, b.name))
	})
	for _, r := range sorted {
		if len(r.ns) == 0 {
			fmt.Printf("| %s | %s | 0 | | |\n", r.name, r.hook)
			continue
		}
		fmt.Printf("| %s | %s | %d | %.0f | %.0f … %.0f |\n", r.name, r.hook, r.runs,
			quantile(r.ns, 0.5), slices.Min(r.ns), slices.Max(r.ns))
	}
}

func eventCosts(t *testing.T, f *flood) map[string]*eventCost {
	t.Helper()
	s := openSession(t, Options{Probes: append(DefaultProbes(), "drops", "latency"), PacketsPerJiffy: 1_000_000, MaxCostPercent: 100})
	empty, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "napi_poll", License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	l, err := link.AttachTracing(link.TracingOptions{Program: empty})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, name := range []string{"gro", "drops"} {
		if err := errors.Join(s.objects[name].attachAll(), s.objects[name].setVariable("switched_off", 0)); err != nil {
			t.Fatal(err)
		}
	}
	rows := map[string]*eventCost{}
	const rounds = 5
	for range rounds {
		if err := s.StartStats(); err != nil {
			t.Fatal(err)
		}
		first, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		floor, err := empty.Stats()
		if err != nil {
			t.Fatal(err)
		}
		f.send(t, slice(t))
		last, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		floorAfter, err := empty.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.StopStats(); err != nil {
			t.Fatal(err)
		}
		d, err := last.Sub(first)
		if err != nil {
			t.Fatal(err)
		}
		add := func(name, hook string, runs, ns uint64) {
			if rows[name] == nil {
				rows[name] = &eventCost{name: name, hook: hook}
			}
			if runs > 0 {
				rows[name].ns = append(rows[name].ns, float64(ns)/float64(runs))
				rows[name].runs += runs
			}
		}
		add("(empty)", "tp_btf/napi_poll", floorAfter.RunCount-floor.RunCount, uint64(floorAfter.Runtime-floor.Runtime))
		for _, c := range d.Cost {
			add(c.Program, c.Hook, c.Runs, c.TimeNs)
		}
	}
	return rows
}
