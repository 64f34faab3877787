package bench

import (
	"fmt"
	"slices"
)

// Timed is how long a program took for a job, each time: a JSON line.
type Timed struct {
	What    string    `json:"what"`
	Program string    `json:"program"`
	Changed int       `json:"changed"` // settings
	Seconds []float64 `json:"seconds"` // of a whole process, in the order in which programs took turns
}

// timesTable compares each program with the first of its job, turn by turn.
func timesTable(lines string) (string, error) {
	results, err := decode[Timed](lines)
	if err != nil {
		return "", err
	}
	var rows [][]string
	var first Timed
	for _, r := range results {
		if r.What != first.What {
			first = r
		}
		if len(r.Seconds) == 0 || len(r.Seconds) != len(first.Seconds) {
			return "", fmt.Errorf("%s: %s has %d times and %s has %d", r.What, r.Program, len(r.Seconds), first.Program, len(first.Seconds))
		}
		against := "1"
		if r.Program != first.Program {
			ratios := make([]float64, len(r.Seconds))
			for i := range ratios {
				ratios[i] = r.Seconds[i] / first.Seconds[i]
			}
			against = fmt.Sprintf("%.1f", middle(ratios))
		}
		rows = append(rows, []string{r.What, r.Program, fmt.Sprint(r.Changed), fmt.Sprintf("%.2f s", middle(r.Seconds)),
			fmt.Sprintf("%.2f to %.2f s", slices.Min(r.Seconds), slices.Max(r.Seconds)), against})
	}
	return table([]string{"job", "program", "settings changed", "median", "least to most", "times napitune's, median of the pairs"}, rows), nil
}

func middle(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
