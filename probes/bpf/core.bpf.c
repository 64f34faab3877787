// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The default probes: softirq time and latency, net_rx_action budgets, load of
 * every NAPI, backlog length, interrupts, virtqueues. One program per hook
 * serves all of them, because on a host with one packet per softirq the call
 * of a program costs as much as its body.
 *
 * Counts are exact. Times are sampled: the clock is the dearest thing here
 * (20 ns and more in a guest), so after exact_per_jiffy timed events in one
 * jiffy only one in (sample_mask + 1) is timed, with that weight. The choice
 * is made before the event starts and does not depend on its length, so sums
 * and histograms of weights are unbiased estimates.
 */
#include "hist.h"
#include "ticks.h"

char _license[] SEC("license") = "Dual MIT/GPL";

#define NR_SOFTIRQS 10 /* include/linux/interrupt.h */
#define NET_TX_SOFTIRQ 2
#define NET_RX_SOFTIRQ 3
#define NAPI_SLOTS 128
#define NAPI_PROBES 8
#define VIRTIO_SLOTS 64 /* half of NAPI_SLOTS: each comes with a transmit queue, which has a NAPI too */
#define IRQ_SLOTS 512
#define WORK_BUCKETS 10	 /* 0, 1, 2-3 … 128-255, more */
#define POLL_BUCKETS 16	 /* exact numbers 0 … 14, more */
#define QUEUE_BUCKETS 16 /* 0, 1, 2-3 … 8192-16383, more */
#define RING_BUCKETS 9	 /* eighths of the ring; the ninth is "all of it" */

/*
 * What lasts longer is no cost of packets but a CPU that the hypervisor took
 * away, and one of these outweighs thousands of polls. A poll handles at most 64
 * packets (NAPI_POLL_WEIGHT in include/linux/netdevice.h), so these would take
 * 156 us each, where the dearest path seen takes some 10; one of a backlog may
 * handle more (net.core.dev_weight), and last as much longer. A whole run of
 * net_rx_action ends by default after two ticks, 8 ms at HZ=250 (netdev_budget_usecs).
 * QEMU emulating CPUs in turn takes one away for 100 ms (TCG_KICK_PERIOD).
 */
#define LONG_POLL_NS 10000000ull
#define POLL_WEIGHT 64

/* Who runs: told by the name of the current task. */
#define TASK_OTHER 0
#define TASK_KSOFTIRQD 1
#define TASK_NAPI_THREAD 2
#define TASK_BACKLOG_THREAD 3

/* What a NAPI is: told by its structure, once. */
#define NAPI_PLAIN 0
#define NAPI_BACKLOG 1
#define NAPI_VIRTIO 2

/* How much a program may read of kernel structures: a constant at every call. */
#define READ_BTF 0   /* typed pointers, plain loads */
#define READ_PROBE 1 /* raw tracepoint: bpf_probe_read_kernel with CO-RE */
#define READ_NONE 2  /* no BTF at all: numbers of the event only */

/* Set before loading; the verifier removes what is switched off. */
const volatile __u32 exact_per_jiffy = 16;
const volatile __u32 sample_mask = 15;
const volatile __u32 with_raise = 1;
const volatile __u32 with_napi = 1;
const volatile __u32 with_backlog = 1;
const volatile __u32 with_virtio = 1;

/* Set by user space at any time: the sysctls in force; the second in ns where there are no jiffies. */
volatile __u32 budget_packets = 300;
volatile __u32 budget_jiffies = 2;

/*
 * Cleared by user space before it detaches, which takes a while: with some
 * programs gone and others not, a run would seem shorter than it was, and polls
 * would seem to be in no run at all.
 */
volatile __u32 counting = 1;

/*
 * Address of struct softnet_data of a CPU minus that of its struct cpu_state:
 * the same on every CPU, because all per-CPU memory of the kernel lies at the
 * same offsets from one base per CPU (include/linux/percpu-defs.h). Learned
 * from the first poll of any backlog, which is a member of softnet_data. The
 * symbol would tell it too, but only where CONFIG_KALLSYMS_ALL is set. 0: not
 * known. In a section of its own, for user space writes the others as a whole.
 */
volatile __u64 softnet_distance SEC(".data.softnet") = 0;

struct outside {
	__u64 polls;
	__u64 work;
};

/*
 * Key: 0. Value: one CPU's totals and the scratch of the events in flight on
 * it. Nobody resets totals: user space reads twice and subtracts. Scratch is
 * cleared by user space while no program is attached.
 */
