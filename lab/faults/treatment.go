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
	Apply(f Fault) error
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

// Treatments lists what can be tried, by name. Other tools are added here.
func Treatments(scratch string) []Treatment {
	return []Treatment{Present{}, &Napitune{Scratch: scratch, Window: 4 * time.Second}}
}

// Present leaves everything as it is: the control.
type Present struct{}

// Name implements Treatment.
func (Present) Name() string { return "present" }

// Look implements Treatment.
func (Present) Look(Fault) (Advice, error) { return Advice{}, nil }

// Apply implements Treatment.
func (Present) Apply(Fault) error { return nil }

// Undo implements Treatment.
func (Present) Undo() error { return nil }

// Napitune runs the real command, from /lab/bin or the PATH.
type Napitune struct {
	Scratch string        // directory for the policy, and for the plan between Look and Apply
	Window  time.Duration // of each measurement
}

// Policy is how the lab judges: by one of napitune's own profiles, but packets
// cost more under emulation than that calls plain.
func Policy(extends string) string {
	return `name: lab
description: Guests under emulation, whose CPUs are slow.
extends: ` + extends + `
thresholds:
  packet-cost:
    value: 200000
    why: every packet is dear where each instruction is emulated
  gro-packet-rate:
    value: 1000
    why: so merging pays at lower rates, and a guest digests no higher ones
`
}

func (n *Napitune) plan() string { return filepath.Join(n.Scratch, "plan.json") }

// Name implements Treatment.
func (*Napitune) Name() string { return "napitune" }

// Look implements Treatment. Where the fault does not need probes it goes
// without: the CPUs of a guest take turns on one thread, so that the time that
// a poll takes says mostly when the next turn came.
func (n *Napitune) Look(f Fault) (Advice, error) {
	start := time.Now()
	judge := filepath.Join(n.Scratch, "lab.yaml")
	if err := os.WriteFile(judge, []byte(Policy("balanced")), 0o644); err != nil {
		return Advice{}, err
	}
	args := []string{"advise", "--profile", judge, "--for", n.Window.String(), "--format", "json", "-o", n.plan()}
	if !f.Probes {
		args = append(args, "--no-bpf")
	}
	said, code, err := n.run(args...)
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

// Apply implements Treatment.
func (n *Napitune) Apply(f Fault) error {
	args := []string{"apply", "--yes", "--max-disruption", "link"}
	if f.Contested {
		args = append(args, "--owner", "ban")
	}
	return n.must(append(args, n.plan())...)
}

// Undo implements Treatment.
func (n *Napitune) Undo() error { return n.must("rollback") }

func (n *Napitune) must(args ...string) error {
	said, code, err := n.run(args...)
	if err == nil && code != 0 {
		err = fmt.Errorf("napitune %s ended with %d: %s", strings.Join(args, " "), code, said)
	}
	return err
}

func (n *Napitune) run(args ...string) (stdout []byte, code int, err error) {
	command := exec.Command("napitune", args...)
	var out, said bytes.Buffer
	command.Stdout, command.Stderr = &out, &said
	err = command.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.Exited() {
		if ended.ExitCode() == 1 {
			return nil, 1, fmt.Errorf("napitune %s: %s", strings.Join(args, " "), said.String())
		}
		return append(out.Bytes(), said.Bytes()...), ended.ExitCode(), nil
	}
	return out.Bytes(), 0, err
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

// finds reports whether something of that name was found.
func (a Advice) finds(id string) bool {
	return slices.ContainsFunc(a.Findings, func(f Finding) bool { return f.ID == id })
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

// lookupNapitune says early that the command is not where it should be.
func lookupNapitune() error {
	if _, err := exec.LookPath("napitune"); err != nil {
		return fmt.Errorf("%w (PATH is %s)", err, os.Getenv("PATH"))
	}
	return nil
}
