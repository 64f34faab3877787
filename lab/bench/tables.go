package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/napitune/napitune/lab/faults"
)

func decode[T any](lines string) ([]T, error) {
	var out []T
	for line := range strings.Lines(lines) {
		var one T
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			return nil, fmt.Errorf("result %.60q: %w", line, err)
		}
		out = append(out, one)
	}
	if len(out) == 0 {
		return nil, errors.New("no results")
	}
	return out, nil
}

// table lays out rows as Markdown.
func table(head []string, rows [][]string) string {
	var out strings.Builder
	line := func(cells []string) {
		fmt.Fprintf(&out, "| %s |\n", strings.Join(cells, " | "))
	}
	line(head)
	out.WriteString(strings.Repeat("|---", len(head)) + "|\n")
	for _, r := range rows {
		for i := range r {
			r[i] = strings.ReplaceAll(r[i], "|", `\|`)
		}
		line(r)
	}
	return out.String()
}

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

// rivalTable has a part for each fault and in it a row for each program.
func rivalTable(lines string) (string, error) {
	results, err := decode[faults.Compared](lines)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for len(results) > 0 {
		first, n := results[0], 0
		var rows [][]string
		for ; n < len(results) && results[n].Fault == first.Fault; n++ {
			rows = append(rows, rivalRow(results[n]))
		}
		results = results[n:]
		if out.Len() > 0 {
			out.WriteString("\n")
		}
		fmt.Fprintf(&out, "### %s\n\nOn %s. Figure: %s; healthy %s", first.Fault, first.Machine, first.Metric, figure(first.Metric, first.Healthy))
		if first.Bound > 0 {
			fmt.Fprintf(&out, ", the busiest queue's share %s", percent(first.Bound))
		}
		if first.HighRate > 0 {
			fmt.Fprintf(&out, "; healthy throughput against itself %.2f to %.2f", first.LowRate, first.HighRate)
		}
		out.WriteString(".\n\n")
		out.WriteString(table([]string{"program", "found", "false alarms", "refused", "settings changed", "figure", "pairs split", "throughput",
			"seconds", "left after undoing", "taken by a link flap", "left after kill -9"}, rows))
	}
	return out.String(), nil
}

// untried lists the faults of the contest that these results lack, and those of
// the lab's table that are no part of the contest.
func untried(lines string) (string, error) {
	results, err := decode[faults.Compared](lines)
	if err != nil {
		return "", err
	}
	done, contest := map[string]bool{}, map[string]bool{}
	for _, r := range results {
		done[r.Fault] = true
	}
	var missing, never []string
	for _, f := range faults.Contest() {
		contest[f.Name] = true
		if !done[f.Name] {
			missing = append(missing, f.Name)
		}
	}
	for _, f := range faults.Table() {
		if !contest[f.Name] && !slices.Contains(never, f.Name) && f.Finding != "" {
			never = append(never, f.Name)
		}
	}
	return named("Not in this run", missing) + named("Not tried on other programs", never), nil
}

func named(what string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "\n" + what + ": " + strings.Join(names, "; ") + ".\n"
}

func rivalRow(r faults.Compared) []string {
	row := []string{r.Tool}
	if r.Error != "" {
		return append(row, "failed: "+firstLine(r.Error), "", "", "", "", "", "", "", "", "", "")
	}
	named, others := found(r)
	return append(row, named, others, count(r.Refused), count(r.Changed), figure(r.Metric, r.Faulty)+" → "+figure(r.Metric, r.Treated),
		fmt.Sprintf("%d → %d", r.SplitBefore, r.Split), throughput(r), seconds(r), left(r), unless(r.NotFlapped, r.Flapped), unless(r.NotKilled, r.Killed))
}

func count(list []string) string { return fmt.Sprint(len(list)) }

// figure shows shares as such; other figures have their unit in their name.
func figure(metric string, value float64) string {
	if strings.Contains(metric, "share") {
		return percent(value)
	}
	return fmt.Sprintf("%.2f", value)
}

// found tells the finding that there must be from the others. A program that
// names settings means the fault if they are those that the fault needs. Where
// nothing is wrong all are false, and so are changes of a program that only acts.
func found(r faults.Compared) (named, others string) {
	var wanted, beyond []string
	for _, f := range r.Found {
		if means(r, f) {
			wanted = append(wanted, f)
			continue
		}
		beyond = append(beyond, f)
	}
	speaks := r.Tool == "napitune" || len(r.Found) > 0
	switch {
	case r.Expected == "":
		named = "–"
	case len(wanted) > 0:
		named = strings.Join(wanted, "; ")
	case speaks:
		named = "no"
	default:
		named = "says nothing"
	}
	switch {
	case len(beyond) > 0:
		others = strings.Join(beyond, "; ")
	case speaks:
		others = "0"
	case r.Expected == "" && len(r.Changed) > 0:
		others = "acts"
	default:
		others = "–"
	}
	return named, others
}

func means(r faults.Compared, found string) bool {
	if r.Expected == "" || r.Tool == "napitune" {
		return r.Expected != "" && strings.HasPrefix(found, r.Expected+" ")
	}
	return slices.ContainsFunc(faults.Contest(), func(f faults.Fault) bool {
		return f.Name == r.Fault && slices.ContainsFunc(f.Changes, func(setting string) bool {
			return setting == found || strings.HasSuffix(setting, "."+found)
		})
	})
}

func throughput(r faults.Compared) string {
	if r.FaultyRate == 0 || r.TreatedRate == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f → %.2f", r.FaultyRate, r.TreatedRate)
}

