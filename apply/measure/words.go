package measure

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// maxSentence is how many figures a reason names.
const maxSentence = 3

// sentence tells figures one after the other.
func sentence(figures []Figure) string {
	var parts []string
	for _, f := range figures[:min(len(figures), maxSentence)] {
		parts = append(parts, f.String())
	}
	if more := len(figures) - maxSentence; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(parts, "; ")
}

// String is the figure in words: "packets lost at devices 0 → 75 % of packets".
func (f Figure) String() string {
	subject := f.Title
	if f.Device != "" {
		subject = f.Device + " " + f.Title
	}
	text := subject + " " + Amount(f.Before, f.Unit) + " → " + Amount(f.After, f.Unit)
	if unit := strings.TrimPrefix(f.Unit, "1"); strings.HasPrefix(unit, "/") {
		text += unit
	} else {
		text += " " + unit
	}
	if f.Before != 0 && !isShare(f.Unit) {
		text += " (" + percentChange(f.Before, f.After) + ")"
	}
	return text
}

// isShare reports units that are parts of something.
func isShare(unit string) bool { return strings.HasPrefix(unit, "of ") }

// Amount is a value of a unit without the unit: parts are in percent.
func Amount(v float64, unit string) string {
	if isShare(unit) {
		return percent(v)
	}
	return rate(v)
}

// percent has two significant digits where it is small.
func percent(v float64) string {
	v *= 100
	switch {
	case v == 0 || math.Abs(v) >= 10:
		return strconv.FormatFloat(v, 'f', 0, 64) + " %"
	case math.Abs(v) >= 1:
		return strconv.FormatFloat(v, 'f', 1, 64) + " %"
	default:
		return strconv.FormatFloat(v, 'g', 2, 64) + " %"
	}
}

// percentChange is "+25 %", or "from nothing".
func percentChange(before, after float64) string {
	if before == 0 {
		return "from nothing"
	}
	return fmt.Sprintf("%+.0f %%", 100*(after/before-1))
}

// rate writes large numbers in groups of three digits and small ones with two
// significant digits.
func rate(v float64) string {
	if math.Abs(v) < 100 {
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	digits := strconv.FormatFloat(math.Abs(v), 'f', 0, 64)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	if v < 0 {
		return "-" + b.String()
	}
	return b.String()
}

// thousandths rounds shares for people and documents.
func thousandths(v float64) float64 { return math.Round(v*1000) / 1000 }

// Brought is the report as one line of the history.
func (r Report) Brought() string { return string(r.Verdict) + ": " + r.Reason }
