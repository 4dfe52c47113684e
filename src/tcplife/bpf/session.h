/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is told of a session, and who owns it. Shared by the program that
 * follows sessions and the one that looks for their owners.
 */
#ifndef TCPLIFE_SESSION_H
#define TCPLIFE_SESSION_H

#include "owner.h"

/*
 * The record sent to user space, which learns its layout from this object's
 * BTF (`make bpf` writes layout.py). Addresses are IPv6, or IPv4 mapped
 * into it (RFC 4291, 2.5.5.2), which is also what tells the family. Ports are
 * in host order, time_ns is CLOCK_MONOTONIC. Durations are in
 * whole microseconds, as user space shows them.
 */
struct session_event {
	__u64 time_ns;	/* CLOSE */
	__u64 life_us;	/* from the first state seen */
	__u64 span_us;	/* from the last early one: ESTABLISHED, as a rule */
	__u64 tx_bytes; /* sent by the application and acknowledged */
	__u64 rx_bytes; /* received for the application */
	struct owner owner;
	__u16 lport;
	__u16 rport;
	__u8 laddr[16];
	__u8 raddr[16];
};
_Static_assert(sizeof(struct session_event) == 96,
	       "the ring buffer's stride is a multiple of 8, without padding");

/*
 * A session that has ended while somebody may still hold its socket, and it
 * isn't sure who: the process that closes it is the owner.
 */
struct parked {
	struct session_event event;
	__u32 waiting; /* until one of those that can tell its owner takes it */
	__u32 certainty;
};

/* Lives and dies with the socket. There are few, as a rule, and no limit. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct parked);
} parked SEC(".maps");

/* Of several that could tell a parked session's owner, one does. */
static __always_inline bool unpark(struct parked *it)
{
	return it->waiting && __sync_val_compare_and_swap(&it->waiting, 1, 0);
}

#endif
