// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * What GRO makes of packets. These programs run once per packet and are
 * attached in short windows only.
 */
#include "hist.h"
#include "packets.h"

char _license[] SEC("license") = "Dual MIT/GPL";

#define DEVICE_SLOTS 64
#define DEVICE_PROBES 4
#define SEGMENT_BUCKETS 12 /* 0, 1, 2-3 … 512-1023, more */

#define READ_BTF 0
#define READ_PROBE 1

#define ETH_P_IP_BE 0x0008   /* 0x0800 in network order, read on a little-endian machine */
#define ETH_P_IPV6_BE 0xdd86 /* 0x86dd likewise */
#define IPPROTO_TCP 6

/* Key: slot, found by hashing the device pointer. Value: one device on one CPU; dev 0 = free. */
struct gro_slot {
	__u64 dev;
	__u32 ifindex;
	__u32 netns;
	char device[IFNAMSIZ];
	__u64 in;
	__u64 merged;
	__u64 held;
	__u64 normal;
	__u64 consumed;
	__u64 delivered;
	__u64 segments;
	__u64 tcp_segments;
	__u64 unknown_segments;
	__u64 segments_per_skb[SEGMENT_BUCKETS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DEVICE_SLOTS);
	__type(key, __u32);
	__type(value, struct gro_slot);
} gro_slots SEC(".maps");

/* Key: 0. Value: one CPU's brake and the packet between entry and exit of GRO. */
struct gro_state {
	struct brake brake;
	__u64 address; /* scratch: a device pointer as a number */
	__u64 overflow;
	__u32 slot; /* 1 + slot of the packet inside GRO, 0 none */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gro_state);
} gro_states SEC(".maps");

static __always_inline struct gro_state *this_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&gro_states, &zero);
}

static __always_inline void identify(struct gro_slot *slot, struct net_device *dev)
{
	struct net *net = NULL;

	bpf_probe_read_kernel_str(slot->device, IFNAMSIZ,
				  __builtin_preserve_access_index(&dev->name));
	core_read(&net, &dev->nd_net.net);
	if (net)
		core_read(&slot->netns, &net->ns.inum);
}

static __always_inline struct gro_slot *find_slot(struct gro_state *s, struct net_device *dev,
						  __u32 ifindex, __u32 *number)
{
	struct gro_slot *slot;
	__u32 start, i, at;
	__u64 key;

	/* The verifier forbids arithmetic on typed pointers. */
	*(volatile __u64 *)&s->address = (__u64)dev;
	key = *(volatile __u64 *)&s->address;
	start = (key >> 6) * 0x9E3779B97F4A7C15ull >> 40;
#pragma clang loop unroll(full)
	for (i = 0; i < DEVICE_PROBES; i++) {
		at = (start + i) & (DEVICE_SLOTS - 1);
		slot = bpf_map_lookup_elem(&gro_slots, &at);
		if (!slot)
			return NULL; /* cannot happen: the index is masked */
		*number = 1 + at;
		if (slot->dev == key && slot->ifindex == ifindex)
			return slot;
		if (slot->dev)
			continue;
		slot->dev = key;
		slot->ifindex = ifindex;
		identify(slot, (void *)key);
		return slot;
	}
	s->overflow++;
	return NULL; /* table full around this hash: counted */
}

static __always_inline int gro_entry(struct sk_buff *skb, int mode)
{
	struct gro_state *s = this_cpu();
	struct net_device *dev = NULL;
	struct gro_slot *slot;
	__u32 ifindex = 0, number = 0;

	if (!s)
		return 0; /* cannot happen: an array has its only element */
	s->slot = 0;
	if (!allowed(&s->brake))
		return 0; /* switched off: too many packets */
	if (mode == READ_BTF) {
		dev = skb->dev;
		if (dev)
			ifindex = dev->ifindex;
	} else {
		core_read(&dev, &skb->dev);
		if (dev)
			core_read(&ifindex, &dev->ifindex);
	}
	if (!dev)
		return 0; /* never seen here: GRO takes the device's packets */
	slot = find_slot(s, dev, ifindex, &number);
	if (!slot)
		return 0; /* more devices than slots */
	slot->in++;
	s->slot = number;
	return 0;
}

static __always_inline int gro_exit(int verdict)
{
	struct gro_state *s = this_cpu();
	struct gro_slot *slot;
	__u32 at;

	if (!s || !s->slot)
		return 0; /* entry not counted: switched off, or attached in between */
	at = s->slot - 1;
	s->slot = 0;
	slot = bpf_map_lookup_elem(&gro_slots, &at);
	if (!slot)
		return 0; /* cannot happen: entry found it */
	if (verdict == core_enum_value(enum gro_result, GRO_MERGED) ||
	    verdict == core_enum_value(enum gro_result, GRO_MERGED_FREE))
		slot->merged++;
	else if (verdict == core_enum_value(enum gro_result, GRO_HELD))
		slot->held++;
	else if (verdict == core_enum_value(enum gro_result, GRO_NORMAL))
		slot->normal++;
	else
		slot->consumed++; /* also GRO_DROP of older kernels */
	return 0;
}

