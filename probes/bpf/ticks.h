/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Time in ticks of the kernel. Before 5.6 there is no bpf_jiffies64: the loader
 * then puts bpf_ktime_get_ns in its place, and this shift makes about a tick of
 * its nanoseconds. What is held against a limit is taken as it comes, and the
 * limit is given in the same unit.
 */
#ifndef NAPITUNE_TICKS_H
#define NAPITUNE_TICKS_H

#include "kernel.h"

/* Set before loading; 0 where the kernel tells jiffies. */
const volatile __u32 tick_shift = 0;

static __always_inline __u64 to_ticks(__u64 jiffies)
{
	return jiffies >> tick_shift;
}

#endif
