package faults

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/napitune/napitune/lab/wire"
)

// TestFaults brings about each fault that fits this guest and holds napitune
// to what the table demands. It runs in guests only: go run ./lab/cmd/lab faults
// boots one for each machine of the table (--all: the whole table).
func TestFaults(t *testing.T) {
	if os.Getenv("NAPITUNE_GUEST") == "" {
		t.Skip("this is no guest of the lab: run go run ./lab/cmd/lab faults")
	}
	if err := lookupNapitune(); err != nil {
		t.Fatal(err)
	}
	var g *guest
	names := strings.Split(os.Getenv("LAB_FAULTS"), "\n")
	for _, f := range Table() {
		if f.Machine.String() != os.Getenv("LAB_MACHINE") || !slices.Contains(names, f.Name) {
			continue
		}
		if g == nil {
			g = openGuest(t, f.Prepare)
		}
		for _, treatment := range Treatments(t.TempDir()) {
			if !strings.Contains(os.Getenv("LAB_TREATMENTS"), treatment.Name()) {
				continue
			}
			t.Run(f.Name+"/"+treatment.Name(), func(t *testing.T) {
				r := g.try(f, treatment)
				if treatment.Name() == "napitune" { // others are recorded and not judged
					r.Complaints = r.Judge(f)
				}
				g.record(t, r)
				for _, complaint := range r.Complaints {
					t.Error(complaint)
				}
			})
		}
	}
}

// guest is the machine that the test runs in.
type guest struct {
	t        *testing.T
	peer     *wire.Peer
	pristine Settings
	// quiet remembers the alarms of the healthy machine: a row of a fault does
	// not look again at what another one saw.
	quiet map[condition][]string
	// bears is the load that this guest can bear, by what a row asks for.
	bears map[Load]Load
}

// condition is what a look at the healthy machine depends on.
type condition struct {
	load   Load
	policy string
	probes bool
}

const device = "eth0"

// openGuest makes the machine healthy; how is the same for all its rows.
func openGuest(t *testing.T, prepare string) *guest {
	t.Helper()
	peer, err := wire.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	if err := wire.Discard(t.Context(), net.JoinHostPort("0.0.0.0", "5201")); err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, peer: peer, quiet: map[condition][]string{}, bears: map[Load]Load{}}
	g.shell(prepare + "\nsysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=1000000 net.ipv4.icmp_msgs_burst=1000000")
	// Neighbour discovery would be counted as traffic; a fixed key sends the
	// same flows to the same queues in every run.
	g.shell("sysctl -qw net.ipv6.conf.all.disable_ipv6=1; ethtool -X eth0 hkey " + hashKey + " 2>/dev/null; true")
	if g.pristine, err = ReadSettings(device); err != nil {
		t.Fatal(err)
	}
	return g
}

// hashKey is the key of Microsoft's RSS specification, with which hashes of
// known packets are published.
const hashKey = "6d:5a:56:da:25:5b:0e:c2:41:67:25:3d:43:a3:8f:b0:d0:ca:2b:cb:ae:7b:30:b4:77:cb:2d:a3:80:30:f2:0c:6a:42:b7:3b:be:ac:01:fa"

func (g *guest) shell(text string) {
	g.t.Helper()
	if out, err := exec.Command("sh", "-c", text).CombinedOutput(); err != nil {
		g.t.Fatalf("%s: %v: %s", text, err, out)
	}
}

// try brings about a fault, has it treated and puts everything back.
func (g *guest) try(f Fault, treatment Treatment) Result {
	r := Result{Fault: f.Name, Machine: f.Machine.String(), Treatment: treatment.Name(), Expected: f.Finding, Metric: f.Metric.Name, Probes: f.Probes}
	for _, slow := range f.Slow {
		r.Thresholds = append(r.Thresholds, slow.String())
	}
	if err := g.steps(f, treatment, &r); err != nil {
		r.Error = err.Error()
	}
	if f.Undo != "" {
		g.shell(f.Undo)
	}
	now, err := ReadSettings(device)
	if err == nil {
		err = g.pristine.Restore(now)
	}
	if now, _ := ReadSettings(device); err != nil || len(g.pristine.Diff(now)) > 0 {
		g.t.Fatalf("the guest cannot be put back as it was: %v %s", err, strings.Join(g.pristine.Diff(now), "; "))
	}
	return r
}

