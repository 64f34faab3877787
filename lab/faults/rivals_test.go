package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func compared() []Fault {
	four := machine("6.1", 8, virtio(4))
	return []Fault{
		{Name: "all queue interrupts on one CPU", Machine: four, Inject: stackIRQs, Load: udp(), Metric: maxShare()},
		{Name: "healthy", Machine: four, Inject: "true", Load: udp(), Metric: maxShare()},
		{Name: "queue pairs split", Machine: four, Inject: splitIRQs, Load: answered(), Metric: maxShare()},
		{Name: "RPS of all queues to one CPU", Machine: four, Inject: rpsTo("80"), Load: udp(), Metric: maxShare()},
	}
}

// TestRivals tries other programs on the faults of balance, one after another
// on each in the same guest:
//
//	go run ./lab/cmd/lab test --cpus 8 --nic virtio,queues=4 --timeout 40m --results rivals.json ./lab/faults -- -test.v -test.run=TestRivals -test.timeout=0
func TestRivals(t *testing.T) {
	if os.Getenv("LAB_GUEST") == "" {
		t.Skip("this is no guest of the lab: the command is in the comment of this test")
	}
	g := openGuest(t, pinPairs)
	var err error
	if g.pristine, err = readWidely(device); err != nil {
		t.Fatal(err)
	}
	treatments := []Treatment{&Napitune{Scratch: t.TempDir(), Window: 3 * time.Second}}
	for _, tool := range Tools() {
		if tool.Tried() {
			treatments = append(treatments, tool)
			continue
		}
		t.Logf("not tried: %s, because there is no %s", tool.Title, tool.Needs)
	}
	for n, f := range compared() {
		for _, treatment := range treatments {
			r := g.compare(f, treatment, n == 0)
			line, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			appendLine(t, line)
			t.Logf("%s", line)
			g.putBack()
		}
	}
}

func appendLine(t *testing.T, line []byte) {
	t.Helper()
	out, err := os.OpenFile("/lab/results", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = out.Write(append(line, '\n'))
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}

// putBack makes the guest healthy again, whatever was left.
func (g *guest) putBack() {
	g.t.Helper()
	now, err := readWidely(device)
	if view := "ethtool -l " + device; err == nil && now[view] != g.pristine[view] {
		g.shell("ethtool -L eth0 combined 4")
		now, err = readWidely(device)
	}
	if err == nil {
		err = g.pristine.Restore(now)
	}
	now, again := readWidely(device)
	if err := errors.Join(err, again); err != nil || len(g.pristine.Diff(now)) > 0 {
		g.t.Fatalf("the guest cannot be put back as it was: %v %s", err, strings.Join(g.pristine.Diff(now), "; "))
	}
}

func (g *guest) compare(f Fault, treatment Treatment, disturb bool) Compared {
	r := Compared{Fault: f.Name, Machine: f.Machine.String(), Tool: treatment.Name(), Changed: []string{}, Left: []string{}, Flapped: []string{}, Killed: []string{}}
	if err := g.compareSteps(f, treatment, disturb, &r); err != nil {
		r.Error = err.Error()
	}
	return r
}

func (g *guest) compareSteps(f Fault, treatment Treatment, disturb bool, r *Compared) error {
	g.shell(f.Inject)
	faulty, err := g.measure(f.Load)
	if err != nil {
		return fmt.Errorf("faulty: %w", err)
	}
	r.Faulty, r.Bound, r.SplitBefore = maxShare().Of(faulty), busiestQueue(faulty), len(g.splitPairs())
	before, err := readWidely(device)
	if err != nil {
		return err
	}
	var advice Advice
	if err := g.during(f.Load, func() (err error) { advice, err = treatment.Look(f); return err }); err != nil {
		return err
	}
	r.Found, r.Predicted = advice.alarms(), advice.Predicted
	_, other := treatment.(Tool)
	if !other && len(advice.Changes) == 0 {
		r.Treated, r.Split, r.Stop, r.NotKilled = r.Faulty, r.SplitBefore, "nothing to undo", true
		return nil
	}
	start := time.Now()
	if err := g.during(f.Load, func() error { return treatment.Apply(f) }); err != nil {
		return err
	}
	r.Seconds = time.Since(start).Seconds()
	if err := g.after(f, treatment, before, disturb, r); err != nil || !disturb {
		r.NotKilled = true
		return err
	}
	return g.killed(f, treatment, r)
}

// after measures what a program made, flaps the link and has it undone.
func (g *guest) after(f Fault, treatment Treatment, before Settings, disturb bool, r *Compared) error {
	made, err := readWidely(device)
	if err != nil {
		return err
	}
	r.Changed = append(r.Changed, before.Diff(made)...)
	treated, err := g.measure(f.Load)
	if err != nil {
		return fmt.Errorf("treated: %w", err)
	}
	r.Treated, r.Split = maxShare().Of(treated), len(g.splitPairs())
	if disturb {
		if err := g.flap(f, made, r); err != nil {
			return err
		}
	}
	r.Stop = "napitune rollback"
	if tool, ok := treatment.(Tool); ok {
		r.Stop = tool.Stop
	}
	if err := treatment.Undo(); err != nil {
		return err
	}
	left, err := readWidely(device)
	r.Left = append(r.Left, before.Diff(left)...)
	return err
}

// flap takes the link down and up.
func (g *guest) flap(f Fault, made Settings, r *Compared) error {
	g.shell("ip link set eth0 down; ip link set eth0 up; sleep 1")
	flapped, err := readWidely(device)
	if err != nil {
		return err
	}
	r.Flapped = append(r.Flapped, made.Diff(flapped)...)
	w, err := g.measure(f.Load)
	if err != nil {
		return fmt.Errorf("after the flap: %w", err)
	}
	r.FlappedTo = maxShare().Of(w)
	return nil
}

// killed brings the fault about once more and kills the program.
func (g *guest) killed(f Fault, treatment Treatment, r *Compared) error {
	victim, ok := treatment.(interface{ Killed() error })
	tool, other := treatment.(Tool)
	if !ok || other && tool.Kill == "" {
		r.NotKilled = true
		return nil
	}
	g.putBack()
	g.shell(f.Inject)
	before, err := readWidely(device)
	if err != nil {
		return err
	}
	if err := g.during(f.Load, victim.Killed); err != nil {
		return fmt.Errorf("killed: %w", err)
	}
	now, err := readWidely(device)
	r.Killed = append(r.Killed, before.Diff(now)...)
	return err
}

func busiestQueue(w Window) float64 {
	most, sum := 0.0, 0.0
	for name, n := range w.Queues {
		if strings.HasPrefix(name, "rx") {
			most, sum = max(most, float64(n)), sum+float64(n)
		}
	}
	return ratio(most, sum)
}