func seconds(r faults.Compared) string {
	if r.Seconds == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f", r.Seconds)
}

func left(r faults.Compared) string {
	switch {
	case len(r.Changed) == 0 && len(r.Left) == 0:
		return "nothing to undo"
	case r.Stop == "":
		return fmt.Sprintf("%d (no way back)", len(r.Left))
	}
	return count(r.Left)
}

// unless counts what was left of something that was tried.
func unless(not bool, list []string) string {
	if not {
		return "–"
	}
	return count(list)
}

// firstLine leaves out names of scratch files, which say nothing to a reader.
func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	words := slices.DeleteFunc(strings.Split(line, " "), func(word string) bool { return strings.HasPrefix(word, "/tmp/") })
	return strings.Join(words, " ")
}

func faultTable(lines string) (string, error) {
	results, err := decode[faults.Result](lines)
	if err != nil {
		return "", err
	}
	results = lastRuns(results, faults.Result.Row)
	yes := map[bool]string{true: "yes", false: "no"}
	var rows [][]string
	for _, r := range results {
		row := []string{r.Fault, r.Machine}
		if r.Error != "" {
			rows = append(rows, append(row, "failed: "+firstLine(r.Error), "", "", "", "", "", "", "no"))
			continue
		}
		if r.Expected == "" {
			rows = append(rows, append(row, "", yes[r.Found]+looks(r), "", "", "", "", "", holds(r)))
			continue
		}
		figures := ""
		if r.Metric != "" {
			figures = fmt.Sprintf("%.3f → %.3f → %.3f", r.Healthy, r.Faulty, r.Treated)
		}
		rows = append(rows, append(row, r.Expected+": "+yes[r.Found]+judged(r), yes[len(r.FalseOnes) == 0], r.Metric, figures, yes[len(r.Differs) == 0], survived(r), verdict(r), holds(r)))
	}
	return held(results) + table([]string{"fault", "machine", "found", "silent before", "figure", "healthy → faulty → mended", "undone", "after kill -9",
		"apply --measure", "holds"}, rows) + unmeasured(results), nil
}

// held counts the rows that are as the lab's table demands.
func held(results []faults.Result) string {
	hold := 0
	for _, r := range results {
		if holds(r) == "yes" {
			hold++
		}
	}
	return fmt.Sprintf("%d of %d rows hold.\n\n", hold, len(results))
}

// holds is yes, or the first thing that is not as the lab's table demands. Results
// of earlier versions do not say.
func holds(r faults.Result) string {
	switch {
	case r.Complaints == nil:
		return "not recorded"
	case len(r.Complaints) == 0:
		return "yes"
	}
	return "no: " + firstLine(r.Complaints[0])
}

// survived is what differed after applies were killed and recovered from.
func survived(r faults.Result) string {
	switch {
	case r.Killed == nil:
		return "not killed"
	case len(r.Killed) == 0:
		return "as before"
	}
	return "differs: " + strings.Join(r.Killed, "; ")
}

// lastRuns keeps the last result of each name, in the order of the first ones.
func lastRuns[R any](results []R, name func(R) string) []R {
	var out []R
	at := map[string]int{}
	for _, r := range results {
		i, known := at[name(r)]
		if !known {
			i, out = len(out), append(out, r)
			at[name(r)] = i
		}
		out[i] = r
	}
	return out
}

// unmeasured lists what the lab's table has beyond these results.
func unmeasured(results []faults.Result) string {
	done := map[string]bool{}
	for _, r := range results {
		done[r.Fault+" on "+r.Machine] = true
	}
	var missing []string
	all := faults.Table()
	for _, f := range all {
		if name := f.Name + " on " + f.Machine.String(); !done[name] {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("\nNot in this run, %d of the table's %d rows: %s.\n", len(missing), len(all), strings.Join(missing, "; "))
}

// verdict is what apply --measure said, or why it was not asked.
func verdict(r faults.Result) string {
	if r.Verdict == "" && r.Reason != "" {
		return "left out: " + r.Reason
	}
	return r.Verdict
}

func looks(r faults.Result) string {
	if r.Looks < 2 {
		return ""
	}
	return fmt.Sprintf(", %d times", r.Looks)
}

// judged names the thresholds of a row that was not judged by the defaults alone.
func judged(r faults.Result) string {
	out := ""
	for _, t := range r.Thresholds {
		threshold, _, _ := strings.Cut(t, ":")
		out += ", with " + threshold
	}
	return out
}

// foretold is what both kinds of results have in common.
type foretold struct {
	Fault, Machine, Tool, Treatment string
	Predicted, Measured, Busiest    float64
	Changed                         []string
}

func predictionTable(lines string) (string, error) {
	results, err := decode[foretold](lines)
	if err != nil {
		return "", err
	}
	results = lastRuns(results, func(r foretold) string { return r.Fault + "\n" + r.Machine + "\n" + r.Tool + "\n" + r.Treatment })
	var rows [][]string
	for _, r := range results {
		if r.Tool != "" && len(r.Changed) > 0 {
			r.Measured = r.Busiest
		}
		if r.Predicted == 0 || r.Measured == 0 {
			continue
		}
		rows = append(rows, []string{r.Fault, r.Machine, percent(r.Predicted), percent(r.Measured), fmt.Sprintf("%.1f %%", 100*math.Abs(r.Measured-r.Predicted)/r.Predicted)})
	}
	if len(rows) == 0 {
		return "", errors.New("no result with a prediction")
	}
	return table([]string{"fault", "machine", "predicted", "measured", "off by"}, rows), nil
}
