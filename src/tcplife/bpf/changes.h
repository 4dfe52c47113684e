/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The programs on state changes, and how one on a socket's end is declared.
 * They call on_change(), which the program that includes this has defined
 * before, once for each change.
 */
#ifndef TCPLIFE_CHANGES_H
#define TCPLIFE_CHANGES_H

#include "trace.h"

#if TIER <= 3

#if TIER == 3
#define TRACEPOINT(name) SEC("raw_tp/" name)
#else
#define TRACEPOINT(name) SEC("tp_btf/" name)
#endif

/* The change that was last seen on this processor: by a softirq, by a task. */
struct change {
	__u64 sk;
	__u64 newstate;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct change);
} last_changes SEC(".maps");

static __always_inline struct change *last_change(bool by_task)
{
	__u32 key = by_task;

	return bpf_map_lookup_elem(&last_changes, &key);
}

TRACEPOINT("inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, struct sock *sk, int oldstate, int newstate)
{
	bool by_task = acting(sk);
	struct change *last = last_change(by_task);

	/* The tracepoint serves SCTP, DCCP and MPTCP sockets, too. */
	if (BITS(sk, sk_protocol) != IPPROTO_TCP || !last)
		return 0;
	last->sk = (__u64)sk;
	last->newstate = newstate;
	on_change(ctx, sk, oldstate, newstate, by_task);
	return 0;
}

/*
 * A program isn't run while it runs already on the same processor
 * (kernel/trace/bpf_trace.c, __bpf_trace_run(), since 6.2). An interrupt in the
 * program above may bring a batch of packets, and with them hundreds of changes
 * that it is not run for; since Linux 7, which runs programs preemptibly, so
 * may another task. Those are for this one; and what interrupts it is seen
 * above.
 */
TRACEPOINT("inet_sock_set_state")
int BPF_PROG(interrupted, struct sock *sk, int oldstate, int newstate)
{
	bool by_task = acting(sk);
	struct change *last = last_change(by_task);

	if (BITS(sk, sk_protocol) == IPPROTO_TCP && last &&
	    (last->sk != (__u64)sk || last->newstate != (__u64)newstate))
		on_change(ctx, sk, oldstate, newstate, by_task);
	return 0;
}

#define ON_DESTROY(ctx, sk)                                                    \
	TRACEPOINT("tcp_destroy_sock")                                         \
	int BPF_PROG(tcp_destroy_sock, struct sock *sk)

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

static __always_inline int on_destroy(void *ctx, struct sock *sk);

/* For IPv6 as well: tcp_v6_destroy_sock() was no more than this until 6.2. */
SEC("kprobe/tcp_v4_destroy_sock")
int tcp_destroy_sock(void *ctx)
{
	return on_destroy(ctx, (struct sock *)ARGUMENT(ctx, di, 0));
}

#define ON_DESTROY(ctx, sk)                                                    \
	static __always_inline int on_destroy(void *ctx, struct sock *sk)

#endif

/* A change to CLOSE may have gone unseen; then this is the end of it. */
static __always_inline void forget_destroyed(struct sock *sk)
{
#if TIER > 1
	forget(sk);
#endif
}

#endif
