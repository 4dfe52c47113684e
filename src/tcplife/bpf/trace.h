/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What each program that follows sockets has: what it shares with user space,
 * where it keeps a session (a struct session, which it has declared before),
 * how it sends, and its filters.
 */
#ifndef TCPLIFE_TRACE_H
#define TCPLIFE_TRACE_H

#include "owner.h"

#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

/* Shared with user space while running, through the mapped .bss. */
struct control {
	__u64 lost_events;   /* ended, but the ring buffer was full */
	__u64 lost_sessions; /* began, but there was no memory to follow it */
	__u64 parked;	     /* sessions parked so far */
	__u64 resolved;	     /* of these, given their owner here */
	__u64 walked;	     /* of these, given their owner by holders.bpf.c */
	__u64 closing;	     /* tasks that are closing a listener */
	__u64 full_ns;	     /* when there was no more room in open_sessions */
	__u64 began_ns;	     /* the trace, for sessions that are older */
	__u64 noted;	     /* all that were open then are known by now */
	__u64 tool;	     /* the PID that walks over sockets */
	__u64 round;	     /* of walks over open files */
	__u64 any_holder;    /* in this walk */
	__u64 last_list;     /* what is listed now is not told again */
	__u64 local_ports[1024]; /* a bit a port */
	__u64 remote_ports[1024];
};

struct control control = {};

/*
 * By the socket's address, from the first state to CLOSE. Made in advance: to
 * enter a session and take it out costs a third of what it does with the
 * socket's own storage, which is for those that have no room here.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct session);
} open_sessions SEC(".maps");

/* How long to leave a full open_sessions alone. */
#define FULL_PAUSE_NS 10000000

/*
 * Lives and dies with the socket; its only limit is the socket's own option
 * memory (net.core.optmem_max, 20 KiB or more).
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct session);
} more_sessions SEC(".maps");

/*
 * Records on their way to user space; lives as long as the tool. Its size is
 * the program's: for the records of a tenth of a second that is as busy as can
 * be.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} events SEC(".maps");

/* Does the current task act on the socket, and for itself? (see walk.h) */
static __always_inline bool acting(const struct sock *sk)
{
	return sk->sk_lock.owned &&
	       !(config.all &&
		 bpf_get_current_pid_tgid() >> 32 == control.tool);
}

static __always_inline bool has_flag(const struct sock *sk, int flag)
{
	return sk->__sk_common.skc_flags >> flag & 1;
}

static __always_inline bool has_port(const __u64 *ports, __u16 port)
{
	return ports[port >> 6 & 1023] & 1ULL << (port & 63);
}

static __always_inline bool wanted_lport(__u16 port)
{
	return !config.filter_lport || has_port(control.local_ports, port);
}

static __always_inline bool wanted_rport(__u16 port)
{
	return !config.filter_rport || has_port(control.remote_ports, port);
}

static __always_inline struct session *find(struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct session *session;

	session = bpf_map_lookup_elem(&open_sessions, &key);
	if (session && !session->over)
		return session;
	return bpf_sk_storage_get(&more_sessions, sk, NULL, 0);
}

static __always_inline void forget(struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct session *session;

	if (!bpf_map_delete_elem(&open_sessions, &key))
		return;
	/*
	 * It isn't there, or could not be taken out: the map refuses what
	 * interrupts its own work (kernel/bpf/hashtab.c, htab_lock_bucket()).
	 */
	session = bpf_map_lookup_elem(&open_sessions, &key);
	if (session)
		session->over = 1;
	bpf_sk_storage_delete(&more_sessions, sk);
}

static __always_inline void keep(struct sock *sk, struct session *session,
				 __u64 now)
{
	__u64 key = (__u64)sk;

	if (now - control.full_ns > FULL_PAUSE_NS) {
		if (!bpf_map_update_elem(&open_sessions, &key, session,
					 BPF_ANY))
			return;
		control.full_ns = now;
	}
	if (!bpf_sk_storage_get(&more_sessions, sk, session,
				BPF_SK_STORAGE_GET_F_CREATE))
		__sync_fetch_and_add(&control.lost_sessions, 1);
}

/* The reader comes by itself many times a second: wake it in need. */
static __always_inline __u64 wake_flags(void)
{
	return bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) >=
			       config.wake_bytes
		       ? BPF_RB_FORCE_WAKEUP
		       : BPF_RB_NO_WAKEUP;
}

#define copy_addr(to, from)                                                    \
	do {                                                                   \
		__u32 *words = (__u32 *)(to);                                  \
		words[0] = (from).in6_u.u6_addr32[0];                          \
		words[1] = (from).in6_u.u6_addr32[1];                          \
		words[2] = (from).in6_u.u6_addr32[2];                          \
		words[3] = (from).in6_u.u6_addr32[3];                          \
	} while (0)

static __always_inline void map_addr(__u8 *to, __u32 addr)
{
	__u32 *words = (__u32 *)to;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = addr;
}

static __always_inline void tell_addresses(__u8 *laddr, __u8 *raddr,
					   const struct sock *sk)
{
	if (sk->__sk_common.skc_family == AF_INET6 &&
	    bpf_core_field_exists(sk->__sk_common.skc_v6_daddr)) {
		copy_addr(laddr, sk->__sk_common.skc_v6_rcv_saddr);
		copy_addr(raddr, sk->__sk_common.skc_v6_daddr);
	} else {
		map_addr(laddr, sk->__sk_common.skc_rcv_saddr);
		map_addr(raddr, sk->__sk_common.skc_daddr);
	}
}

/* IPv4 through an IPv6 socket is IPv4. */
static __always_inline bool wanted_family(const struct sock *sk)
{
	bool four = sk->__sk_common.skc_family == AF_INET;

	if (!config.family)
		return true;
	if (!four && bpf_core_field_exists(sk->__sk_common.skc_v6_daddr))
		four = !sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[0] &&
		       !sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[1] &&
		       sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[2] ==
			       bpf_htonl(0xffff);
	return config.family == (four ? 4 : 6);
}

#endif
