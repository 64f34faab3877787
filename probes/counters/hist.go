package counters

import "math/bits"

// Hist is a log2 histogram; the name of its field carries the unit. Bucket 0
// counts the value 0, bucket n the values 2^(n-1) … 2^n - 1, the last one the
// kernel kept also everything above. Trailing zeros are cut.
type Hist struct {
	Buckets []uint64 `json:"buckets,omitempty"`
	Sum     uint64   `json:"sum,omitempty"` // of all values; 0 where it is kept elsewhere
}

// Bucket is the bucket of a value: the same numbering as in the programs.
func Bucket(value uint64) int { return bits.Len64(value) }

// Bounds are the smallest and largest value of a bucket.
func Bounds(bucket int) (low, high uint64) {
	if bucket <= 0 {
		return 0, 0
	}
	return 1 << (bucket - 1), 1<<bucket - 1
}

// NewHist makes a Hist of raw buckets.
func NewHist(buckets []uint64, sum uint64) Hist {
	end := len(buckets)
	for end > 0 && buckets[end-1] == 0 {
		end--
	}
	if end == 0 {
		return Hist{Sum: sum}
	}
	return Hist{Buckets: append([]uint64(nil), buckets[:end]...), Sum: sum}
}

// Count is the number of values.
func (h Hist) Count() uint64 {
	var n uint64
	for _, b := range h.Buckets {
		n += b
	}
	return n
}

// Mean is Sum over Count; false if the histogram is empty.
func (h Hist) Mean() (float64, bool) {
	n := h.Count()
	if n == 0 {
		return 0, false
	}
	return float64(h.Sum) / float64(n), true
}

// TimeBuckets is how many buckets a histogram of times has in the kernel
// (bpf/hist.h): what is in the last one took more than 67 ms, nobody knows how
// much more. Other histograms have fewer buckets, and their readers know how many.
const TimeBuckets = 28

// Quantile is an upper bound of the q-quantile (0 < q <= 1): the upper edge of
// the bucket it falls in, so at most twice the truth. more is true if that is
// the last bucket of times, which has no upper edge: then the quantile is more
// than what is returned. False if the histogram is empty.
func (h Hist) Quantile(q float64) (edge uint64, more, ok bool) {
	total := h.Count()
	if total == 0 {
		return 0, false, false
	}
	at := len(h.Buckets) - 1
	var below uint64
	for i, b := range h.Buckets {
		below += b
		if float64(below) >= q*float64(total) {
			at = i
			break
		}
	}
	low, high := Bounds(at)
	if at >= TimeBuckets-1 {
		return low - 1, true, true
	}
	return high, false, true
}

// AtMost is Quantile where it is an upper bound; false if there is none.
func (h Hist) AtMost(q float64) (uint64, bool) {
	edge, more, ok := h.Quantile(q)
	if more || !ok {
		return 0, false
	}
	return edge, true
}

// Merge is both histograms together.
func (h Hist) Merge(other Hist) Hist {
	long, short := h.Buckets, other.Buckets
	if len(long) < len(short) {
		long, short = short, long
	}
	sum := append([]uint64(nil), long...)
	for i, b := range short {
		sum[i] += b
	}
	return Hist{Buckets: sum, Sum: h.Sum + other.Sum}
}
