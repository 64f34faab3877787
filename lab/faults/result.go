package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// Result is how one treatment fared with one fault on one machine: a JSON line.
type Result struct {
	Fault     string `json:"fault"`
	Machine   string `json:"machine"`
	Treatment string `json:"treatment"`
	Expected  string `json:"expected,omitempty"` // the finding there must be
	Found     bool   `json:"found"`              // it was there, or nothing was where nothing is wrong
	Looks     int    `json:"looks,omitempty"`    // how often a healthy machine was looked at
	Probes    bool   `json:"probes,omitempty"`   // eBPF programs took part
	// Thresholds are those that the row was judged with instead of the default,
	// each with the reason.
	Thresholds []string `json:"thresholds,omitempty"`
	Claim      string   `json:"claim,omitempty"`   // what the finding said
	Alarms     []string `json:"alarms,omitempty"`  // all that asks for action, faulty
	FalseOnes  []string `json:"false,omitempty"`   // the same, healthy
	Changes    []string `json:"changes,omitempty"` // proposed
	Beyond     []string `json:"beyond,omitempty"`  // proposed beyond what the fault needs
	Missed     []string `json:"missed,omitempty"`  // patterns of settings that had to change and did not
	Blocked    []string `json:"blocked,omitempty"` // wanted and impossible
	Rate       int      `json:"rate,omitempty"`    // packets or writes sent in a second
	Metric     string   `json:"metric,omitempty"`
	Healthy    float64  `json:"healthy"`             // the metric before the fault,
	Faulty     float64  `json:"faulty"`              // with it,
	Treated    float64  `json:"treated"`             // and after the treatment
	Predicted  float64  `json:"predicted,omitempty"` // largest share of one CPU that was foretold
	Measured   float64  `json:"measured,omitempty"`  // and that came
	Verdict    string   `json:"verdict,omitempty"`   // of apply --measure
	Reason     string   `json:"reason,omitempty"`    // the verdict in a sentence, or why there is none
	Split      []string `json:"split,omitempty"`     // queue pairs on two CPUs after the treatment
	Differs    []string `json:"differs,omitempty"`   // from the state before the treatment, after undoing it
	Killed     []string `json:"killed"`              // the same, after applies that were killed and recovered from; null: none was killed
	Seconds    float64  `json:"look_seconds,omitempty"`
	Report     string   `json:"report,omitempty"` // all that the treatment said
	Error      string   `json:"error,omitempty"`
	// Complaints are what is not as the fault demands; null: it was not judged.
	Complaints []string `json:"complaints"`
}

// Row names what a result is of.
func (r Result) Row() string { return r.Fault + "\n" + r.Machine + "\n" + r.Treatment }

// Recorded counts the results of each row in a file. One that is not there has none.
func Recorded(path string) (map[string]int, error) {
	out := map[string]int{}
	err := eachLine(path, func(r Result) { out[r.Row()]++ })
	return out, err
}

// eachLine reads a file of JSON lines. One that is not there has none.
func eachLine[T any](path string, do func(T)) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || path == "" {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range bytes.Lines(text) {
		var r T
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("%s: result %.60q: %w", path, line, err)
		}
		do(r)
	}
	return nil
}

// match compares proposed changes with the patterns of a fault.
func match(changes []Change, patterns []string) (all, beyond, missed []string) {
	used := map[string]bool{}
	for _, c := range changes {
		all = append(all, fmt.Sprintf("%s %s → %s", c.Ref, c.Before, c.After))
		i := slices.IndexFunc(patterns, func(p string) bool { return fits(p, c.Ref) })
		if i < 0 {
			beyond = append(beyond, c.Ref)
			continue
		}
		used[patterns[i]] = true
	}
	for _, p := range patterns {
		if !used[p] {
			missed = append(missed, p)
		}
	}
	return all, beyond, missed
}

func fits(pattern, ref string) bool {
	ok, err := path.Match(pattern, ref)
	return ok && err == nil
}