struct cpu_state {
	/* scratch of the softirq running on this CPU */
	__u64 entry_ns;	 /* 0: this run is not timed */
	__u64 mark_ns;	 /* end of the previous poll of a timed run */
	__u64 entry_jiffies;
	__u64 last_jiffies; /* at the last poll */
	__u32 weight;
	__u32 in_rx;
	__u32 run_polls;
	__u32 run_full;
	__s64 run_work;
	__u32 run_ksoftirqd;
	/* scratch of sampling */
	__u32 random;
	__u64 timed_jiffies;
	__u32 timed;
	/* scratch of raises: 0 none seen, 1 not timed, 1 + weight timed; [0] TX, [1] RX */
	__u32 raise_choice[2];
	__u32 pad0;
	__u64 raise_ns[2];
	/* scratch: whose name was looked at last */
	__u64 task;
	__u32 task_kind;
	/* scratch: a NAPI pointer as a number */
	__u64 napi;
	/* scratch: the last counted interrupt */
	__u32 last_irq_slot; /* 1 + slot, 0 none */
	__u32 virtio_used;
	/* scratch: a NET_RX entry was seen since the programs were attached */
	__u32 primed;
	/* scratch: softnet_data of this CPU, and its time_squeeze when last read */
	__u64 softnet;
	__u32 squeezed;
	__u32 squeezed_known;

	/* totals */
	__u64 count[NR_SOFTIRQS];
	__u64 time_ns[NR_SOFTIRQS];
	__u64 timed_weight[NR_SOFTIRQS];
	__u64 ksoftirqd_count[2]; /* [0] TX, [1] RX */
	__u64 ksoftirqd_time_ns[2];
	__u64 unraised[2]; /* runs whose raise was not seen or fell into a race */
	__u64 irqs;	   /* handlers of counted lines, for the estimate of what this costs */
	struct time_hist raise_to_entry[2];
	struct time_hist entry_to_exit[2];

	__u64 rx_runs;
	__u64 rx_work;
	__u64 rx_polls;
	__u64 rx_full;
	__u64 squeeze_packets;
	__u64 squeeze_time;
	__u64 squeeze_both;
	__u64 squeeze_unexplained; /* the kernel counted it and no limit was seen exceeded */
	__u64 inferred;		   /* runs judged without the kernel's own counter */
	__u64 max_polls;
	__u64 polls_per_run[POLL_BUCKETS];
	__u64 work_per_run[QUEUE_BUCKETS];

	struct outside threaded;
	struct outside busy;
	struct outside netpoll;
	__u64 napi_overflow;
	__u64 virtio_overflow;
	__u64 backlog_queue[QUEUE_BUCKETS];
	__u64 backlog_queue_sum;
	__u64 backlog_queue_weight;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cpu_state);
} cpu_states SEC(".maps");

/*
 * Key: slot, found by hashing the NAPI pointer. Value: one NAPI on one CPU;
 * napi 0 = free. Slots are never freed: a pointer that is used again with
 * another id takes a new one.
 */
struct napi_slot {
	__u64 napi;
	__u32 ifindex;
	__u32 napi_id;
	__u32 netns;
	__u32 kind;
	__u32 virtio_slot; /* 1 + slot, 0 none */
	__u32 pad0;
	char device[IFNAMSIZ];
	__u64 polls;
	__s64 work;
	__u64 full;
	__u64 empty;
	__u64 time_ns;
	__u64 timed_weight;
	__u64 long_ns; /* polls longer than LONG_POLL_NS, apart from the others */
	__u64 long_weight;
	__u64 outside; /* polls not in a NET_RX softirq */
	__u64 work_per_poll[WORK_BUCKETS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NAPI_SLOTS);
	__type(key, __u32);
	__type(value, struct napi_slot);
} napi_slots SEC(".maps");

/* Key: slot, in order of appearance. Value: one virtio receive queue on one CPU. */
struct virtio_slot {
	__u64 vq;
	__u32 ifindex;
	__u32 netns;
	__u32 queue;
	__u32 ring_size;
	__u32 irq_slot; /* 1 + slot, 0 unknown */
	__u32 packed;
	__u64 reads;	       /* polls at which the ring was read */
	__u64 unarmed_polls;   /* ended below budget and no interrupt came before */
	__u64 armed_polls;     /* ended below budget after an interrupt */
	__u64 starved;	       /* the host had less than an eighth of the ring left */
	__u64 pending_max;     /* since attach */
	__u64 empty_max;       /* since attach; descriptors not given to the host */
	__u64 pending[RING_BUCKETS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VIRTIO_SLOTS);
	__type(key, __u32);
	__type(value, struct virtio_slot);
} virtio_slots SEC(".maps");

