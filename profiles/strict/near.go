package strict

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Choices ends an error about a name that is not there: with the one meant, if
// that can be guessed, else with all names if they are few.
func Choices(name string, names []string) string {
	if near := Near(name, names); len(near) > 0 {
		return "; did you mean " + near[0] + "?"
	}
	const few = 16
	if len(names) == 0 || len(names) > few {
		return ""
	}
	return "; there is " + strings.Join(names, ", ")
}

// Near lists those of names that resemble a misspelt one, nearest first, three
// at most: at most one letter in three differs, or the name is a part of them.
func Near(name string, names []string) []string {
	const (
		longest  = 64 // nobody mistypes a word of this length, and the cost grows with its square
		shortest = 3  // fewer letters are a part of too many names
	)
	if len(name) > longest {
		return nil
	}
	type candidate struct {
		name     string
		distance int
	}
	var found []candidate
	lower := strings.ToLower(name)
	for _, n := range names {
		d := distance(lower, strings.ToLower(n))
		if len(lower) >= shortest && strings.Contains(strings.ToLower(n), lower) {
			d = min(d, 1)
		}
		if d <= max(1, len(lower)/3) {
			found = append(found, candidate{n, d})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.name, b.name))
	})
	var out []string
	for _, c := range found[:min(3, len(found))] {
		out = append(out, c.name)
	}
	return out
}

// distance counts the letters to insert, delete, replace or exchange with their
// neighbour between two words.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			rows[i][j] = min(replace, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// printable escapes what would move the cursor of a terminal: error texts
// quote the file.
func printable(text string) string {
	if !strings.ContainsFunc(text, unprintable) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if unprintable(r) {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// Clip keeps quoted input in error texts readable.
func Clip(s string) string {
	const limit = 60
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