func (g *guest) steps(f Fault, treatment Treatment, r *Result) error {
	var err error
	if f.Load, err = g.bearable(f.Load); err != nil {
		return err
	}
	r.Rate = f.Load.PerSecond
	healthy, err := g.measure(f.Load)
	if err != nil {
		return fmt.Errorf("healthy: %w", err)
	}
	r.Healthy = f.Metric.Of(healthy)
	if f.Finding == "" {
		g.shell(f.Inject)
		return g.lookOften(f, treatment, r)
	}
	if r.FalseOnes, err = g.control(f, treatment); err != nil {
		return err
	}
	if err := g.inject(f); err != nil {
		return err
	}
	faulty, err := g.measure(f.Load)
	if err != nil {
		return fmt.Errorf("faulty: %w", err)
	}
	r.Faulty = f.Metric.Of(faulty)
	before, err := ReadSettings(device)
	if err != nil {
		return err
	}
	if err := g.look(f, treatment, r); err != nil {
		return err
	}
	if killed, ok := treatment.(killable); ok && !f.Contested {
		if r.Killed, err = g.kill(f, killed, before); err != nil {
			return err
		}
	}
	var judged Judgement
	err = g.during(f.Load, func() (err error) { judged, err = treatment.Apply(f); return err })
	r.Verdict, r.Reason = judged.Verdict, judged.Reason
	if judged.Predicted > 0 {
		r.Predicted = judged.Predicted
	}
	if err != nil {
		return err
	}
	if err := g.letFight(f); err != nil {
		return err
	}
	treated, err := g.measure(f.Load)
	if err != nil {
		return fmt.Errorf("treated: %w", err)
	}
	r.Treated, r.Measured, r.Split = f.Metric.Of(treated), maxShare().Of(treated), g.splitPairs()
	switch {
	case r.Predicted == 0:
		r.Measured = 0
	case judged.Busiest > 0: // packets are not what was predicted
		r.Measured = judged.Busiest
	}
	if err := treatment.Undo(); err != nil {
		return err
	}
	after, err := ReadSettings(device)
	r.Differs = f.left(before, after)
	return err
}

// letFight gives a program that writes the same settings two rounds under the
// load that it goes by.
func (g *guest) letFight(f Fault) error {
	if !f.Contested {
		return nil
	}
	return g.during(f.Load, func() error { time.Sleep(11 * time.Second); return nil })
}

// left lists what undoing left. A program that writes the same settings goes on
// with interrupts as soon as it may.
func (f Fault) left(before, after Settings) []string {
	return slices.DeleteFunc(before.Diff(after), func(line string) bool { return f.Contested && strings.HasPrefix(line, "/proc/irq/") })
}

// killable is a treatment that can be killed in the middle and recover.
type killable interface {
	Kill(f Fault, after time.Duration) (killed bool, err error)
	Recover() error
}

// kill kills applies early and late and lists what differs from the state before
// when they are recovered from.
func (g *guest) kill(f Fault, treatment killable, before Settings) ([]string, error) {
	out := []string{}
	hits := 0
	for _, after := range []time.Duration{0, 20 * time.Millisecond, 0, 0, 0} {
		if after == 0 && hits > 0 {
			continue
		}
		killed, err := treatment.Kill(f, after)
		if err != nil {
			return out, err
		}
		if killed {
			hits++
		}
		if err := treatment.Recover(); err != nil {
			return out, err
		}
		now, err := ReadSettings(device)
		if err != nil {
			return out, err
		}
		out = append(out, before.Diff(now)...)
	}
	if hits == 0 {
		return out, errors.New("none of four applies could be killed at work")
	}
	return out, nil
}

