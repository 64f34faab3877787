/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The brake of programs that run once per packet: above a rate per CPU they
 * do nothing more until user space, which sees the flag, opens a new window.
 */
#ifndef NAPITUNE_PACKETS_H
#define NAPITUNE_PACKETS_H

#include "ticks.h"

/* Events per CPU and jiffy. Set before loading. */
const volatile __u32 limit_per_jiffy = 2000;

/* Set by any CPU that saw the limit exceeded, and by user space but for the time of a window. */
volatile __u32 switched_off = 0;

struct brake {
	__u64 jiffies;
	__u64 events;
	__u64 skipped;
	__u64 switched_off;
	__u32 this_jiffy;
	__u32 pad;
};

/* True if the event is to be counted. */
static __always_inline int allowed(struct brake *b)
{
	__u64 now = to_ticks(bpf_jiffies64());

	if (switched_off) {
		b->skipped++;
		return 0;
	}
	if (b->jiffies != now) {
		b->jiffies = now;
		b->this_jiffy = 0;
	}
	if (++b->this_jiffy > limit_per_jiffy) {
		switched_off = 1;
		b->switched_off++;
		b->skipped++;
		return 0;
	}
	b->events++;
	return 1;
}

#endif
