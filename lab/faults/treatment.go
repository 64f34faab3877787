package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Treatment is something that may find and mend what is wrong with a host.
// Those that are no programs of their own start and stop what they need.
type Treatment interface {
	// Name is how results call it.
	Name() string
	// Look says what is wrong, while the load runs, and changes nothing.
	// A treatment that only acts finds nothing.
	Look(f Fault) (Advice, error)
	// Apply mends what it can. The load runs.
	Apply(f Fault) (Judgement, error)
	// Undo takes back what Apply did.
	Undo() error
}

// Advice is what a treatment found and would do.
type Advice struct {
	Findings  []Finding
	Changes   []Change
	Blocked   []string // settings that it wants and cannot have
	Predicted float64  // largest share of one CPU after the changes; 0: not told
	Seconds   float64  // it took
	Report    string   // what it said, for people
}

// Finding is a thing found wrong.
type Finding struct {
	ID       string `json:"id"`
	Severity string `json:"severity"`
	Subject  string `json:"subject"`
	Claim    string `json:"claim"`
	Because  string `json:"because,omitempty"`
}

// Change is a change proposed.
type Change struct {
	Ref    string `json:"ref"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// Judgement is what a treatment measured of its own work.
type Judgement struct {
	Verdict string // better, no different, worse, cannot tell; empty: it measured nothing
	Reason  string // the verdict in one sentence
	// Busiest is the part of one CPU in the time that all those of the placement
	// then spent on packets; 0 where the placement was not by time.
	Busiest float64
	// Predicted is what the plan that was applied foretold, if it was made anew.
	Predicted float64
}

// Treatments lists what can be tried, by name. Other tools are added here.
// Napitune measures its changes for ten sub-windows of half a second: those of
// a tenth, which 1s allows, are as long as a reading takes in a guest.
func Treatments(scratch string) []Treatment {
	return []Treatment{Present{}, &Napitune{Scratch: scratch, Window: 4 * time.Second, Measure: 5 * time.Second}}
}

// Present leaves everything as it is: the control.
type Present struct{}

// Name implements Treatment.
func (Present) Name() string { return "present" }

// Look implements Treatment.
func (Present) Look(Fault) (Advice, error) { return Advice{}, nil }

// Apply implements Treatment.
func (Present) Apply(Fault) (Judgement, error) { return Judgement{}, nil }

// Undo implements Treatment.
func (Present) Undo() error { return nil }

// Napitune runs the real command, from /lab/bin or the PATH.
type Napitune struct {
	Scratch string        // directory for a policy, and for the plan between Look and Apply
	Window  time.Duration // of each look
	Measure time.Duration // before and after the changes, each; 0: not at all

	applied int // plans that were carried out and not undone
}

// Policy is one of napitune's own profiles with other thresholds.
func Policy(extends string, slow ...Threshold) string {
	var out strings.Builder
	out.WriteString("name: lab\ndescription: A guest under emulation, whose CPUs are slow.\nextends: " + extends + "\n")
	for i, t := range slow {
		if i == 0 {
			out.WriteString("thresholds:\n")
		}
		fmt.Fprintf(&out, "  %s:\n    value: %s\n    why: %s\n", t.Name, strconv.FormatFloat(t.Value, 'f', -1, 64), t.Why)
	}
	return out.String()
}

// policy is the default with the thresholds of one row, "" where it has none.
func (f Fault) policy() string {
	if len(f.Slow) == 0 {
		return ""
	}
	return Policy("balanced", f.Slow...)
}

func (n *Napitune) plan() string { return filepath.Join(n.Scratch, "plan.json") }

// Name implements Treatment.
func (*Napitune) Name() string { return "napitune" }

// Look implements Treatment. Where the fault does not need probes it goes
// without: the CPUs of a guest take turns on one thread, so that the time that
// a poll takes says mostly when the next turn came.
func (n *Napitune) Look(f Fault) (Advice, error) {
	start := time.Now()
	args := append([]string{"advise", "--for", f.long(n.Window).String(), "--format", "json", "-o", n.plan()}, probing(f)...)
	if text := f.policy(); text != "" {
		judge := filepath.Join(n.Scratch, "lab.yaml")
		if err := os.WriteFile(judge, []byte(text), 0o644); err != nil {
			return Advice{}, err
		}
		args = append(args, "--profile", judge)
	}
	said, _, code, err := n.run(args...)
	if err != nil {
		return Advice{}, err
	}
	if code != 0 && code != 2 {
		return Advice{}, fmt.Errorf("napitune advise ended with %d", code)
	}
	a, err := parseAdvice(said)
	a.Seconds = time.Since(start).Seconds()
	return a, err
}

func (f Fault) long(t time.Duration) time.Duration { return t * time.Duration(max(1, f.Long)) }

// probing leaves the probes out where the fault does not need them.
func probing(f Fault) []string {
	if f.Probes {
		return nil
	}
	return []string{"--no-bpf"}
}

// Apply implements Treatment. What measured worse was rolled back by the
// command itself, which is an error here.
func (n *Napitune) Apply(f Fault) (Judgement, error) {
	n.applied = 0
	judged, err := n.apply(f)
	if !f.Contested {
		return judged, err
	}
	// Another program goes on between two looks: what was right in the first may
	// be wrong in the next, and the other way round.
	for tries := 0; tries < 4; tries++ {
		if err != nil && !strings.Contains(err.Error(), "it changes nothing") {
			return judged, err
		}
		again, failed := n.Look(f)
		if failed != nil {
			return judged, failed
		}
		if len(again.Changes) == 0 {
			return judged, nil
		}
		judged, err = n.apply(f)
		judged.Predicted = again.Predicted
	}
	return judged, err
}

// applying is how any plan of a row is applied.
func applying(f Fault) []string {
	args := append([]string{"apply", "--yes", "--max-disruption", "link", "--format", "json"}, probing(f)...)
	if f.Contested {
		args = append(args, "--owner", "ban")
	}
	return args
}

// Kill applies what Look planned and kills the program some time after it began
// to write its journal. What it had done is left. It reports whether the program
// was still at work.
func (n *Napitune) Kill(f Fault, after time.Duration) (bool, error) {
	_, err := Interrupt(exec.Command("napitune", append(applying(f), n.plan())...), after, func(p *os.Process) { _ = p.Kill() })
	if Killed(err) {
		return true, nil
	}
	return false, err
}

// Recover takes back what a killed program left, which may be nothing.
func (n *Napitune) Recover() error {
	said, err := exec.Command("napitune", "rollback").CombinedOutput()
	if err != nil && !strings.Contains(string(said), "no such transaction") {
		return fmt.Errorf("napitune rollback after a kill: %w: %s", err, said)
	}
	return nil
}

// Dies is what remains of an apply that is killed at work, and of a rollback after it.
func (n *Napitune) Dies(f Fault) (killed bool, err error) {
	// A plan of one change may be done before it can be killed.
	for tries := 0; tries < 5 && !killed && err == nil; tries++ {
		if killed, err = n.Kill(f, 0); err == nil {
			err = n.Recover()
		}
	}
	return killed, err
}

func (n *Napitune) apply(f Fault) (Judgement, error) {
	args := applying(f)
	measure := n.Measure > 0 && f.Untimed == ""
	if measure {
		args = append(args, "--measure", f.long(n.Measure).String())
	}
	said, err := n.must(append(args, n.plan())...)
	if err == nil {
		n.applied++
	}
	if !measure || len(said) == 0 {
		return Judgement{Reason: f.Untimed}, err
	}
	judged, unread := parseJudgement(said)
	return judged, errors.Join(err, unread)
}

// parseJudgement reads the answer of apply (testdata/schema/transaction.schema.json).
func parseJudgement(text []byte) (Judgement, error) {
	var in struct {
		Measured *struct {
			Verdict string `json:"verdict"`
			Reason  string `json:"reason"`
			Basis   string `json:"load_basis"`
			Load    []struct {
				Predicted *float64 `json:"predicted"`
				After     float64  `json:"after"`
			} `json:"load"`
		} `json:"measured"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return Judgement{}, fmt.Errorf("answer of napitune apply: %w", err)
	}
	if in.Measured == nil {
		return Judgement{}, errors.New("napitune apply measured nothing")
	}
	out := Judgement{Verdict: in.Measured.Verdict, Reason: in.Measured.Reason}
	sum, most := 0.0, 0.0
	for _, cpu := range in.Measured.Load {
		if cpu.Predicted != nil && in.Measured.Basis == "of a CPU" {
			sum, most = sum+cpu.After, max(most, cpu.After)
		}
	}
	out.Busiest = ratio(most, sum)
	return out, nil
}