/* Wire packets in an skb that goes up the stack. */
static __always_inline __u32 segments(unsigned char *head, __u32 end, __u32 len)
{
	struct skb_shared_info *info = (void *)(head + end);
	__u16 segs = 0, size = 0;

	core_read(&segs, &info->gso_segs);
	if (segs)
		return segs;
	core_read(&size, &info->gso_size);
	if (!size || len <= 52)
		return 1;
	/* Hardware GRO leaves gso_segs 0 (include/linux/virtio_net.h). 52: IPv4
	 * and TCP with time stamps; other headers may shift this by one. */
	return (len - 52 + size - 1) / size;
}

/*
 * The event comes before skb_reset_network_header (__netif_receive_skb_core in
 * net/core/dev.c), and only GRO has set that header before; the data begins
 * with it either way. Without GRO a driver may leave the header in a page
 * (virtio-net with mergeable buffers), and what lies behind the data then is of
 * some earlier packet.
 */
static __always_inline void count_transport(struct gro_slot *slot, unsigned char *data,
					    __u32 linear, __u16 protocol, __u32 segs)
{
	__u32 at;
	__u8 proto = 0;

	if (protocol == ETH_P_IP_BE)
		at = 9;
	else if (protocol == ETH_P_IPV6_BE)
		at = 6;
	else
		return; /* not IP, so not TCP */
	if (linear <= at) {
		slot->unknown_segments += segs;
		return;
	}
	bpf_probe_read_kernel(&proto, 1, data + at);
	if (proto == IPPROTO_TCP)
		slot->tcp_segments += segs;
}

static __always_inline int delivered(struct sk_buff *skb, int mode)
{
	struct gro_state *s = this_cpu();
	struct net_device *dev = NULL;
	struct gro_slot *slot;
	unsigned char *head = NULL, *data = NULL;
	__u32 ifindex = 0, number = 0, end = 0, len = 0, paged = 0;
	__u16 protocol = 0;
	__u64 segs, b;

	if (!s || !allowed(&s->brake))
		return 0; /* switched off: too many packets */
	if (mode == READ_BTF) {
		dev = skb->dev;
		if (dev)
			ifindex = dev->ifindex;
		head = skb->head;
		end = skb->end;
		len = skb->len;
		paged = skb->data_len;
		data = skb->data;
		protocol = skb->protocol;
	} else {
		core_read(&dev, &skb->dev);
		if (dev)
			core_read(&ifindex, &dev->ifindex);
		core_read(&head, &skb->head);
		core_read(&end, &skb->end);
		core_read(&len, &skb->len);
		core_read(&paged, &skb->data_len);
		core_read(&data, &skb->data);
		core_read(&protocol, &skb->protocol);
	}
	if (!dev)
		return 0; /* never seen: the event prints its name */
	slot = find_slot(s, dev, ifindex, &number);
	if (!slot)
		return 0; /* more devices than slots */
	segs = segments(head, end, len);
	slot->delivered++;
	slot->segments += segs;
	count_transport(slot, data, len - paged, protocol, segs);
	b = log2_bucket(segs, SEGMENT_BUCKETS - 1);
	if (b < SEGMENT_BUCKETS)
		slot->segments_per_skb[b]++;
	return 0;
}

/* The hooks. Arguments: include/trace/events/net.h. */

SEC("tp_btf/napi_gro_receive_entry")
int btf_gro_receive_entry(__u64 *ctx)
{
	return gro_entry((void *)ctx[0], READ_BTF);
}

SEC("raw_tp/napi_gro_receive_entry")
int raw_gro_receive_entry(__u64 *ctx)
{
	return gro_entry((void *)ctx[0], READ_PROBE);
}

SEC("tp_btf/napi_gro_frags_entry")
int btf_gro_frags_entry(__u64 *ctx)
{
	return gro_entry((void *)ctx[0], READ_BTF);
}

SEC("raw_tp/napi_gro_frags_entry")
int raw_gro_frags_entry(__u64 *ctx)
{
	return gro_entry((void *)ctx[0], READ_PROBE);
}

SEC("tp_btf/napi_gro_receive_exit")
int btf_gro_receive_exit(__u64 *ctx)
{
	return gro_exit(ctx[0]);
}

SEC("raw_tp/napi_gro_receive_exit")
int raw_gro_receive_exit(__u64 *ctx)
{
	return gro_exit(ctx[0]);
}

SEC("tp_btf/napi_gro_frags_exit")
int btf_gro_frags_exit(__u64 *ctx)
{
	return gro_exit(ctx[0]);
}

SEC("raw_tp/napi_gro_frags_exit")
int raw_gro_frags_exit(__u64 *ctx)
{
	return gro_exit(ctx[0]);
}

SEC("tp_btf/netif_receive_skb")
int btf_receive_skb(__u64 *ctx)
{
	return delivered((void *)ctx[0], READ_BTF);
}

SEC("raw_tp/netif_receive_skb")
int raw_receive_skb(__u64 *ctx)
{
	return delivered((void *)ctx[0], READ_PROBE);
}
