package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
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

func rivalTable(lines string) (string, error) {
	results, err := decode[faults.Compared](lines)
	if err != nil {
		return "", err
	}
	var rows [][]string
	for _, r := range results {
		row := []string{r.Fault, r.Tool}
		if r.Error != "" {
			rows = append(rows, append(row, "failed: "+firstLine(r.Error), "", "", "", "", "", "", "", ""))
			continue
		}
		rows = append(rows, append(row, found(r), fmt.Sprint(len(r.Changed)), percent(r.Faulty)+" → "+percent(r.Treated), percent(r.Bound),
			fmt.Sprintf("%d → %d", r.SplitBefore, r.Split), seconds(r), left(r), flapped(r), killed(r)))
	}
	return table([]string{"fault", "program", "found", "settings changed", "busiest CPU", "bound", "pairs split", "seconds", "left after undoing", "taken by a link flap", "left after kill -9"}, rows), nil
}

func found(r faults.Compared) string {
	switch {
	case len(r.Found) > 0:
		return strings.Join(r.Found, "; ")
	case r.Tool == "napitune":
		return "nothing"
	}
	return "–"
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
	return fmt.Sprint(len(r.Left))
}

func flapped(r faults.Compared) string {
	if len(r.Changed) == 0 || r.FlappedTo == 0 {
		return "–"
	}
	return fmt.Sprint(len(r.Flapped))
}

func killed(r faults.Compared) string {
	if r.NotKilled || len(r.Changed) == 0 && len(r.Killed) == 0 {
		return "–"
	}
	return fmt.Sprint(len(r.Killed))
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

func faultTable(lines string) (string, error) {
	results, err := decode[faults.Result](lines)
	if err != nil {
		return "", err
	}
	yes := map[bool]string{true: "yes", false: "no"}
	var rows [][]string
	for _, r := range results {
		row := []string{r.Fault, r.Machine}
		if r.Error != "" {
			rows = append(rows, append(row, "failed: "+firstLine(r.Error), "", "", "", ""))
			continue
		}
		if r.Expected == "" {
			rows = append(rows, append(row, "", yes[r.Found], "", "", ""))
			continue
		}
		figures := ""
		if r.Metric != "" {
			figures = fmt.Sprintf("%.3f → %.3f → %.3f", r.Healthy, r.Faulty, r.Treated)
		}
		rows = append(rows, append(row, r.Expected+": "+yes[r.Found], yes[len(r.FalseOnes) == 0], r.Metric, figures, yes[len(r.Differs) == 0]))
	}
	return table([]string{"fault", "machine", "found", "silent before", "figure", "healthy → faulty → mended", "undone"}, rows), nil
}

// foretold is what both kinds of results have in common.
type foretold struct {
	Fault, Machine, Tool, Treatment string
	Predicted, Measured, Treated    float64
	Changed                         []string
}

func predictionTable(lines string) (string, error) {
	results, err := decode[foretold](lines)
	if err != nil {
		return "", err
	}
	var rows [][]string
	for _, r := range results {
		if r.Tool != "" && len(r.Changed) > 0 {
			r.Measured = r.Treated
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