/* Key: interrupt number. Value: 1 + slot in irq_slots, 0 = not counted. Resized before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} irq_filter SEC(".maps");

/* Key: slot. Value: one interrupt line on one CPU. Resized before loading. */
struct irq_slot {
	__u64 entry_ns; /* scratch; 0: not timed */
	__u64 dev_id;	/* cookie of the handler: for virtio-pci the virtqueue */
	__u32 weight;
	__u32 armed; /* fired since the NAPI of its queue last went idle */
	__u64 count;
	__u64 unhandled;
	__u64 time_ns;
	__u64 timed_weight;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, IRQ_SLOTS);
	__type(key, __u32);
	__type(value, struct irq_slot);
} irq_slots SEC(".maps");

static __always_inline struct cpu_state *this_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&cpu_states, &zero);
}

/* Weight of the next timed event, 0 = do not time it. */
static __always_inline __u32 choose(struct cpu_state *s, __u64 now_jiffies)
{
	now_jiffies = to_ticks(now_jiffies);
	if (s->timed_jiffies != now_jiffies) {
		s->timed_jiffies = now_jiffies;
		s->timed = 0;
	}
	if (s->timed < exact_per_jiffy) {
		s->timed++;
		return 1;
	}
	/* Numerical Recipes' generator: its high bits are good enough to break
	 * step with periodic traffic, and it costs less than a helper call. */
	s->random = s->random * 1664525 + 1013904223;
	return ((s->random >> 20) & sample_mask) ? 0 : sample_mask + 1;
}

static __always_inline __u32 task_kind(struct cpu_state *s)
{
	char comm[16] = {};
	__u64 task = bpf_get_current_task();

	if (task == s->task)
		return s->task_kind;
	s->task = task;
	s->task_kind = TASK_OTHER;
	bpf_get_current_comm(comm, sizeof(comm));
	if (comm[0] == 'k' && comm[1] == 's' && comm[2] == 'o' && comm[3] == 'f' &&
	    comm[4] == 't' && comm[5] == 'i' && comm[6] == 'r' && comm[7] == 'q' &&
	    comm[8] == 'd' && comm[9] == '/')
		s->task_kind = TASK_KSOFTIRQD;
	else if (comm[0] == 'n' && comm[1] == 'a' && comm[2] == 'p' && comm[3] == 'i' &&
		 comm[4] == '/')
		s->task_kind = TASK_NAPI_THREAD;
	else if (comm[0] == 'b' && comm[1] == 'a' && comm[2] == 'c' && comm[3] == 'k' &&
		 comm[4] == 'l' && comm[5] == 'o' && comm[6] == 'g' && comm[7] == '_')
		s->task_kind = TASK_BACKLOG_THREAD;
	return s->task_kind;
}

/*
 * Vectors are 64 bits wide from the event on: narrowed, the compiler compares
 * one copy and indexes with another, and the verifier loses the bound.
 */
static __always_inline int is_net(__u64 vec)
{
	return vec == NET_TX_SOFTIRQ || vec == NET_RX_SOFTIRQ;
}

/* [0] is NET_TX, [1] NET_RX in every pair of counters. */
static __always_inline __u64 pair_index(__u64 vec)
{
	return vec & 1;
}

static __always_inline int softirq_raise(__u64 vec)
{
	__u64 v = pair_index(vec);
	struct cpu_state *s;
	__u32 weight;

	if (!is_net(vec))
		return 0; /* only network vectors are followed from their request */
	s = this_cpu();
	if (!s)
		return 0; /* cannot happen: an array has its only element */
	if (s->raise_choice[v])
		return 0; /* raised again while pending: the first raise is the one that waits */
	weight = choose(s, bpf_jiffies64());
	s->raise_choice[v] = 1 + weight;
	if (weight)
		s->raise_ns[v] = bpf_ktime_get_ns();
	return 0;
}

/* What is kept for NET_RX and NET_TX only. Returns the weight of this run. */
static __always_inline __u32 net_entry(struct cpu_state *s, __u64 v, __u64 now_jiffies)
{
	__u32 choice = s->raise_choice[v];

	s->run_ksoftirqd = task_kind(s) == TASK_KSOFTIRQD;
	if (s->run_ksoftirqd)
		s->ksoftirqd_count[v]++;
	if (!with_raise)
		return choose(s, now_jiffies);
	s->raise_choice[v] = 0;
	if (choice)
		return choice - 1;
	/* Raised before the probe was attached, or by an interrupt between the
	 * moment the kernel cleared its pending bits and this event, when the
	 * earlier raise was still noted here. */
	s->unraised[v]++;
	return choose(s, now_jiffies);
}

/*
 * The verifier forbids arithmetic on typed pointers; what has been through
 * memory that it does not track is a number.
 */
static __always_inline __u64 address(struct cpu_state *s, void *p)
{
	*(volatile __u64 *)&s->napi = (__u64)p;
	return *(volatile __u64 *)&s->napi;
}

/* Every backlog is a member of the softnet_data of its CPU. */
static __always_inline void learn_softnet(struct cpu_state *s, struct napi_struct *napi)
{
	__u64 self = address(s, s);

	softnet_distance = address(s, napi) - core_field_offset(struct softnet_data, backlog) - self;
}

