package probes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/probes/counters"
)

// TestCompareTools measures, under one flood and taking turns, what observing
// costs per second: the default probes as advise runs them, the same attached
// all the time, and other tools. It runs on demand only:
//
//	NAPITUNE_COST=1 NAPITUNE_COST_TOOLS='softirqs 1;netqtop-bpfcc -n eth0 -i 1' \
//	    go test -run TestCompareTools -v ./probes
//
// Tools are commands separated by semicolons; each is measured alone, and all
// together. netqtop only takes a device that sysfs shows, which those of the
// flood are not: its programs run for every packet all the same and compare the
// name, which is less than they would do for a packet of theirs. NAPITUNE_COST_ROUNDS sets the
// number of rounds (5), NAPITUNE_COST_WINDOW the length of each (10s).
func TestCompareTools(t *testing.T) {
	needCost(t)
	f := startFlood(t)
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	window := 10 * time.Second
	if text := os.Getenv("NAPITUNE_COST_WINDOW"); text != "" {
		if window, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	sets := observers()
	costs := make([][]observed, len(sets))
	for round := range setting(t, "NAPITUNE_COST_ROUNDS", 5) {
		for i := range sets {
			at := (i + round) % len(sets)
			costs[at] = append(costs[at], sets[at].measure(t, f, window))
		}
	}
	fmt.Printf("\n### Observing for %v, CPU time per second of it (median of %d, least … most)\n\n", window, len(costs[0]))
	fmt.Println("| observer | programs, ms/s | its process, ms/s | together, ms/s | events/s | packets/s |")
	fmt.Println("|---|---|---|---|---|---|")
	for i, set := range sets {
		column := func(of func(observed) float64, digits int) string {
			var v []float64
			for _, c := range costs[i] {
				v = append(v, of(c))
			}
			return fmt.Sprintf("%.*f (%.*f … %.*f)", digits, quantile(v, 0.5), digits, quantile(v, 0), digits, quantile(v, 1))
		}
		fmt.Printf("| %s | %s | %s | %s | %s | %s |\n", set.name,
			column(func(o observed) float64 { return o.programs }, 2), column(func(o observed) float64 { return o.process }, 2),
			column(func(o observed) float64 { return o.programs + o.process }, 2),
			column(func(o observed) float64 { return o.events }, 0), column(func(o observed) float64 { return o.packets }, 0))
	}
}

// observer is one way to look at the traffic.
type observer struct {
	name    string
	limited bool     // our probes, through Observe
	tools   []string // other commands; none means our probes
	nothing bool
}

func observers() []observer {
	sets := []observer{
		{name: "nothing", nothing: true},
		{name: "napitune, as advise runs it", limited: true},
		{name: "napitune, attached all the time"},
	}
	var all []string
	for tool := range strings.SplitSeq(os.Getenv("NAPITUNE_COST_TOOLS"), ";") {
		if tool = strings.TrimSpace(tool); tool != "" {
			all = append(all, tool)
			sets = append(sets, observer{name: "`" + tool + "`", tools: []string{tool}})
		}
	}
	if len(all) > 1 {
		sets = append(sets, observer{name: "all tools together", tools: all})
	}
	return sets
}

// observed is what an observer cost, in ms of CPU time per second, and what
// came through meanwhile.
type observed struct{ programs, process, events, packets float64 }

func (o observer) measure(t *testing.T, f *flood, window time.Duration) observed {
	t.Helper()
	before := programStats(t)
	process, stop := func() time.Duration { return 0 }, func() {}
	switch {
	case o.nothing:
	case len(o.tools) > 0:
		process, stop = startTools(t, o.tools)
	default:
		process, stop = startProbes(t, o.limited, window)
	}
	first, processFirst := programStats(t), process()
	s := f.send(t, window)
	last := programStats(t)
	spent := process() - processFirst
	var out observed
	for id, now := range last {
		if _, old := before[id]; old {
			continue // somebody else's
		}
		out.programs += float64(now.Runtime-first[id].Runtime) / 1e6
		out.events += float64(now.RunCount - first[id].RunCount)
	}
	seconds := s.wall.Seconds()
	out.programs /= seconds
	out.events /= seconds
	out.process = float64(spent) / 1e6 / seconds
	out.packets = s.perWall()
	stop()
	return out
}

func programStats(t testing.TB) map[ebpf.ProgramID]ebpf.ProgramStats {
	t.Helper()
	out := map[ebpf.ProgramID]ebpf.ProgramStats{}
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if err != nil {
			return out
		}
		id = next
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // gone since
		}
		if st, err := p.Stats(); err == nil {
			out[id] = *st
		}
		_ = p.Close()
	}
}

// startProbes runs our probes on a thread of their own, whose CPU time is what
// reading, slicing and patching tracepoints costs.
func startProbes(t *testing.T, limited bool, window time.Duration) (process func() time.Duration, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan int), make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		s, err := Open(Options{})
		if err != nil {
			done <- err
			return
		}
		for _, st := range s.Status() {
			if st.Name == "budget" && st.State != counters.Attached {
				done <- fmt.Errorf("probe %s is %s: %s", st.Name, st.State, st.Reason)
				return
			}
		}
		ready <- unix.Gettid()
		if limited {
			err = s.Observe(ctx, window)
		}
		wait(ctx, time.Minute) // until what the programs cost has been read
		_, errRead := s.Read()
		done <- errors.Join(err, errRead, s.Close())
	}()
	var thread int
	select {
	case thread = <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	// The kernel tells the time of one thread to the ns.
	return func() time.Duration {
			first, _, _ := strings.Cut(fileLines(t, fmt.Sprintf("/proc/self/task/%d/schedstat", thread))[0], " ")
			ns, err := time.ParseDuration(first + "ns")
			if err != nil {
				t.Fatal(err)
			}
			return ns
		},
		func() {
			cancel()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
}

// startTools starts commands and waits until each has loaded a program.
func startTools(t *testing.T, tools []string) (process func() time.Duration, stop func()) {
	t.Helper()
	var commands []*exec.Cmd
	for _, tool := range tools {
		// By number and not by count: programs of the observer before go a moment later.
		loaded := programStats(t)
		cmd := exec.Command("sh", "-c", "exec "+tool)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		commands = append(commands, cmd)
		const patience = 5 * time.Minute // bcc compiles first, and slowly under emulation
		for end := time.Now().Add(patience); !anyNew(programStats(t), loaded); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s loaded no program in %v: %s", tool, patience, said.String())
			}
		}
		time.Sleep(time.Second) // the rest of its programs
	}
	process = func() time.Duration {
		var sum time.Duration
		for _, cmd := range commands {
			sum += cpuTime(t, fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		}
		return sum
	}
	return process, func() {
		for _, cmd := range commands {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
			killer := time.AfterFunc(10*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
			_ = cmd.Wait() // ended by the signal
			killer.Stop()
		}
	}
}

// cpuTime is user and system time of a process or thread; the kernel counts it
// in hundredths of a second there (USER_HZ).
func cpuTime(t testing.TB, stat string) time.Duration {
	t.Helper()
	data, err := os.ReadFile(stat)
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	return time.Duration(parse(t, f[11], 10)+parse(t, f[12], 10)) * 10 * time.Millisecond
}

// anyNew reports whether there is a program that was not there before.
func anyNew(now, before map[ebpf.ProgramID]ebpf.ProgramStats) bool {
	for id := range now {
		if _, old := before[id]; !old {
			return true
		}
	}
	return false
}
