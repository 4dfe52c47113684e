/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What each program that follows sockets has: what it shares with user space,
 * where it keeps a session (a struct session, which it has declared before),
 * how it sends, and its filters.
 */
#ifndef TCPLIFE_TRACE_H
#define TCPLIFE_TRACE_H

#include "owner.h"
#include "sockets.h"

#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

/* What user space reads while running. */
struct counts {
	__u64 lost_events;   /* ended, but there was no room to send it */
	__u64 lost_sessions; /* began, but there was no memory to follow it */
	__u64 parked;	     /* sessions parked so far */
	__u64 resolved;	     /* of these, given their owner here */
	__u64 closing;	     /* tasks that are closing a listener */
	__u64 overflowed;    /* open_sessions had no room for one */
	__u64 asked_ns;	     /* when the ring's fill was last looked at */
	__u64 groups;	     /* numbers that were given to groups */
	__u64 folded;	     /* sessions whose group had no room of its own */
	__u64 uncounted;     /* values that had no room in a histogram */
};

/* What it sets while running. */
struct control {
	__u64 tool; /* its PID, once it has walked over open files or sockets */
	__u64 walked;	  /* parked sessions that it found the owners of */
	__u64 began_ns;	  /* the trace, for sessions that are older */
	__u64 noted;	  /* all that were open then are known by now */
	__u64 round;	  /* of walks over open files */
	__u64 any_holder; /* in this walk */
	__u64 last_list;  /* what is listed now is not told again */
	__u64 filled;	  /* which of two sets of maps is added to */
	__u64 local_ports[1024]; /* a bit a port */
	__u64 remote_ports[1024];
};

#if TIER <= 2
/* One variable, so that their order in memory is known. */
struct shared {
	struct counts counts;
	struct control control;
};
GLOBAL(shared, shared)
#define counted shared.counts
#define control shared.control
#else
GLOBAL(counts, counted)
GLOBAL(control, control)
#define counted (*counted_at())
#define control (*control_at())
#endif

#if TIER == 1
/*
 * By the socket's address, from the first state to CLOSE: four places for all
 * addresses that hash to the same. Not a hash map: to enter a session there, to
 * find it each time and to take it out costs four times as much, and is refused
 * to what interrupts the map's own work (kernel/bpf/hashtab.c,
 * htab_lock_bucket()).
 */
#define PLACES 4
#define PLACES_BITS 12

/* Whose they are: see number_of(). 0: free. */
struct places {
	__u64 numbers[PLACES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << PLACES_BITS);
	__type(key, __u32);
	__type(value, struct places);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PLACES << PLACES_BITS);
	__type(key, __u32);
	__type(value, struct session);
} open_sessions SEC(".maps");

/*
 * Those that have no room there. Lives and dies with the socket; its only limit
 * is the socket's own option memory (net.core.optmem_max, 20 KiB or more).
 */
PER_SOCKET(session, more_sessions)
#else
/* Where there is no storage of sockets' own, user space sets the size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct session);
} open_sessions SEC(".maps");
#endif

/*
 * Records on their way to user space; lives as long as the tool. Its size is
 * the program's: for the records of a tenth of a second that is as busy as can
 * be.
 */
#if TIER <= 2
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} events SEC(".maps");
#else
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");
#endif

/*
 * Does the current task act on the socket, and for itself? Who walks over open
 * files holds each for a moment: closed just then, it is the walker that closes
 * it in the end (fs/file_table.c, fput()).
 */
static __always_inline bool acting(const struct sock *sk)
{
	return FIELD(sk, sk_lock.owned) &&
	       !(control.tool &&
		 bpf_get_current_pid_tgid() >> 32 == control.tool);
}

