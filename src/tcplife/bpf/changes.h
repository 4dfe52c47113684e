/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The programs on state changes and on a socket's end. They call on_change()
 * and on_destroy(), which each tool has: once for a change, and seldom again.
 */
#ifndef TCPLIFE_CHANGES_H
#define TCPLIFE_CHANGES_H

#include "config.h"
#include "socket.h"
#include "tier.h"

#include <bpf/bpf_tracing.h>

/* by_task: the current task makes the change. */
static __always_inline void on_change(void *ctx, struct sock *sk, int oldstate,
				      int newstate, bool by_task);
static __always_inline int on_destroy(void *ctx, struct sock *sk);

#if TIER <= 3

#if TIER == 3
#define TRACEPOINT(name) SEC("raw_tp/" name)
#else
#define TRACEPOINT(name) SEC("tp_btf/" name)
#endif

/* called_change. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} called SEC(".maps");

/*
 * Attached to nothing: those below call it, and may while it runs already on
 * the same processor. So it must not have the private stack, one a processor,
 * that programs have since Linux 6.13: what has a tail call does without it
 * (kernel/bpf/verifier.c, check_max_stack_depth()).
 */
TRACEPOINT("inet_sock_set_state")
int BPF_PROG(called_change, struct sock *sk, int oldstate, int newstate)
{
	if (cfg()->never)
		bpf_tail_call(ctx, &called, 0);
	on_change(ctx, sk, oldstate, newstate, acting(sk));
	return 0;
}

/*
 * The change that was last seen of those that a task makes, or a softirq on a
 * processor; several may share an entry.
 */
#define MAKERS_BITS 10

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 << MAKERS_BITS);
	__type(key, __u32);
	__type(
		value, struct {
			__u64 change;
			__u64 unused[7]; /* the rest of its line in the cache */
		});
} last_changes SEC(".maps");

static __always_inline __u64 *last_change(const struct sock *sk)
{
	__u32 key =
		acting(sk)
			? 1 << MAKERS_BITS |
				  hash_of(bpf_get_current_task(), MAKERS_BITS)
			: bpf_get_smp_processor_id() & ((1 << MAKERS_BITS) - 1);

	return bpf_map_lookup_elem(&last_changes, &key);
}

enum position {
	POSITION_FIRST,
	POSITION_BETWEEN,
	POSITION_LAST,
};

/* Has a program before, of these on the same change, seen it? */
static __always_inline bool seen(const struct sock *sk, int newstate,
				 enum position position)
{
	__u64 change = number_of(sk) << 4 | newstate;
	__u64 *last = last_change(sk);
	bool seen;

	/* The tracepoint serves SCTP, DCCP and MPTCP sockets, too. */
	if (BITS(sk, sk_protocol) != IPPROTO_TCP || !last)
		return true;
	seen = position != POSITION_FIRST && *last == change;
	*last = position == POSITION_LAST ? 0 : change;
	return seen;
}

#define ON_CHANGE(name, position)                                              \
	TRACEPOINT("inet_sock_set_state")                                      \
	int BPF_PROG(name, struct sock *sk, int oldstate, int newstate)        \
	{                                                                      \
		if (!seen(sk, newstate, position))                             \
			bpf_tail_call(ctx, &called, 0);                        \
		return 0;                                                      \
	}

/* Attached in this order. */
ON_CHANGE(change, POSITION_FIRST)

/*
 * A program isn't run while it runs already on the same processor
 * (kernel/trace/bpf_trace.c, __bpf_trace_run(), since 6.2). Since Linux 7
 * programs run preemptibly (include/linux/tracepoint.h, __DECLARE_TRACE()): on
 * a processor with too much to do there is often a task, and seldom are there
 * many, that waits for its turn within a program. Until then the others'
 * changes are for the next one. Left out where it isn't so.
 *
 * Between two programs, the task may be moved to another processor, or another
 * one make its changes: then a program takes a change to be unseen that is not,
 * which on_change() has to find out.
 */
ON_CHANGE(preemptible_1, POSITION_BETWEEN)
ON_CHANGE(preemptible_2, POSITION_BETWEEN)
ON_CHANGE(preemptible_3, POSITION_BETWEEN)
ON_CHANGE(preemptible_4, POSITION_BETWEEN)
ON_CHANGE(preemptible_5, POSITION_BETWEEN)
ON_CHANGE(preemptible_6, POSITION_BETWEEN)

/*
 * On all kernels an interrupt may bring a batch of packets, and with them
 * hundreds of changes. Nothing that makes changes interrupts that.
 */
ON_CHANGE(change_again, POSITION_LAST)

/* That it runs twice does no harm. */
TRACEPOINT("tcp_destroy_sock")
int BPF_PROG(tcp_destroy_sock, struct sock *sk)
{
	return on_destroy(ctx, sk);
}

TRACEPOINT("tcp_destroy_sock")
int BPF_PROG(preemptible_destroy, struct sock *sk)
{
	return on_destroy(ctx, sk);
}

#else

/* Registers of the two machines that this serves. */
struct pt_regs___x86 {
	unsigned long di;
	unsigned long si;
} __attribute__((preserve_access_index));

struct pt_regs___arm64 {
	__u64 regs[31];
} __attribute__((preserve_access_index));

/* By a helper: the verifier takes no offset that is not in the load itself. */
#define ARGUMENT(ctx, on_x86, on_arm64)                                        \
	(bpf_core_field_exists(((struct pt_regs___x86 *)ctx)->on_x86)          \
		 ? BPF_CORE_READ((struct pt_regs___x86 *)ctx, on_x86)          \
		 : BPF_CORE_READ((struct pt_regs___arm64 *)ctx,                \
				 regs[on_arm64]))

/* A listener's children come without it (inet_csk_clone_lock()). */
SEC("kprobe/tcp_set_state")
int tcp_set_state(void *ctx)
{
	struct sock *sk = (struct sock *)ARGUMENT(ctx, di, 0);
	int newstate = ARGUMENT(ctx, si, 1);
	int oldstate = FIELD(sk, __sk_common.skc_state);

	/* As the tracepoint does not either, it leaves this to be asked. */
	if (BITS(sk, sk_protocol) == IPPROTO_TCP && oldstate != newstate)
		on_change(ctx, sk, oldstate, newstate, acting(sk));
	return 0;
}

/* For IPv6 as well: tcp_v6_destroy_sock() was no more than this until 6.2. */
SEC("kprobe/tcp_v4_destroy_sock")
int tcp_destroy_sock(void *ctx)
{
	return on_destroy(ctx, (struct sock *)ARGUMENT(ctx, di, 0));
}

#endif

#endif
