// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Packets that no backlog would take, and the interrupts by which RPS wakes
 * other CPUs. Freed skbs come once per lost packet, and interrupts as often as
 * RPS finds its CPUs idle, so these programs are attached in short windows only.
 */
#include "hist.h"
#include "packets.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* Address of rps_trigger_softirq (net/core/dev.c), 0 = not known. Set before loading. */
const volatile __u64 rps_trigger_addr = 0;

/* Key: 0. Value: one CPU's totals. */
struct drop_state {
	struct brake brake;
	__u64 backlog;
	__u64 other;
	__u64 rps_interrupts;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct drop_state);
} drop_states SEC(".maps");

static __always_inline struct drop_state *this_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&drop_states, &zero);
}

/* Called on the CPU that could not enqueue, which is not the one that was full. */
static __always_inline int freed(__u64 *ctx)
{
	struct drop_state *s = this_cpu();

	if (!s || !allowed(&s->brake))
		return 0; /* switched off: too many drops */
	/* The event has no third argument where there are no reasons (before 5.17). */
	if (core_enum_exists(enum skb_drop_reason, SKB_DROP_REASON_CPU_BACKLOG) &&
	    (__u32)ctx[2] == core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_CPU_BACKLOG))
		s->backlog++;
	else
		s->other++;
	return 0;
}

/* Runs for every function-call interrupt, whoever asked for it, and all of them cost. */
static __always_inline int called(__u64 function)
{
	struct drop_state *s = this_cpu();

	if (!s || !allowed(&s->brake))
		return 0; /* switched off: too many of them */
	if (function == rps_trigger_addr)
		s->rps_interrupts++;
	return 0;
}

/* The hooks. Arguments: include/trace/events/{skb,csd}.h. */

SEC("tp_btf/kfree_skb")
int btf_kfree_skb(__u64 *ctx)
{
	return freed(ctx);
}

SEC("raw_tp/kfree_skb")
int raw_kfree_skb(__u64 *ctx)
{
	return freed(ctx);
}

/* Raw only: a typed program may not read an argument that is a function. */
SEC("raw_tp/csd_function_entry")
int raw_csd_entry(__u64 *ctx)
{
	return called(ctx[0]);
}
