/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where sessions are kept while they live, and which have ended. */
#ifndef TCPLIFE_SESSION_STORE_H
#define TCPLIFE_SESSION_STORE_H

#include "kept.h"
#include "shared.h"
#include "socket.h"
#include "storage.h"

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
 * The number of the socket whose session was the last to end, of all that hash
 * to the same: see changes.h.
 */
#define ENDED_BITS 12

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << ENDED_BITS);
	__type(key, __u32);
	__type(value, __u64);
} last_ended SEC(".maps");

static __always_inline void note_ended(const struct sock *sk)
{
	__u64 number = number_of(sk);
	__u32 key = hash_of(number, ENDED_BITS);
	__u64 *last;

	/* One program sees them all there. */
	if (TIER == 4)
		return;
	last = bpf_map_lookup_elem(&last_ended, &key);
	if (last)
		*last = number;
}

static __always_inline bool just_ended(const struct sock *sk)
{
	__u64 number = number_of(sk);
	__u32 key = hash_of(number, ENDED_BITS);
	__u64 *last = bpf_map_lookup_elem(&last_ended, &key);

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

static __always_inline struct session *find_session(struct sock *sk)
{
	__u32 place = place_of(number_of(sk));
	struct session *session;

	session = bpf_map_lookup_elem(&open_sessions, &place);
	if (!session && cnt()->overflowed)
		session = of_socket(more_sessions, sk);
	return session && !session->over ? session : NULL;
}

static __always_inline void forget_session(struct sock *sk)
{
	leave_place(number_of(sk));
	if (cnt()->overflowed)
		bpf_sk_storage_delete(&more_sessions, sk);
}

static __always_inline void keep_session(struct sock *sk,
					 struct session *session)
{
	__u32 place = take_place(number_of(sk));
	struct session *kept;

	kept = bpf_map_lookup_elem(&open_sessions, &place);
	if (kept) {
		*kept = *session;
		return;
	}
	cnt()->overflowed = 1;
	kept = add_to_socket(more_sessions, sk);
	if (kept)
		*kept = *session;
	else
		__sync_fetch_and_add(&cnt()->lost_sessions, 1);
}
#else
static __always_inline struct session *find_session(struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct session *session;

	session = bpf_map_lookup_elem(&open_sessions, &key);
	return session && !session->over ? session : NULL;
}

static __always_inline void forget_session(struct sock *sk)
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

static __always_inline void keep_session(struct sock *sk,
					 struct session *session)
{
	__u64 key = (__u64)sk;

	if (bpf_map_update_elem(&open_sessions, &key, session, BPF_ANY))
		__sync_fetch_and_add(&cnt()->lost_sessions, 1);
}
#endif

/* A change to CLOSE may have gone unseen; then this is the end of it. */
static __always_inline void forget_destroyed(struct sock *sk)
{
	if (TIER > 1)
		forget_session(sk);
}

#endif
