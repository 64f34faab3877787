/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Log2 histograms. Bucket 0 holds the value 0, bucket n the values
 * 2^(n-1) … 2^n - 1, the last bucket everything above. The same numbering is
 * in probes/counters (Bucket), and a test holds one against the other.
 */
#ifndef NAPITUNE_HIST_H
#define NAPITUNE_HIST_H

#include "kernel.h"

/* 2^26 ns = 67 ms is the upper edge: longer than any softirq run seen healthy. */
#define TIME_BUCKETS 28

struct time_hist {
	__u64 sum_ns;
	__u64 bucket[TIME_BUCKETS];
};

/*
 * No loop, for verifiers before 5.3. 64 bits wide throughout, and so must be
 * the variable that takes the result: narrowed, the compiler compares one copy
 * and indexes with another, and the verifier loses the bound.
 */
static __always_inline __u64 log2_bucket(__u64 value, __u64 last)
{
	__u64 n = 0;

	if (value >> 32) {
		value >>= 32;
		n += 32;
	}
	if (value >> 16) {
		value >>= 16;
		n += 16;
	}
	if (value >> 8) {
		value >>= 8;
		n += 8;
	}
	if (value >> 4) {
		value >>= 4;
		n += 4;
	}
	if (value >> 2) {
		value >>= 2;
		n += 2;
	}
	if (value >> 1) {
		value >>= 1;
		n += 1;
	}
	n += value; /* value is now 0 or 1 */
	return n < last ? n : last;
}

/* Per-CPU, so no atomics: nothing else on this CPU writes the same histogram. */
static __always_inline void time_hist_add(struct time_hist *h, __u64 ns, __u64 weight)
{
	__u64 b = log2_bucket(ns, TIME_BUCKETS - 1);

	h->sum_ns += ns * weight;
	if (b < TIME_BUCKETS) /* always; older verifiers lose the bound across the branches */
		h->bucket[b] += weight;
}

#endif