/* The kernel's own count of squeezes on this CPU; false if not known where. */
static __always_inline int read_squeezed(struct cpu_state *s, __u32 *squeezed)
{
	struct softnet_data *sd = (void *)s->softnet;

	if (!sd) {
		__u64 distance = softnet_distance;

		if (!distance)
			return 0; /* no backlog was polled yet */
		s->softnet = address(s, s) + distance;
		sd = (void *)s->softnet;
	}
	return !core_read(squeezed, &sd->time_squeeze);
}

static __always_inline int softirq_entry(__u64 vec, int mode)
{
	__u64 now_jiffies = bpf_jiffies64();
	struct cpu_state *s = this_cpu();
	__u64 v = pair_index(vec);
	__u32 weight, raised = 0;
	__u64 now;

	if (!s || vec >= NR_SOFTIRQS)
		return 0; /* a vector newer than this program */
	s->count[vec]++;
	if (is_net(vec)) {
		raised = with_raise && s->raise_choice[v] > 1;
		weight = net_entry(s, v, now_jiffies);
	} else {
		weight = choose(s, now_jiffies);
	}
	if (vec == NET_RX_SOFTIRQ) {
		s->in_rx = 1;
		s->primed = 1;
		s->run_polls = 0;
		s->run_full = 0;
		s->run_work = 0;
		s->entry_jiffies = now_jiffies;
		s->last_jiffies = now_jiffies;
		if (mode != READ_NONE && !s->squeezed_known)
			s->squeezed_known = read_squeezed(s, &s->squeezed);
	}
	s->weight = weight;
	s->entry_ns = 0;
	if (!weight)
		return 0;
	now = bpf_ktime_get_ns();
	s->entry_ns = now;
	s->mark_ns = now;
	if (raised && now > s->raise_ns[v])
		time_hist_add(&s->raise_to_entry[v], now - s->raise_ns[v], weight);
	return 0;
}

/* How often the kernel squeezed since it was last asked, in this run or in one that was not seen. */
static __always_inline __u32 squeezes(struct cpu_state *s)
{
	__u32 before = s->squeezed;

	if (!read_squeezed(s, &s->squeezed)) {
		/* The memory is gone: never seen. What was to be read is 0 now. */
		s->squeezed_known = 0;
		return 0;
	}
	return s->squeezed - before;
}

/*
 * Why the kernel squeezed. It tests two limits after each poll (net_rx_action
 * in net/core/dev.c), so one of them was exceeded. A tick between the last poll
 * and that test, or a CPU taken away there, shows by the end of the run.
 */
static __always_inline void explain(struct cpu_state *s, __u32 count)
{
	__u32 packets = s->run_work >= (__s64)(__s32)budget_packets;
	__u32 time = s->last_jiffies - s->entry_jiffies >= budget_jiffies;

	if (!packets && bpf_jiffies64() - s->entry_jiffies >= budget_jiffies)
		time = 1;
	if (packets && time)
		s->squeeze_both++;
	else if (packets)
		s->squeeze_packets++;
	else if (time)
		s->squeeze_time++;
	else
		s->squeeze_unexplained++;
	s->squeeze_unexplained += count - 1; /* runs that no program saw */
}

/* The kernel's own test after the last poll, repeated from outside. */
static __always_inline void infer(struct cpu_state *s)
{
	__u32 packets = s->run_work >= (__s64)(__s32)budget_packets;
	__u32 time = s->last_jiffies - s->entry_jiffies >= budget_jiffies;

	s->inferred++;
	if (!s->run_polls)
		return; /* nothing was polled, so the kernel tested nothing */
	if (packets && time)
		s->squeeze_both++;
	else if (packets)
		s->squeeze_packets++;
	else if (time)
		s->squeeze_time++;
}

static __always_inline void close_run(struct cpu_state *s, int mode)
{
	__u64 polls = s->run_polls, b;
	__u32 count;

	s->in_rx = 0;
	if (!counting)
		return; /* some of its polls may be missing */
	s->rx_runs++;
	s->rx_work += s->run_work;
	s->rx_polls += polls;
	s->rx_full += s->run_full;
	if (polls > s->max_polls)
		s->max_polls = polls;
	b = polls < POLL_BUCKETS - 1 ? polls : POLL_BUCKETS - 1;
	if (b < POLL_BUCKETS)
		s->polls_per_run[b]++;
	b = log2_bucket(s->run_work, QUEUE_BUCKETS - 1);
	if (b < QUEUE_BUCKETS)
		s->work_per_run[b]++;
	if (mode == READ_NONE || !s->squeezed_known) {
		infer(s);
		return; /* the kernel's own count is out of reach */
	}
	count = squeezes(s);
	if (count)
		explain(s, count);
}

