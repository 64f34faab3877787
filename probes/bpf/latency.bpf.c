// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The path beyond the softirq: from poll to socket, and from the socket being
 * told to somebody reading it. Sampled; off by default.
 */
#include "hist.h"

char _license[] SEC("license") = "Dual MIT/GPL";

#define NET_RX_SOFTIRQ 3

/* One softirq run, and one untold socket, in so many is followed. Set before loading. */
const volatile __u32 latency_one_in = 16;

/*
 * Nobody says when a socket goes, and its memory is soon that of another one;
 * what is told and never read (listeners, closed sockets) would lend it its
 * age. So no wait is believed that is longer than a second, which is far beyond
 * what the histogram tells apart (67 ms, TIME_BUCKETS).
 */
#define LONGEST_WAIT_NS 1000000000ull

/* Key: 0. Value: one CPU's totals and scratch. */
struct latency_state {
	__u64 mark_ns; /* scratch: end of the previous poll, 0 = this run is not followed */
	__u64 told_sk; /* scratch: a pointer as a number, one per program: */
	__u64 read_sk; /* a softirq may interrupt the reader between write and read */
	__u32 runs;    /* scratch of sampling */
	__u32 wakes;
	struct time_hist poll_to_socket;
	struct time_hist socket_to_read;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct latency_state);
} latency_states SEC(".maps");

/*
 * Key: socket. Value: when it was told of data that nobody has read yet. The
 * one map that CPUs share, because told and read happen on different ones;
 * the oldest entry makes room, so a socket that is never read costs nothing.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u64);
} waiting SEC(".maps");

static __always_inline struct latency_state *this_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&latency_states, &zero);
}

static __always_inline int run_begins(__u64 vec)
{
	struct latency_state *s;

	if (vec != NET_RX_SOFTIRQ)
		return 0; /* polls happen in NET_RX only */
	s = this_cpu();
	if (!s)
		return 0; /* cannot happen: an array has its only element */
	s->mark_ns = 0;
	if (++s->runs < latency_one_in)
		return 0; /* not this one */
	s->runs = 0;
	s->mark_ns = bpf_ktime_get_ns();
	return 0;
}

static __always_inline int run_ends(__u64 vec)
{
	struct latency_state *s;

	if (vec != NET_RX_SOFTIRQ)
		return 0; /* polls happen in NET_RX only */
	s = this_cpu();
	if (s)
		s->mark_ns = 0;
	return 0;
}

/* The event comes after a poll, so it is where the next one begins. */
static __always_inline int polled(void)
{
	struct latency_state *s = this_cpu();

	if (s && s->mark_ns)
		s->mark_ns = bpf_ktime_get_ns();
	return 0;
}

static __always_inline int told(__u64 sk)
{
	struct latency_state *s = this_cpu();
	__u64 now;

	if (!s)
		return 0; /* cannot happen: an array has its only element */
	if (s->mark_ns) {
		now = bpf_ktime_get_ns();
		time_hist_add(&s->poll_to_socket, now - s->mark_ns, 1);
	} else if (++s->wakes < latency_one_in) {
		return 0; /* not this one */
	} else {
		now = bpf_ktime_get_ns();
	}
	s->wakes = 0;
	/*
	 * Told again before it was read: it waits since the first time. Also if that
	 * was long ago: begun anew, a wait of more than a second would pass for a
	 * short one.
	 */
	bpf_map_update_elem(&waiting, &sk, &now, BPF_NOEXIST);
	return 0;
}

static __always_inline int was_read(__u64 sk, int ret)
{
	struct latency_state *s;
	__u64 *since, now;

	if (ret <= 0)
		return 0; /* nothing was read: an error, the end, or no data yet */
	since = bpf_map_lookup_elem(&waiting, &sk);
	if (!since)
		return 0; /* not followed */
	now = bpf_ktime_get_ns();
	s = this_cpu();
	/* Else: told again on another CPU a moment ago, or another socket was. */
	if (s && now > *since && now - *since < LONGEST_WAIT_NS)
		time_hist_add(&s->socket_to_read, now - *since, 1);
	bpf_map_delete_elem(&waiting, &sk);
	return 0;
}

/* The verifier lets no typed pointer be a map key; what went through memory is a number. */
static __always_inline __u64 as_number(__u64 *scratch, __u64 pointer)
{
	*(volatile __u64 *)scratch = pointer;
	return *(volatile __u64 *)scratch;
}

/* The hooks. Arguments: include/trace/events/{irq,napi,sock}.h. */

SEC("tp_btf/softirq_entry")
int btf_latency_entry(__u64 *ctx)
{
	return run_begins(ctx[0]);
}

SEC("raw_tp/softirq_entry")
int raw_latency_entry(__u64 *ctx)
{
	return run_begins(ctx[0]);
}

SEC("tp_btf/softirq_exit")
int btf_latency_exit(__u64 *ctx)
{
	return run_ends(ctx[0]);
}

SEC("raw_tp/softirq_exit")
int raw_latency_exit(__u64 *ctx)
{
	return run_ends(ctx[0]);
}

SEC("tp_btf/napi_poll")
int btf_latency_poll(__u64 *ctx)
{
	return polled();
}

SEC("raw_tp/napi_poll")
int raw_latency_poll(__u64 *ctx)
{
	return polled();
}

SEC("tp_btf/sk_data_ready")
int btf_sk_data_ready(__u64 *ctx)
{
	struct latency_state *s = this_cpu();

	return s ? told(as_number(&s->told_sk, ctx[0])) : 0;
}

SEC("raw_tp/sk_data_ready")
int raw_sk_data_ready(__u64 *ctx)
{
	return told(ctx[0]);
}

SEC("tp_btf/sock_recv_length")
int btf_sock_recv(__u64 *ctx)
{
	struct latency_state *s = this_cpu();

	return s ? was_read(as_number(&s->read_sk, ctx[0]), ctx[1]) : 0;
}

SEC("raw_tp/sock_recv_length")
int raw_sock_recv(__u64 *ctx)
{
	return was_read(ctx[0], ctx[1]);
}