// bearable lowers the rate of a load, as far as it allows, until no CPU of the
// healthy guest spends more of its time on it than it may while napitune looks.
// How much an emulated CPU can bear depends on what else the host does, and
// saturated CPUs are no healthy ones; idle ones have nothing to find.
func (g *guest) bearable(l Load) (Load, error) {
	if lower, known := g.bears[l]; known {
		return lower, nil
	}
	asked, least, most := l, cmp.Or(l.Least, l.PerSecond/2), cmp.Or(l.Most, 0.25)
	for ; l.Kind == "udp" && !l.Guest && l.PerSecond > least; l.PerSecond = l.PerSecond * 3 / 4 {
		before, err := os.ReadFile("/proc/stat")
		if err != nil {
			return l, err
		}
		// What it says is of no concern here, only that it is at work.
		err = g.during(l, func() error { _ = exec.Command("napitune", "advise", "--no-bpf", "--for", "2s").Run(); return nil })
		if err != nil {
			return l, fmt.Errorf("a trial of the load: %w", err)
		}
		after, err := os.ReadFile("/proc/stat")
		if err != nil {
			return l, err
		}
		share, err := busiest(before, after)
		if err != nil {
			return l, err
		}
		if share <= most {
			break
		}
	}
	g.bears[asked] = l
	return l, nil
}

// inject brings a fault about. Programs that move interrupts by their load need
// one to do it.
func (g *guest) inject(f Fault) error {
	if !f.Contested {
		g.shell(f.Inject)
		return nil
	}
	return g.during(f.Load, func() error {
		g.shell(f.Inject)
		// What it does in its first rounds depends on what it counted in them.
		for began := time.Now(); len(g.splitPairs()) < 2 && time.Since(began) < time.Minute; {
			time.Sleep(time.Second)
		}
		return nil
	})
}

// control looks at the healthy machine under the same load and lists all that
// asks for action.
func (g *guest) control(f Fault, treatment Treatment) ([]string, error) {
	key := condition{f.Load, f.policy(), f.Probes}
	if alarms, known := g.quiet[key]; known {
		return alarms, nil
	}
	a, err := g.advice(f, treatment)
	if err != nil {
		return nil, fmt.Errorf("healthy: %w", err)
	}
	g.quiet[key] = a.demands()
	return g.quiet[key], nil
}

// lookOften looks again and again where nothing is wrong: what asks for action
// in one of ten looks is a false alarm as well.
func (g *guest) lookOften(f Fault, treatment Treatment, r *Result) error {
	for r.Looks < max(1, f.Looks) {
		a, err := g.advice(f, treatment)
		if err != nil {
			return fmt.Errorf("look %d: %w", r.Looks+1, err)
		}
		r.Looks++
		for _, demand := range a.demands() {
			r.Alarms = append(r.Alarms, fmt.Sprintf("look %d: %s", r.Looks, demand))
			r.Report = a.Report
		}
		r.Seconds = max(r.Seconds, a.Seconds)
	}
	r.Found = len(r.Alarms) == 0
	return nil
}

// advice is what a treatment says while the load runs.
func (g *guest) advice(f Fault, treatment Treatment) (a Advice, err error) {
	err = g.during(f.Load, func() (err error) { a, err = treatment.Look(f); return err })
	return a, err
}

func (g *guest) look(f Fault, treatment Treatment, r *Result) error {
	a, err := g.advice(f, treatment)
	// Another program goes on between two looks, and may just have put it right.
	for tries := 0; f.Contested && tries < 3 && err == nil && !a.finds(f.Finding); tries++ {
		a, err = g.advice(f, treatment)
	}
	if err != nil {
		return err
	}
	r.Found, r.Alarms, r.Blocked = a.finds(f.Finding), a.alarms(), a.Blocked
	r.Predicted, r.Seconds = a.Predicted, a.Seconds
	r.Changes, r.Beyond, r.Missed = match(a.Changes, f.Changes)
	for _, found := range a.Findings {
		if found.ID == f.Finding && r.Claim == "" {
			r.Claim = found.Subject + ": " + found.Claim
		}
	}
	r.Report = a.Report
	return nil
}

