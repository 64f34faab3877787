package measure

import (
	"cmp"
	"math"
	"slices"
)

// series are the values of one metric over the sub-windows of a phase.
type series []float64

// median is NaN for no values.
func (s series) median() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// deviation is the median absolute deviation as an estimate of the standard
// deviation. 1.4826 = 1/Φ⁻¹(3/4) makes it one for normal noise (Rousseeuw and
// Croux, JASA 88, 1993); a burst in one sub-window does not move it.
func (s series) deviation() float64 {
	const normal = 1.4826
	center := s.median()
	off := make(series, len(s))
	for i, v := range s {
		off[i] = math.Abs(v - center)
	}
	return normal * off.median()
}

// noise is how far a value of this series lies from another by itself: the
// spread of single sub-windows or, if the series drifts, the way from its first
// half to its second.
func (s series) noise() float64 {
	half := len(s) / 2
	if half == 0 {
		return 0
	}
	drift := math.Abs(s[len(s)-half:].median() - s[:half].median())
	return max(s.deviation(), drift)
}

func (s series) scaled(factor float64) series {
	out := make(series, len(s))
	for i, v := range s {
		out[i] = factor * v
	}
	return out
}

// chance is the probability that values drawn without regard to the phase would
// rank as high after as they do: the exact one-sided test of Mann and Whitney
// (Annals of Mathematical Statistics 18, 1947), with mid-ranks for ties. It
// knows no distribution and no noise level. The smallest value for ten
// sub-windows each is 1/184756.
func chance(before, after series) float64 {
	ranks, observed := doubledRanks(before, after)
	total := 0
	for _, r := range ranks {
		total += r
	}
	// ways[k][s] counts choices of k values whose doubled ranks sum to s.
	ways := make([][]float64, len(after)+1)
	for k := range ways {
		ways[k] = make([]float64, total+1)
	}
	ways[0][0] = 1
	for _, r := range ranks {
		for k := len(after); k >= 1; k-- {
			for s := total; s >= r; s-- {
				ways[k][s] += ways[k-1][s-r]
			}
		}
	}
	all, high := 0.0, 0.0
	for s, n := range ways[len(after)] {
		all += n
		if s >= observed {
			high += n
		}
	}
	return high / all
}

// doubledRanks are twice the mid-ranks of all values, which are whole numbers,
// and the sum of those of after.
func doubledRanks(before, after series) (ranks []int, sum int) {
	type ranked struct {
		value float64
		after bool
	}
	all := make([]ranked, 0, len(before)+len(after))
	for _, v := range before {
		all = append(all, ranked{v, false})
	}
	for _, v := range after {
		all = append(all, ranked{v, true})
	}
	slices.SortFunc(all, func(a, b ranked) int { return cmp.Compare(a.value, b.value) })
	for i := 0; i < len(all); {
		end := i + 1
		for end < len(all) && all[end].value == all[i].value {
			end++
		}
		// Ranks i+1 … end share their mean, (i+1+end)/2.
		twice := i + 1 + end
		for ; i < end; i++ {
			ranks = append(ranks, twice)
			if all[i].after {
				sum += twice
			}
		}
	}
	return ranks, sum
}