static __always_inline bool has_flag(const struct sock *sk, int flag)
{
	return FIELD(sk, __sk_common.skc_flags) >> flag & 1;
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

/*
 * A number for each socket. Where the verifier takes it for a pointer,
 * which may not be calculated with, it is the difference of two.
 */
static __always_inline __u64 number_of(const struct sock *sk)
{
	__u64 number = (__u64)sk;

#if TIER <= 2
	asm volatile("%0 -= %1" : "+r"(number) : "r"(&shared));
#endif
	return number;
}

static __always_inline __u32 hash_of(__u64 number, int bits)
{
	return number * 0x9e3779b97f4a7c15ULL >> (64 - bits);
}

/*
 * The number of the socket whose session was the last to end, of all that hash
 * to the same: see changes.h.
 */
#define ENDED_BITS 12

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << ENDED_BITS);
	__type(key, __u32);
	__type(value, __u64);
} ended SEC(".maps");

static __always_inline void note_ended(const struct sock *sk)
{
	__u64 number = number_of(sk);
	__u32 key = hash_of(number, ENDED_BITS);
	__u64 *last;

	/* One program sees them all there. */
	if (TIER == 4)
		return;
	last = bpf_map_lookup_elem(&ended, &key);
	if (last)
		*last = number;
}

static __always_inline bool just_ended(const struct sock *sk)
{
	__u64 number = number_of(sk);
	__u32 key = hash_of(number, ENDED_BITS);
	__u64 *last = bpf_map_lookup_elem(&ended, &key);

	return last && *last == number;
}

#if TIER == 1
#define NO_PLACE ~0U

static __always_inline __u32 set_of(__u64 number)
{
	return hash_of(number, PLACES_BITS);
}

/*
 * Where open_sessions has the session of a socket. A function that is not
 * static the verifier goes through once, and not at each call.
 */
__noinline __u32 place_of(__u64 number)
{
	__u32 set = set_of(number);
	struct places *found = bpf_map_lookup_elem(&places, &set);

	if (!found)
		return NO_PLACE;
	for (int i = 0; i < PLACES; i++)
		if (found->numbers[i] == number)
			return set * PLACES + i;
	return NO_PLACE;
}

__noinline __u32 take_place(__u64 number)
{
	__u32 set = set_of(number);
	struct places *found = bpf_map_lookup_elem(&places, &set);

	if (!found)
		return NO_PLACE;
	/* One may be there, whose end was not seen. */
	for (int i = 0; i < PLACES; i++)
		if (found->numbers[i] == number)
			return set * PLACES + i;
	for (int i = 0; i < PLACES; i++)
		if (!found->numbers[i] &&
		    !__sync_val_compare_and_swap(&found->numbers[i], 0, number))
			return set * PLACES + i;
	return NO_PLACE;
}

/* What is in it has been read by then: the exchange is a barrier. */
__noinline int leave_place(__u64 number)
{
	__u32 set = set_of(number);
	struct places *found = bpf_map_lookup_elem(&places, &set);

	if (!found)
		return 0;
	for (int i = 0; i < PLACES; i++)
		if (found->numbers[i] == number)
			__sync_val_compare_and_swap(&found->numbers[i], number,
						    0);
	return 0;
}

static __always_inline struct session *find(struct sock *sk)
{
	__u32 place = place_of(number_of(sk));
	struct session *session;

	session = bpf_map_lookup_elem(&open_sessions, &place);
	if (!session && counted.overflowed)
		session = of_socket(more_sessions, sk);
	return session && !session->over ? session : NULL;
}

static __always_inline void forget(struct sock *sk)
{
	leave_place(number_of(sk));
	if (counted.overflowed)
		bpf_sk_storage_delete(&more_sessions, sk);
}

static __always_inline void keep(struct sock *sk, struct session *session)
{
	__u32 place = take_place(number_of(sk));
	struct session *kept;

	kept = bpf_map_lookup_elem(&open_sessions, &place);
	if (kept) {
		*kept = *session;
		return;
	}
	counted.overflowed = 1;
	kept = add_to_socket(more_sessions, sk);
	if (kept)
		*kept = *session;
	else
		__sync_fetch_and_add(&counted.lost_sessions, 1);
}
#else
static __always_inline struct session *find(struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct session *session;

	session = bpf_map_lookup_elem(&open_sessions, &key);
	return session && !session->over ? session : NULL;
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
}

