/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The few kernel types and BPF helpers that the probes need, declared by hand
 * so that no vmlinux.h has to be committed. Field offsets below are of no
 * meaning: preserve_access_index makes the loader rewrite every access to the
 * layout of the running kernel (CO-RE), by structure and field name.
 */
#ifndef NAPITUNE_KERNEL_H
#define NAPITUNE_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define NULL ((void *)0)

/* include/uapi/linux/bpf.h: enum bpf_map_type, enum bpf_func_id. */
#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_LRU_HASH 9
#define BPF_ANY 0
#define BPF_NOEXIST 1

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
					 __u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static __u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
static long (*const bpf_get_current_comm)(void *buf, __u32 size) = (void *)16;
static __u64 (*const bpf_get_current_task)(void) = (void *)35;
static long (*const bpf_probe_read_kernel)(void *dst, __u32 size,
					   const void *unsafe_ptr) = (void *)113;
static long (*const bpf_probe_read_kernel_str)(void *dst, __u32 size,
					       const void *unsafe_ptr) = (void *)115;
static __u64 (*const bpf_jiffies64)(void) = (void *)118;

/*
 * CO-RE questions. The second argument of __builtin_preserve_field_info is
 * enum bpf_field_info_kind: byte offset 0, existence 2.
 */
#define core_field_exists(field) __builtin_preserve_field_info(field, 2)
#define core_field_offset(type, field) \
	__builtin_preserve_field_info(((typeof(type) *)0)->field, 0)
#define core_enum_exists(type, value) \
	__builtin_preserve_enum_value(*(typeof(type) *)value, 0)
#define core_enum_value(type, value) \
	__builtin_preserve_enum_value(*(typeof(type) *)value, 1)
#define core_type_exists(type) __builtin_preserve_type_info(*(typeof(type) *)0, 0)
/* Reads one field through a pointer that the verifier does not know. */
#define core_read(dst, ptr_field) \
	bpf_probe_read_kernel((dst), sizeof(*(dst)), __builtin_preserve_access_index(ptr_field))

#define IFNAMSIZ 16

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct device {
	struct device *parent;
};

struct net_device {
	int ifindex;
	char name[IFNAMSIZ];
	possible_net_t nd_net;
	struct device dev;
};

struct napi_struct {
	struct net_device *dev;
	unsigned int napi_id;
};

struct sk_buff_head {
	__u32 qlen;
};

struct softnet_data {
	struct sk_buff_head process_queue;
	unsigned int time_squeeze;
	struct sk_buff_head input_pkt_queue;
	struct napi_struct backlog;
};

struct irqaction {
	void *dev_id;
};

struct virtio_device {
	struct device dev;
};

struct virtqueue {
	struct virtio_device *vdev;
	unsigned int index;
	unsigned int num_free;
};

/* drivers/net/virtio_net.c. In every version read, vq and napi come first. */
struct receive_queue {
	struct virtqueue *vq;
	struct napi_struct napi;
};

struct vring {
	unsigned int num;
	void *used;
};

struct vring_virtqueue_split {
	struct vring vring;
};

/*
 * drivers/virtio/virtio_ring.c. Newer kernels have rings that are used in order
 * as well, and say by an enum what packed_ring said; packed ones are odd.
 */
enum vq_layout { VQ_LAYOUT_SPLIT, VQ_LAYOUT_PACKED };

struct vring_virtqueue___layout {
	enum vq_layout layout;
};

struct vring_virtqueue {
	struct virtqueue vq;
	_Bool packed_ring;
	__u16 last_used_idx;
	union {
		struct vring_virtqueue_split split;
	};
};

typedef unsigned int sk_buff_data_t;

struct sock;

struct sk_buff {
	unsigned int len;
	unsigned int data_len;
	struct net_device *dev;
	sk_buff_data_t end;
	unsigned char *head;
	unsigned char *data;
	__u16 protocol;
};

struct skb_shared_info {
	unsigned short gso_size;
	unsigned short gso_segs;
};

#pragma clang attribute pop

/* include/net/gro.h (include/linux/netdevice.h before 5.x): numbers moved, names did not. */
enum gro_result {
	GRO_MERGED,
	GRO_MERGED_FREE,
	GRO_HELD,
	GRO_NORMAL,
	GRO_CONSUMED,
};

/* include/net/dropreason-core.h; absent before 5.17. */
enum skb_drop_reason {
	SKB_DROP_REASON_CPU_BACKLOG = 1 << 16,
};

#endif