// Judge lists what is not as the fault demands of a tool that finds and
// mends. The table and not the tool decides what is needed.
func (r Result) Judge(f Fault) []string {
	out := []string{}
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if r.Error != "" {
		say("%s", r.Error)
	}
	if len(r.FalseOnes) > 0 {
		say("on the healthy machine it wants: %s", strings.Join(r.FalseOnes, "; "))
	}
	if !r.Found && f.Finding != "" {
		say("no finding %s, but: %s", f.Finding, strings.Join(r.Alarms, "; "))
	}
	if r.Found && f.Subject != "" && !slices.Contains(r.Alarms, f.Finding+" "+f.Subject) {
		say("%s is not about %s: %s", f.Finding, f.Subject, strings.Join(r.Alarms, "; "))
	}
	if others := f.strange(r.Alarms); len(others) > 0 {
		say("the fault does not explain: %s", strings.Join(others, "; "))
	}
	if !r.Found && f.Finding == "" {
		say("nothing is wrong, but it finds: %s", strings.Join(r.Alarms, "; "))
	}
	if len(r.Beyond) > 0 {
		say("changes beyond need: %s", strings.Join(r.Beyond, " "))
	}
	if len(r.Missed) > 0 && !f.Contested {
		say("no change of: %s", strings.Join(r.Missed, " "))
	}
	if r.Verdict == "worse" {
		say("apply --measure says worse: %s", r.Reason)
	}
	if len(r.Split) > 0 {
		say("queue pairs left on two CPUs: %s", strings.Join(r.Split, " "))
	}
	if len(r.Differs) > 0 {
		say("undoing left: %s", strings.Join(r.Differs, "; "))
	}
	if len(r.Killed) > 0 {
		say("recovering from a kill left: %s", strings.Join(r.Killed, "; "))
	}
	return append(out, r.figures(f)...)
}

// strange lists alarms that are neither the fault nor what it may bring about.
func (f Fault) strange(alarms []string) []string {
	if f.Finding == "" {
		return nil
	}
	// Any load may keep an emulated CPU busy for as long as ksoftirqd needs to start.
	known := append([]string{f.Finding, "ksoftirqd-busy"}, f.Beside...)
	return slices.DeleteFunc(slices.Clone(alarms), func(alarm string) bool {
		id, _, _ := strings.Cut(alarm, " ")
		return slices.ContainsFunc(known, func(p string) bool { return fits(p, id) })
	})
}

// predictionError is how far the predicted load of the busiest CPU may be from
// the measured one.
const predictionError = 0.15

func (r Result) figures(f Fault) []string {
	var out []string
	if f.Finding == "" || f.Silent {
		return nil
	}
	if !worse(f.Metric, r.Faulty, r.Healthy) {
		out = append(out, fmt.Sprintf("the fault does not show: %s is %.3f and was %.3f", f.Metric.Name, r.Faulty, r.Healthy))
	}
	if well := f.well(); !f.Metric.near(r.Treated, r.Healthy, well) {
		out = append(out, fmt.Sprintf("%s is %.3f after the treatment, not %g of the healthy %.3f", f.Metric.Name, r.Treated, well, r.Healthy))
	}
	foretold := r.Predicted > 0 && r.Measured > 0
	if f.places() && !foretold {
		out = append(out, fmt.Sprintf("interrupts are placed and the busiest CPU's share is not known: predicted %.3f, measured %.3f", r.Predicted, r.Measured))
	}
	if foretold && (r.Measured > r.Predicted*(1+predictionError) || r.Measured < r.Predicted*(1-predictionError)) {
		out = append(out, fmt.Sprintf("the busiest CPU has a share of %.3f, predicted was %.3f", r.Measured, r.Predicted))
	}
	return out
}

// places reports whether the fault is mended by moving interrupts alone, for which
// every plan foretells the loads.
func (f Fault) places() bool {
	return !f.Contested && slices.ContainsFunc(f.Changes, func(p string) bool { return path.Base(p) == "irq.affinity" })
}

func (f Fault) well() float64 {
	if f.Well > 0 {
		return f.Well
	}
	return 0.95
}

// noise is what shares and ratios near zero differ by between two runs.
const noise = 0.02

// near reports whether a figure is at least a share of the healthy one.
func (m Metric) near(value, healthy, share float64) bool {
	if m.Lower {
		return value*share <= healthy+noise
	}
	return value >= share*healthy-noise
}

func worse(m Metric, faulty, healthy float64) bool {
	return !m.near(faulty, healthy, 0.8)
}
