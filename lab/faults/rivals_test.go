package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every fault of the contest has a figure and, where tuned can set what it is
// about, a profile by hand: it has no plugin for RSS tables, and ethtool in a
// script could not put one back.
func TestContest(t *testing.T) {
	for _, f := range Contest() {
		if f.Metric.Name == "" {
			t.Errorf("%s has no figure", f.Name)
		}
		if _, known := byHand(f); known != (f.Finding != "" && f.Finding != "rss-skew") {
			t.Errorf("%s: finding %q, profile by hand: %v", f.Name, f.Finding, known)
		}
	}
}

// A table is told from the rest of what ethtool shows.
func TestSpread(t *testing.T) {
	const view = `RX flow hash indirection table for eth0 with 4 RX ring(s):
    0:      0     1     2     3     0     1     2     3
    8:      0     0
RSS hash key:
7d:06:66:1e
RSS hash function:
    toeplitz: on
`
	if got, want := spread(view), []int{0, 1, 2, 3, 0, 1, 2, 3, 0, 0}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := spread("Cannot get RX ring count: Operation not supported\n"); got != nil {
		t.Errorf("no table is %v", got)
	}
}

func TestTried(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r")
	if done, err := Tried(path); err != nil || len(done) > 0 {
		t.Errorf("no file: %v, %v", done, err)
	}
	if err := os.WriteFile(path, []byte(`{"fault":"a","tool":"x"}`+"\n"+`{"fault":"b"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if done, err := Tried(path); err != nil || !done["a"] || !done["b"] || done["c"] {
		t.Errorf("%v, %v", done, err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Tried(path); err == nil {
		t.Error("half a line is a result")
	}
}

// What a program says and what it could not do are told apart, each once.
func TestToolTold(t *testing.T) {
	said := map[string]string{
		"perftune.py":   "Setting mask 1 in /x\nSetting mask 2 in /y: failed to write into /y: (OSError)\nSetting mask 2 in /y: failed to write into /y: (OSError)\n",
		"bpftune, 30 s": "bpftune: Due to excessive drops, change net.core.netdev_max_backlog from (8) -> (10)\nbpftune: so change net.core.netdev_max_backlog from (10) -> (12)\n",
	}
	tried := 0
	for _, tool := range Tools(Fault{}) {
		text, known := said[tool.Title]
		if !known {
			continue
		}
		tried++
		tool.said, tool.Log = []byte(text), ""
		finds, refused := tool.told(tool.Finds), tool.told(tool.Refuse)
		if tool.Title == "perftune.py" && (len(finds) > 0 || len(refused) != 1) ||
			tool.Title != "perftune.py" && (len(refused) > 0 || !slices.Equal(finds, []string{"net.core.netdev_max_backlog"})) {
			t.Errorf("%s: finds %q, could not %q", tool.Title, finds, refused)
		}
	}
	if tried != len(said) {
		t.Errorf("%d of %d programs are there", tried, len(said))
	}
}

// A program that ended before it could be killed was not killed, and a kill that
// fails otherwise is an error.
func TestDies(t *testing.T) {
	for kill, want := range map[string]struct{ killed, fails bool }{
		"": {}, "true": {killed: true}, "exit 77": {}, "exit 1": {fails: true},
	} {
		killed, err := (&Tool{Kill: kill}).Dies(Fault{})
		if killed != want.killed || (err != nil) != want.fails {
			t.Errorf("%q: killed %v, %v", kill, killed, err)
		}
	}
}

// TestRivals tries other programs on the faults that LAB_FAULTS names, one
// after another on each in the same guest: go run ./lab/cmd/lab rivals boots one
// for each fault.
func TestRivals(t *testing.T) {
	if os.Getenv("NAPITUNE_GUEST") == "" {
		t.Skip("this is no guest of the lab: run go run ./lab/cmd/lab rivals")
	}
	names := strings.Split(os.Getenv("LAB_FAULTS"), "\n")
	for _, f := range Contest() {
		if !slices.Contains(names, f.Name) {
			continue
		}
		c := contest{guest: openGuest(t, f.Prepare), fault: f}
		var err error
		if c.pristine, err = readWidely(device); err != nil {
			t.Fatal(err)
		}
		for _, r := range c.run(t) {
			line, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			appendLine(t, line)
			t.Logf("%s", line)
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

// contest is all programs on one fault.
type contest struct {
	*guest
	fault   Fault
	healthy float64
	broken  Settings // the state with the fault
}

// run lets each program treat the fault, then measures throughput in all the
// states that they made, the healthy and the faulty one, in turn.
func (c *contest) run(t *testing.T) []Compared {
	healthy, err := c.measure(c.fault.Load)
	if err != nil {
		t.Fatalf("healthy: %v", err)
	}
	c.healthy = c.fault.Metric.Of(healthy)
	treatments := []Treatment{&Napitune{Scratch: t.TempDir(), Window: 3 * time.Second}}
	for _, tool := range Tools(c.fault) {
		if tool.Tried() {
			treatments = append(treatments, tool)
			continue
		}
		t.Logf("not tried: %s, because there is no %s", tool.Title, tool.Needs)
	}
	var out []Compared
	if c.broken, err = c.bringAbout(); err != nil {
		t.Fatalf("the fault: %v", err)
	}
	states := []Settings{c.pristine, c.broken}
	for _, treatment := range treatments {
		r, made := c.compare(treatment)
		t.Logf("%s: %.1f s, %d changed, %.3f → %.3f, left %q, killed %q %s", r.Tool, r.Seconds, len(r.Changed), r.Faulty, r.Treated, r.Left, r.Killed, r.Error)
		out, states = append(out, r), append(states, made)
		c.putBack()
	}
	shares := c.rates(t, states)
	for i := range out {
		r := &out[i]
		r.FaultyRate, r.TreatedRate = middle(shares[1]), middle(shares[2+i])
		if noise := shares[0]; len(noise) > 0 {
			r.LowRate, r.HighRate = slices.Min(noise), slices.Max(noise)
		}
	}
	c.putBack()
	return out
}

// bringAbout reads the state with the fault.
func (c *contest) bringAbout() (Settings, error) {
	if err := c.inject(c.fault); err != nil {
		return nil, err
	}
	made, err := readWidely(device)
	c.putBack()
	return made, err
}

// rates are the throughputs of states as shares of that of the first, in every
// round, each measured right after the first: what else the host is doing
// changes in seconds. What is no state, or cannot be brought about by writing
// it, has none.
func (c *contest) rates(t *testing.T, states []Settings) [][]float64 {
	const rounds = 3
	shares := make([][]float64, len(states))
	if c.fault.Load.Guest || c.fault.Contested {
		return shares // nobody counts at the other end, or who fights makes states of its own
	}
	for round := range rounds {
		for i, state := range states {
			share, err := c.rateAgainst(states[0], state, round == 0)
			if err != nil {
				t.Logf("throughput of state %d: %v", i, err)
				c.putBack()
				continue
			}
			shares[i] = append(shares[i], share)
		}
	}
	t.Logf("throughputs as shares of the healthy one: %.2f", shares)
	return shares
}

// middle is the median, 0 of nothing.
func middle(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(values))[len(values)/2]
}

// rateAgainst goes from one state to another and back. Checking that both came
// about takes longer than the rest and is done once.
func (c *contest) rateAgainst(healthy, state Settings, check bool) (float64, error) {
	if state == nil {
		return 0, errors.New("there is none")
	}
	bring := Settings.write
	if check {
		bring = Settings.become
	}
	first, err := c.delivered()
	if err != nil {
		return 0, err
	}
	if err := bring(healthy, device, state); err != nil {
		return 0, err
	}
	second, err := c.delivered()
	if err != nil {
		return 0, err
	}
	return ratio(second, first), bring(state, device, healthy)
}

// delivered makes the fault's load and returns what part of the packets sent
// went up the stack, or the bytes of a second. Flooding the guest instead was
// tried: on a busy host the healthy state differed from itself by a factor of
// four. Some packets go ahead: an interrupt moves only when it next fires.
func (c *contest) delivered() (float64, error) {
	l := c.fault.Load
	if l.Kind == "tcp" {
		sent, err := c.send(l)
		return ratio(float64(sent.Bytes), sent.Seconds), err
	}
	first := l
	first.PerSecond, first.Burst, first.Packets, first.Seconds = 5000, 0, 4*l.Flows, 0
	if _, err := c.send(first); err != nil {
		return 0, err
	}
	before, err := processed()
	if err != nil {
		return 0, err
	}
	sent, err := c.send(l)
	if err != nil {
		return 0, err
	}
	after, err := processed()
	return ratio(total(after.since(before).Processed), float64(sent.Packets)), err
}

// processed reads the counters of CPUs alone, which takes no other process,
// once what is on its way has arrived.
func processed() (Counters, error) {
	last := Counters{}
	for range 40 {
		text, err := os.ReadFile("/proc/net/softnet_stat")
		if err != nil {
			return Counters{}, err
		}
		now, err := parseSoftnet(text)
		if err != nil || last.Processed != nil && total(now.Processed) == total(last.Processed) {
			return now, err
		}
		last = now
		time.Sleep(200 * time.Millisecond)
	}
	return last, nil
}

// putBack makes the guest healthy again, whatever was left.
func (c *contest) putBack() {
	c.t.Helper()
	if c.fault.Contested { // who goes on writing ends first
		c.shell(c.fault.Undo)
	}
	now, err := readWidely(device)
	if err == nil {
		err = now.become(device, c.pristine)
	}
	if err != nil {
		c.t.Fatalf("the guest is not as it was: %v", err)
	}
}

// compare lets one program treat the fault; made is the state that came of it.
func (c *contest) compare(treatment Treatment) (r Compared, made Settings) {
	f := c.fault
	r = Compared{Fault: f.Name, Machine: f.Machine.String(), Tool: treatment.Name(), Expected: f.Finding, Metric: f.Metric.Name, Lower: f.Metric.Lower,
		Healthy: c.healthy, Changed: []string{}, Left: []string{}, Flapped: []string{}, Killed: []string{}, NotFlapped: true, NotKilled: true}
	made, err := c.steps(treatment, &r)
	if err != nil {
		r.Error = err.Error()
	}
	return r, made
}

func (c *contest) steps(treatment Treatment, r *Compared) (made Settings, err error) {
	f := c.fault
	if err := c.inject(f); err != nil {
		return nil, err
	}
	faulty, err := c.measure(f.Load)
	if err != nil {
		return nil, fmt.Errorf("faulty: %w", err)
	}
	r.Faulty, r.SplitBefore = f.Metric.Of(faulty), len(c.splitPairs())
	if r.Metric == maxShare().Name {
		r.Bound = busiestQueue(faulty)
	}
	before := c.broken
	if f.Contested { // as it happens to be by now
		if before, err = readWidely(device); err != nil {
			return nil, err
		}
	}
	var advice Advice
	if err := c.during(f.Load, func() (err error) { advice, err = treatment.Look(f); return err }); err != nil {
		return nil, err
	}
	r.Found, r.Predicted = advice.alarms(), advice.Predicted
	tool, other := treatment.(*Tool)
	if !other && len(advice.Changes) == 0 {
		if f.Finding != "" {
			c.t.Logf("%s proposes nothing: %s", treatment.Name(), advice.Report)
		}
		r.Treated, r.Split, r.Stop = r.Faulty, r.SplitBefore, "nothing to undo"
		return before, nil
	}
	start := time.Now()
	if err := c.during(f.Load, func() error { _, err := treatment.Apply(f); return err }); err != nil {
		return nil, err
	}
	r.Seconds = time.Since(start).Seconds()
	made, err = c.after(treatment, before, r)
	if other {
		r.Found, r.Refused = tool.told(tool.Finds), tool.told(tool.Refuse)
	}
	if err != nil || f.Finding == "" || f.Contested {
		return made, err
	}
	return made, c.killed(treatment, r)
}

// after measures what a program made, flaps the link and has it undone.
func (c *contest) after(treatment Treatment, before Settings, r *Compared) (made Settings, err error) {
	if err := c.letFight(c.fault); err != nil {
		return nil, err
	}
	treated, err := c.measure(c.fault.Load)
	if err != nil {
		return nil, fmt.Errorf("treated: %w", err)
	}
	r.Treated, r.Busiest, r.Split = c.fault.Metric.Of(treated), maxShare().Of(treated), len(c.splitPairs())
	if made, err = readWidely(device); err != nil {
		return nil, err
	}
	r.Changed = append(r.Changed, before.Diff(made)...)
	if c.fault.Finding != "" && !c.fault.Contested {
		if err := c.flap(made, r); err != nil {
			return made, err
		}
	}
	r.Stop = "napitune rollback"
	if tool, ok := treatment.(*Tool); ok {
		r.Stop = tool.Stop
	}
	if err := treatment.Undo(); err != nil {
		return made, err
	}
	left, err := readWidely(device)
	r.Left = append(r.Left, c.fault.left(before, left)...)
	return made, err
}

// flap takes the link down and up.
func (c *contest) flap(made Settings, r *Compared) error {
	c.shell("ip link set eth0 down; ip link set eth0 up; sleep 1")
	flapped, err := readWidely(device)
	r.Flapped, r.NotFlapped = append(r.Flapped, made.Diff(flapped)...), false
	return err
}

// killed brings the fault about once more and kills the program.
func (c *contest) killed(treatment Treatment, r *Compared) error {
	victim, ok := treatment.(interface {
		Dies(f Fault) (killed bool, err error)
	})
	if !ok {
		return nil
	}
	c.putBack()
	if err := c.inject(c.fault); err != nil {
		return err
	}
	killed := false
	if err := c.during(c.fault.Load, func() (err error) { killed, err = victim.Dies(c.fault); return err }); err != nil {
		return fmt.Errorf("killed: %w", err)
	}
	now, err := readWidely(device)
	r.Killed, r.NotKilled = append(r.Killed, c.broken.Diff(now)...), !killed
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
