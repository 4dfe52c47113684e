/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The programs on the tracepoint of state changes. They call on_change(), which
 * the program that includes this has defined before, once for each change.
 */
#ifndef TCPLIFE_CHANGES_H
#define TCPLIFE_CHANGES_H

/* The change that was last seen on this processor. */
struct change {
	__u64 sk;
	__u64 newstate;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct change);
} last_changes SEC(".maps");

static __always_inline struct change *last_change(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&last_changes, &key);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, struct sock *sk, int oldstate, int newstate)
{
	struct change *last = last_change();

	/* The tracepoint serves SCTP, DCCP and MPTCP sockets, too. */
	if (sk->sk_protocol != IPPROTO_TCP || !last)
		return 0;
	last->sk = (__u64)sk;
	last->newstate = newstate;
	on_change(sk, oldstate, newstate, acting(sk));
	return 0;
}

/*
 * A program isn't run while it runs already on the same processor
 * (kernel/trace/bpf_trace.c, __bpf_trace_run()). An interrupt in the program
 * above may bring a batch of packets, and with them hundreds of changes that
 * it is not run for: those are for this one. They are made by softirqs, never
 * by a task; and what interrupts this one is seen above.
 */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(interrupted, struct sock *sk, int oldstate, int newstate)
{
	struct change *last = last_change();

	if (sk->sk_protocol == IPPROTO_TCP && !acting(sk) && last &&
	    (last->sk != (__u64)sk || last->newstate != (__u64)newstate))
		on_change(sk, oldstate, newstate, false);
	return 0;
}

#endif