static __always_inline int softirq_exit(__u64 vec, int mode)
{
	struct cpu_state *s = this_cpu();
	__u64 v = pair_index(vec);
	__u64 spent;

	if (!s || vec >= NR_SOFTIRQS)
		return 0; /* a vector newer than this program */
	if (vec == NET_RX_SOFTIRQ && s->in_rx)
		close_run(s, mode); /* else: attached in the middle of this run */
	if (!s->entry_ns)
		return 0; /* not timed, or attached in the middle of this run */
	spent = bpf_ktime_get_ns() - s->entry_ns;
	s->entry_ns = 0;
	s->time_ns[vec] += spent * s->weight;
	s->timed_weight[vec] += s->weight;
	if (!is_net(vec))
		return 0; /* the others have sums only */
	time_hist_add(&s->entry_to_exit[v], spent, s->weight);
	if (s->run_ksoftirqd)
		s->ksoftirqd_time_ns[v] += spent * s->weight;
	return 0;
}

/* Names a new slot: once per NAPI and CPU, so its cost is of no matter. */
static __always_inline void identify(struct napi_slot *slot, struct napi_struct *napi)
{
	struct net_device *dev = NULL;
	struct net *net = NULL;

	core_read(&dev, &napi->dev);
	if (!dev) {
		/* The per-CPU backlog is the one NAPI without a device and an id
		 * (net_dev_init in net/core/dev.c). */
		slot->kind = slot->napi_id ? NAPI_PLAIN : NAPI_BACKLOG;
		return;
	}
	bpf_probe_read_kernel_str(slot->device, IFNAMSIZ,
				  __builtin_preserve_access_index(&dev->name));
	core_read(&net, &dev->nd_net.net);
	if (net)
		core_read(&slot->netns, &net->ns.inum);
}

/*
 * The virtqueue of a NAPI, if it is a virtio-net receive queue; NULL otherwise.
 * The structure around the NAPI is only believed if the virtqueue in it names
 * the parent device of the very network device that the NAPI names.
 */
static __always_inline struct virtqueue *virtqueue_of(struct napi_struct *napi)
{
	__u64 offset = 8; /* struct receive_queue in every version read */
	struct virtqueue *vq = NULL;
	struct virtio_device *vdev = NULL;
	struct net_device *dev = NULL;
	struct device *parent = NULL;

	core_read(&dev, &napi->dev);
	if (!dev)
		return NULL; /* the backlog */
	core_read(&parent, &dev->dev.parent);
	if (!parent)
		return NULL; /* a device without hardware: veth, tunnels */
	if (core_type_exists(struct receive_queue))
		offset = core_field_offset(struct receive_queue, napi) -
			 core_field_offset(struct receive_queue, vq);
	bpf_probe_read_kernel(&vq, sizeof(vq), (void *)napi - offset);
	if (!vq)
		return NULL; /* some other driver */
	core_read(&vdev, &vq->vdev);
	if ((void *)vdev + core_field_offset(struct virtio_device, dev) != (void *)parent)
		return NULL; /* some other driver */
	return vq;
}

/* Whether a ring is packed, and how long; its length stays 0 if that cannot be known. */
static __always_inline void ring_form(struct virtio_slot *v, struct vring_virtqueue *vr)
{
	if (core_field_exists(((struct vring_virtqueue *)0)->packed_ring)) {
		_Bool packed = 0;

		core_read(&packed, &vr->packed_ring);
		v->packed = packed;
	} else if (core_field_exists(((struct vring_virtqueue___layout *)0)->layout)) {
		enum vq_layout layout = 0;

		core_read(&layout, &((struct vring_virtqueue___layout *)vr)->layout);
		v->packed = layout & VQ_LAYOUT_PACKED;
	} else {
		return;
	}
	core_read(&v->ring_size, &vr->split.vring.num);
}

/*
 * False where no kernel or module in memory has virtqueues: hosts on metal, or
 * with another maker's NIC. The loader's answer is a number in the program, by
 * which every verifier leaves out what could not be relocated; of numbers in
 * read-only maps, like with_virtio, verifiers know since 5.5.
 */
static __always_inline int reads_virtio(void)
{
	return with_virtio && core_type_exists(struct vring_virtqueue) &&
	       core_type_exists(struct virtqueue) && core_type_exists(struct virtio_device);
}

static __always_inline void adopt_virtio(struct cpu_state *s, struct napi_slot *slot,
					 struct napi_struct *napi)
{
	struct virtqueue *vq = virtqueue_of(napi);
	struct virtio_slot *v;
	__u32 index = 0, slot_nr;