static __always_inline void keep(struct sock *sk, struct session *session)
{
	__u64 key = (__u64)sk;

	if (bpf_map_update_elem(&open_sessions, &key, session, BPF_ANY))
		__sync_fetch_and_add(&counted.lost_sessions, 1);
}
#endif

/* In this time no ring is filled from where it wakes its reader. */
#define ASK_NS 250000

/* ctx: the program's own, which perf buffers take. */
static __always_inline void send_record(void *ctx, void *record, __u32 size,
					__u64 now)
{
#if TIER <= 2
	/*
	 * The reader comes by itself many times a second: wake it in need. To
	 * ask is not cheap, as all processors write there.
	 */
	__u64 flags = BPF_RB_NO_WAKEUP;

	if (now - counted.asked_ns > ASK_NS) {
		counted.asked_ns = now;
		if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) >=
		    config.wake_bytes)
			flags = BPF_RB_FORCE_WAKEUP;
	}

	if (bpf_ringbuf_output(&events, record, size, flags))
		__sync_fetch_and_add(&counted.lost_events, 1);
#else
	/*
	 * Counted here, as the kernel's own count of what finds no room comes
	 * with the next record, if there is one. Before Linux 5.1 the helper
	 * does not say, and that is all there is.
	 */
	if (bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, record,
				  size))
		__sync_fetch_and_add(&counted.lost_events, 1);
#endif
}

#if TIER == 1
#define copy_addr(to, sk, field)                                               \
	do {                                                                   \
		__u32 *words = (__u32 *)(to);                                  \
		words[0] = (sk)->field.in6_u.u6_addr32[0];                     \
		words[1] = (sk)->field.in6_u.u6_addr32[1];                     \
		words[2] = (sk)->field.in6_u.u6_addr32[2];                     \
		words[3] = (sk)->field.in6_u.u6_addr32[3];                     \
	} while (0)
#else
#define copy_addr(to, sk, field) bpf_core_read(to, 16, &(sk)->field)
#endif

static __always_inline void map_addr(__u8 *to, __u32 addr)
{
	__u32 *words = (__u32 *)to;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = addr;
}

static __always_inline bool is_inet6(const struct sock *sk)
{
	return FIELD(sk, __sk_common.skc_family) == AF_INET6 &&
	       bpf_core_field_exists(sk->__sk_common.skc_v6_daddr);
}

static __always_inline void tell_addresses(__u8 *laddr, __u8 *raddr,
					   const struct sock *sk)
{
	if (is_inet6(sk)) {
		copy_addr(laddr, sk, __sk_common.skc_v6_rcv_saddr);
		copy_addr(raddr, sk, __sk_common.skc_v6_daddr);
	} else {
		map_addr(laddr, FIELD(sk, __sk_common.skc_rcv_saddr));
		map_addr(raddr, FIELD(sk, __sk_common.skc_daddr));
	}
}

/* IPv4 through an IPv6 socket is IPv4. */
static __always_inline bool wanted_family(const struct sock *sk)
{
	__u32 addr[4];

	if (!config.family)
		return true;
	if (!is_inet6(sk))
		return config.family == 4;
	copy_addr(addr, sk, __sk_common.skc_v6_daddr);
	return config.family ==
	       (!addr[0] && !addr[1] && addr[2] == bpf_htonl(0xffff) ? 4 : 6);
}

/* A change to CLOSE may have gone unseen; then this is the end of it. */
static __always_inline void forget_destroyed(struct sock *sk)
{
#if TIER > 1
	forget(sk);
#endif
}

#endif
