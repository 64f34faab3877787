// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * How long virtio-net's control queue takes to answer. The driver spins, with
 * locks held, until it does (virtnet_send_command in drivers/net/virtio_net.c).
 */
#include "hist.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* Key: 0. Value: one CPU's totals, charged where the command ended. */
struct control_state {
	struct time_hist command;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control_state);
} control_states SEC(".maps");

/* Key: thread. Value: when its command began. Shared: the thread may be moved while it waits. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u64);
} commands SEC(".maps");

static __always_inline int begin(void)
{
	__u64 thread = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns();

	bpf_map_update_elem(&commands, &thread, &now, BPF_ANY);
	return 0;
}

static __always_inline int end(void)
{
	__u64 thread = bpf_get_current_pid_tgid(), *began, now;
	struct control_state *s;
	__u32 zero = 0;

	began = bpf_map_lookup_elem(&commands, &thread);
	if (!began)
		return 0; /* attached in the middle of this command */
	now = bpf_ktime_get_ns();
	s = bpf_map_lookup_elem(&control_states, &zero);
	if (s)
		time_hist_add(&s->command, now - *began, 1);
	bpf_map_delete_elem(&commands, &thread);
	return 0;
}

/* virtnet_send_command_reply since 6.11, virtnet_send_command before. */

SEC("fentry/virtnet_send_command_reply")
int new_command_begin(__u64 *ctx)
{
	return begin();
}

SEC("fexit/virtnet_send_command_reply")
int new_command_end(__u64 *ctx)
{
	return end();
}

SEC("fentry/virtnet_send_command")
int old_command_begin(__u64 *ctx)
{
	return begin();
}

SEC("fexit/virtnet_send_command")
int old_command_end(__u64 *ctx)
{
	return end();
}