	if (!vq)
		return; /* not virtio-net */
	core_read(&index, &vq->index);
	if (index & 1)
		return; /* a transmit queue: virtio-net numbers receive queues evenly */
	slot->kind = NAPI_VIRTIO;
	slot_nr = s->virtio_used;
	v = bpf_map_lookup_elem(&virtio_slots, &slot_nr);
	if (!v) {
		s->virtio_overflow++;
		return; /* more queues polled on this CPU than slots */
	}
	s->virtio_used++;
	v->vq = (__u64)vq;
	v->ifindex = slot->ifindex;
	v->netns = slot->netns;
	v->queue = index / 2;
	ring_form(v, (void *)vq - core_field_offset(struct vring_virtqueue, vq));
	slot->virtio_slot = 1 + slot_nr;
}

static __always_inline struct napi_slot *find_slot(struct cpu_state *s, struct napi_struct *napi,
						   __u32 ifindex, __u32 napi_id, int mode)
{
	__u64 key = address(s, napi);
	/* Fibonacci hashing; the low bits of a slab address carry nothing. */
	__u32 start = (key >> 4) * 0x9E3779B97F4A7C15ull >> 40;
	struct napi_slot *slot;
	__u32 i, at;

#pragma clang loop unroll(full)
	for (i = 0; i < NAPI_PROBES; i++) {
		at = (start + i) & (NAPI_SLOTS - 1);
		slot = bpf_map_lookup_elem(&napi_slots, &at);
		if (!slot)
			return NULL; /* cannot happen: the index is masked */
		if (slot->napi == key && slot->ifindex == ifindex &&
		    slot->napi_id == napi_id)
			return slot;
		if (slot->napi)
			continue;
		slot->napi = key;
		slot->ifindex = ifindex;
		slot->napi_id = napi_id;
		goto claimed;
	}
	s->napi_overflow++;
	return NULL; /* table full around this hash: counted, so that the report can say so */
claimed:
	if (mode == READ_NONE)
		return slot; /* no BTF: the pointer is all there is */
	identify(slot, (void *)key);
	if (reads_virtio())
		adopt_virtio(s, slot, (void *)key);
	return slot;
}

static __always_inline void backlog_length(struct cpu_state *s, struct napi_struct *napi, int work)
{
	struct softnet_data *sd = (void *)napi - core_field_offset(struct softnet_data, backlog);
	__u32 input = 0, process = 0;
	__u64 b;

	core_read(&input, &sd->input_pkt_queue.qlen);
	core_read(&process, &sd->process_queue.qlen);
	input += process + work;
	s->backlog_queue_sum += (__u64)input * s->weight;
	s->backlog_queue_weight += s->weight;
	b = log2_bucket(input, QUEUE_BUCKETS - 1);
	if (b < QUEUE_BUCKETS)
		s->backlog_queue[b] += s->weight;
}

/* Which interrupt serves this queue: the one whose handler was given the virtqueue. */
static __always_inline void learn_irq(struct cpu_state *s, struct virtio_slot *v)
{
	struct irq_slot *irq;
	__u32 at = s->last_irq_slot - 1;

	if (!s->last_irq_slot)
		return; /* no counted interrupt on this CPU yet */
	irq = bpf_map_lookup_elem(&irq_slots, &at);
	if (irq && irq->dev_id == v->vq)
		v->irq_slot = s->last_irq_slot;
}

static __always_inline void interrupted(struct cpu_state *s, struct virtio_slot *v)
{
	struct irq_slot *irq;
	__u32 at;

	if (!v->irq_slot)
		learn_irq(s, v);
	if (!v->irq_slot)
		return; /* the line is not counted, or has not fired since attach */
	at = v->irq_slot - 1;
	irq = bpf_map_lookup_elem(&irq_slots, &at);
	if (!irq)
		return; /* cannot happen: the slot was found before */
	if (irq->armed)
		v->armed_polls++;
	else
		v->unarmed_polls++;
	irq->armed = 0;
}

/* Ring state after a poll: what the host has filled and the driver not yet taken. */
static __always_inline void ring_state(struct virtio_slot *v)
{
	struct virtqueue *vq = (void *)v->vq;
	struct vring_virtqueue *vr = (void *)vq - core_field_offset(struct vring_virtqueue, vq);
	__u32 num_free = 0, pending, size = 0;
	__u16 used_idx = 0, last = 0;
	void *used = NULL;
	__u64 b;

	if (v->ring_size) /* else its form is not known */
		core_read(&size, &vr->split.vring.num);
	if (size != v->ring_size) {
		/* Resized in place (virtqueue_resize, 6.0 and later). */
		v->ring_size = size;
		v->empty_max = 0;
		v->pending_max = 0;
	}
	core_read(&num_free, &vq->num_free);
	if (num_free > v->empty_max)
		v->empty_max = num_free;
	if (v->packed || !size)
		return; /* a packed ring has no used index to compare with */
	core_read(&used, &vr->split.vring.used);
	bpf_probe_read_kernel(&used_idx, sizeof(used_idx), used + 2); /* after __virtio16 flags */
	core_read(&last, &vr->last_used_idx);
	pending = (__u16)(used_idx - last);
	if (pending > size)
		return; /* the ring was reset between the two reads */
	v->reads++;
	if (pending > v->pending_max)
		v->pending_max = pending;
	b = (__u64)pending * (RING_BUCKETS - 1) / size;
	if (b < RING_BUCKETS)
		v->pending[b]++;
	if (pending + num_free > size - size / 8)
		v->starved++;
}