// Undo implements Treatment. What was applied last is taken back first.
func (n *Napitune) Undo() error {
	_, err := n.must("rollback")
	for ; n.applied > 1 && err == nil; n.applied-- {
		_, err = n.must("rollback")
	}
	return err
}

// must runs napitune and takes nothing but success. What it said is told in
// either case.
func (n *Napitune) must(args ...string) ([]byte, error) {
	stdout, stderr, code, err := n.run(args...)
	if err == nil && code != 0 {
		err = fmt.Errorf("napitune %s ended with %d: %s", strings.Join(args, " "), code, stderr)
	}
	return stdout, err
}

// run runs napitune. Its exit status is no error, but where it is that of one.
func (n *Napitune) run(args ...string) (stdout, stderr []byte, code int, err error) {
	command := exec.Command("napitune", args...)
	var out, said bytes.Buffer
	command.Stdout, command.Stderr = &out, &said
	err = command.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.Exited() {
		code, err = ended.ExitCode(), nil
	}
	if code == 1 {
		err = fmt.Errorf("napitune %s: %s", strings.Join(args, " "), said.String())
	}
	return out.Bytes(), said.Bytes(), code, err
}

// advice is the part of the answer (testdata/schema/advice.schema.json) that
// is judged here.
type advice struct {
	Findings []Finding `json:"findings"`
	Plan     struct {
		Changes []Change `json:"changes"`
		Blocked []struct {
			Ref    string `json:"ref"`
			Reason string `json:"reason"`
		} `json:"blocked"`
	} `json:"plan"`
	Placement []struct {
		CPUs []struct {
			Predicted float64 `json:"predicted"`
		} `json:"cpus"`
	} `json:"placement"`
}