// during runs something while a load without end runs.
func (g *guest) during(l Load, do func() error) error {
	l.Packets, l.Seconds = 0, 400
	if !l.Guest {
		_, err := g.peer.During(l.Load, do)
		return err
	}
	sender := g.sender(l)
	if err := sender.Start(); err != nil {
		return err
	}
	err := do()
	_ = sender.Process.Kill()
	_ = sender.Wait()
	return err
}

// sender sends from CPU 0 of the guest.
func (g *guest) sender(l Load) *exec.Cmd {
	return exec.Command("taskset", "-c", "0", "lab", "send", "--here", "--kind", l.Kind, "--to", l.To, "--flows", strconv.Itoa(l.Flows),
		"--packets", strconv.Itoa(l.Packets), "--rate", strconv.Itoa(l.PerSecond), "--seconds", strconv.FormatFloat(l.Seconds, 'f', -1, 64))
}

func (g *guest) send(l Load) (wire.Sent, error) {
	if !l.Guest {
		return g.peer.Send(l.Load)
	}
	out, err := g.sender(l).CombinedOutput()
	if err != nil {
		return wire.Sent{}, fmt.Errorf("send: %w: %s", err, out)
	}
	return wire.Sent{}, nil
}

// measure counts around a load. A few packets go ahead of it: an interrupt
// moves only when it next fires.
func (g *guest) measure(l Load) (Window, error) {
	first := l
	if l.Kind == "udp" {
		first.Packets, first.PerSecond, first.Burst, first.Seconds = 8*l.Flows, 5000, 0, 0
	}
	if _, err := g.send(first); err != nil {
		return Window{}, err
	}
	before, err := g.settled()
	if err != nil {
		return Window{}, err
	}
	sent, err := g.send(l)
	if err != nil {
		return Window{}, err
	}
	after, err := g.settled()
	if err != nil {
		return Window{}, err
	}
	w := Window{after.since(before), sent, len(g.splitPairs())}
	if l.PerSecond > 0 && !l.Guest && l.Kind == "udp" && 2*int64(w.Frames) < sent.Packets {
		return w, fmt.Errorf("%w: %d of %d", errNothingArrived, w.Frames, sent.Packets)
	}
	return w, nil
}

// settled reads the counters once what is on its way has arrived.
func (g *guest) settled() (Counters, error) {
	last := uint64(0)
	for range 40 {
		c, err := readCounters(device)
		if err != nil {
			return c, err
		}
		now := uint64(total(c.Processed))
		if now == last {
			return c, nil
		}
		last = now
		time.Sleep(200 * time.Millisecond)
	}
	return readCounters(device)
}

// splitPairs lists the queue pairs whose two interrupts are allowed on
// different CPUs.
func (g *guest) splitPairs() []string {
	names, _ := filepath.Glob("/proc/irq/*/virtio*-input.*")
	var out []string
	for _, rx := range names {
		tx, _ := filepath.Glob("/proc/irq/*/" + strings.Replace(filepath.Base(rx), "input", "output", 1))
		if len(tx) != 1 {
			continue
		}
		a, _ := ReadFile(filepath.Dir(rx) + "/smp_affinity_list")
		b, _ := ReadFile(filepath.Dir(tx[0]) + "/smp_affinity_list")
		if string(a) != string(b) {
			out = append(out, fmt.Sprintf("%s on %s and %s", filepath.Base(rx), strings.TrimSpace(string(a)), strings.TrimSpace(string(b))))
		}
	}
	return out
}

// record keeps the result where the host collects it.
func (g *guest) record(t *testing.T, r Result) {
	t.Helper()
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	appendLine(t, line)
	t.Logf("%s: healthy %.3f, faulty %.3f, treated %.3f; busiest CPU predicted %.3f, measured %.3f; looked for %.1f s; %s",
		r.Metric, r.Healthy, r.Faulty, r.Treated, r.Predicted, r.Measured, r.Seconds, r.Claim)
	for _, line := range r.Thresholds {
		t.Log("   judged with", line)
	}
	if r.Reason != "" {
		t.Logf("   apply --measure: %s: %s", cmp.Or(r.Verdict, "left out"), r.Reason)
	}
	for _, c := range r.Changes {
		t.Log("  ", c)
	}
}