static __always_inline void poll_virtio(struct cpu_state *s, struct napi_slot *slot, int work,
					int budget)
{
	struct virtio_slot *v;
	__u32 at = slot->virtio_slot - 1;

	v = bpf_map_lookup_elem(&virtio_slots, &at);
	if (!v)
		return; /* adopt_virtio found no free one, and counted that */
	if (work < budget)
		interrupted(s, v);
	ring_state(v);
}

/* False if this poll may belong to a softirq run whose entry was not seen. */
static __always_inline int count_outside(struct cpu_state *s, int work)
{
	__u32 kind = task_kind(s);
	struct outside *o = &s->busy;

	if (kind == TASK_NAPI_THREAD || kind == TASK_BACKLOG_THREAD)
		o = &s->threaded;
	else if (!s->primed || !counting)
		return 0; /* attached in the middle of a run, or about to be detached */
	o->polls++;
	o->work += work;
	return 1;
}

static __always_inline __u64 poll_time(struct cpu_state *s)
{
	__u64 now, spent;

	if (!s->in_rx || !s->entry_ns)
		return 0; /* not in a softirq, or this run is not timed */
	now = bpf_ktime_get_ns();
	spent = now - s->mark_ns;
	s->mark_ns = now;
	return spent;
}

static __always_inline void poll_slot(struct cpu_state *s, struct napi_slot *slot,
				      struct napi_struct *napi, int work, int budget, int mode)
{
	__u64 b = log2_bucket(work, WORK_BUCKETS - 1);
	__u64 spent = poll_time(s);
	__u64 weight = budget > POLL_WEIGHT ? budget : POLL_WEIGHT;

	slot->polls++;
	slot->work += work;
	if (b < WORK_BUCKETS)
		slot->work_per_poll[b]++;
	if (work >= budget)
		slot->full++;
	else if (!work)
		slot->empty++;
	if (!s->in_rx)
		slot->outside++;
	if (spent > LONG_POLL_NS / POLL_WEIGHT * weight) {
		slot->long_ns += spent * s->weight;
		slot->long_weight += s->weight;
	} else if (spent) {
		slot->time_ns += spent * s->weight;
		slot->timed_weight += s->weight;
	}
	if (spent && mode != READ_NONE && with_backlog && slot->kind == NAPI_BACKLOG)
		backlog_length(s, napi, work);
	if (mode != READ_NONE && reads_virtio() && slot->kind == NAPI_VIRTIO)
		poll_virtio(s, slot, work, budget);
}

static __always_inline int napi_poll(struct napi_struct *napi, int work, int budget, int mode)
{
	struct cpu_state *s = this_cpu();
	struct net_device *dev = NULL;
	struct napi_slot *slot;
	__u32 ifindex = 0, napi_id = 0;

	if (!s)
		return 0; /* cannot happen: an array has its only element */
	if (work < 0)
		work = 0; /* never seen; the kernel would add it to its budget */
	if (!budget) {
		s->netpoll.polls++;
		s->netpoll.work += work;
		return 0; /* netpoll sends a message from anywhere, also inside a softirq */
	}
	if (s->in_rx) {
		s->run_polls++;
		s->run_work += work;
		s->run_full += work >= budget;
		s->last_jiffies = bpf_jiffies64();
	} else if (!count_outside(s, work)) {
		return 0; /* perhaps in a run whose entry was not seen */
	}
	if (mode == READ_BTF) {
		dev = napi->dev;
		napi_id = napi->napi_id;
		if (dev)
			ifindex = dev->ifindex;
	} else if (mode == READ_PROBE) {
		core_read(&dev, &napi->dev);
		core_read(&napi_id, &napi->napi_id);
		if (dev)
			core_read(&ifindex, &dev->ifindex);
	}
	if (mode != READ_NONE && !softnet_distance && !dev && !napi_id)
		learn_softnet(s, napi);
	if (!with_napi)
		return 0;
	slot = find_slot(s, napi, ifindex, napi_id, mode);
	if (slot)
		poll_slot(s, slot, (void *)s->napi, work, budget, mode);
	return 0;
}