func parseAdvice(text []byte) (Advice, error) {
	var in advice
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&in); err != nil {
		return Advice{}, fmt.Errorf("napitune's answer: %w", err)
	}
	out := Advice{Findings: in.Findings, Changes: in.Plan.Changes, Report: string(text)}
	for _, b := range in.Plan.Blocked {
		out.Blocked = append(out.Blocked, b.Ref+": "+b.Reason)
	}
	// Loads are in the unit of their basis; as shares they can be measured.
	if len(in.Placement) > 0 {
		sum, most := 0.0, 0.0
		for _, cpu := range in.Placement[0].CPUs {
			sum += cpu.Predicted
			most = max(most, cpu.Predicted)
		}
		out.Predicted = ratio(most, sum)
	}
	return out, nil
}

// finds reports whether something of that name asks for action.
func (a Advice) finds(id string) bool {
	return slices.ContainsFunc(a.alarms(), func(alarm string) bool { return strings.HasPrefix(alarm, id+" ") })
}

// alarms are the findings that ask for action, notes left out.
func (a Advice) alarms() []string {
	var out []string
	for _, f := range a.Findings {
		if f.Severity != "note" {
			out = append(out, f.ID+" "+f.Subject)
		}
	}
	return out
}

// demands are the findings and changes that ask for action.
func (a Advice) demands() []string {
	out := a.alarms()
	for _, c := range a.Changes {
		out = append(out, fmt.Sprintf("%s %s → %s", c.Ref, c.Before, c.After))
	}
	return out
}

// lookupNapitune says early that the command is not where it should be.
func lookupNapitune() error {
	if _, err := exec.LookPath("napitune"); err != nil {
		return fmt.Errorf("%w (PATH is %s)", err, os.Getenv("PATH"))
	}
	return nil
}