static __always_inline struct irq_slot *irq_slot(__u32 irq, __u32 *number)
{
	__u32 *filter = bpf_map_lookup_elem(&irq_filter, &irq);
	__u32 at;

	if (!filter || !*filter)
		return NULL; /* a line that nobody asked for */
	*number = *filter;
	at = *filter - 1;
	return bpf_map_lookup_elem(&irq_slots, &at);
}

static __always_inline int irq_handler_entry(__u32 irq, struct irqaction *action, int mode)
{
	__u32 number = 0;
	struct irq_slot *slot = irq_slot(irq, &number);
	struct cpu_state *s;

	if (!slot)
		return 0; /* a line that nobody asked for */
	slot->count++;
	slot->armed = 1;
	if (mode == READ_BTF)
		slot->dev_id = (__u64)action->dev_id;
	else if (mode == READ_PROBE)
		core_read(&slot->dev_id, &action->dev_id);
	s = this_cpu();
	if (!s)
		return 0; /* cannot happen: an array has its only element */
	s->irqs++;
	s->last_irq_slot = number;
	slot->weight = choose(s, bpf_jiffies64());
	slot->entry_ns = slot->weight ? bpf_ktime_get_ns() : 0;
	return 0;
}

static __always_inline int irq_handler_exit(__u32 irq, int ret)
{
	__u32 number;
	struct irq_slot *slot = irq_slot(irq, &number);

	if (!slot)
		return 0; /* a line that nobody asked for */
	if (!ret)
		slot->unhandled++; /* IRQ_NONE */
	if (!slot->entry_ns)
		return 0; /* not timed, or attached while the handler ran */
	slot->time_ns += (bpf_ktime_get_ns() - slot->entry_ns) * slot->weight;
	slot->timed_weight += slot->weight;
	slot->entry_ns = 0;
	return 0;
}

/* The hooks. Arguments: include/trace/events/{irq,napi}.h. */

SEC("tp_btf/softirq_raise")
int btf_softirq_raise(__u64 *ctx)
{
	return softirq_raise(ctx[0]);
}

SEC("raw_tp/softirq_raise")
int raw_softirq_raise(__u64 *ctx)
{
	return softirq_raise(ctx[0]);
}

SEC("tp_btf/softirq_entry")
int btf_softirq_entry(__u64 *ctx)
{
	return softirq_entry(ctx[0], READ_BTF);
}

SEC("raw_tp/softirq_entry")
int raw_softirq_entry(__u64 *ctx)
{
	return softirq_entry(ctx[0], READ_PROBE);
}

SEC("raw_tp/softirq_entry")
int bare_softirq_entry(__u64 *ctx)
{
	return softirq_entry(ctx[0], READ_NONE);
}

SEC("tp_btf/softirq_exit")
int btf_softirq_exit(__u64 *ctx)
{
	return softirq_exit(ctx[0], READ_BTF);
}

SEC("raw_tp/softirq_exit")
int raw_softirq_exit(__u64 *ctx)
{
	return softirq_exit(ctx[0], READ_PROBE);
}

SEC("raw_tp/softirq_exit")
int bare_softirq_exit(__u64 *ctx)
{
	return softirq_exit(ctx[0], READ_NONE);
}

SEC("tp_btf/napi_poll")
int btf_napi_poll(__u64 *ctx)
{
	return napi_poll((void *)ctx[0], ctx[1], ctx[2], READ_BTF);
}

SEC("raw_tp/napi_poll")
int raw_napi_poll(__u64 *ctx)
{
	return napi_poll((void *)ctx[0], ctx[1], ctx[2], READ_PROBE);
}

SEC("raw_tp/napi_poll")
int bare_napi_poll(__u64 *ctx)
{
	return napi_poll((void *)ctx[0], ctx[1], ctx[2], READ_NONE);
}

SEC("tp_btf/irq_handler_entry")
int btf_irq_entry(__u64 *ctx)
{
	return irq_handler_entry(ctx[0], (void *)ctx[1], READ_BTF);
}

SEC("raw_tp/irq_handler_entry")
int raw_irq_entry(__u64 *ctx)
{
	return irq_handler_entry(ctx[0], (void *)ctx[1], READ_PROBE);
}

SEC("raw_tp/irq_handler_entry")
int bare_irq_entry(__u64 *ctx)
{
	return irq_handler_entry(ctx[0], (void *)ctx[1], READ_NONE);
}

SEC("tp_btf/irq_handler_exit")
int btf_irq_exit(__u64 *ctx)
{
	return irq_handler_exit(ctx[0], ctx[2]);
}

SEC("raw_tp/irq_handler_exit")
int raw_irq_exit(__u64 *ctx)
{
	return irq_handler_exit(ctx[0], ctx[2]);
}
