/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is sent of a session, and who owns it. Shared by the program that
 * follows sessions and the one that looks for their owners.
 */
#ifndef TCPLIFE_SESSION_H
#define TCPLIFE_SESSION_H

#include "config.h"
#include "owner.h"
#include "storage.h"
#include "story.h"

/*
 * The record sent to user space, which learns its layout from this object's
 * BTF (`make bpf` writes records/abi.py). Addresses are IPv6, or IPv4 mapped
 * into it (RFC 4291, 2.5.5.2), which shows the family, too. Ports are
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

struct event {
	struct session_event session;
	struct story story[STORY];
};

/* As the ring buffer frames it (struct bpf_ringbuf_hdr). */
struct framed_event {
	__u32 len;
	__u32 pg_off;
	struct event event;
};

/*
 * A session that has ended while somebody may still hold its socket, and it
 * isn't sure who: the process that closes it is the owner.
 */
struct parked {
	struct event event;
	struct owner_more more[STORY];
	__u32 waiting; /* until one of those that can name its owner takes it */
	__u32 certainty;
#if TIER > 1
	__u64 inode; /* of the socket, which shows in /proc/PID/fd */
#endif
};

/* There are few, as a rule. */
PER_SOCKET(parked, parked)

/* Of several that could name a parked session's owner, one does. */
#if TIER == 1
static __always_inline bool unpark(struct parked *it)
{
	return it->waiting && __sync_val_compare_and_swap(&it->waiting, 1, 0);
}

/*
 * NULL, if there is nothing to be taken. It stays where it is, as does the
 * socket meanwhile: `copy` is for tiers that have to take it out first.
 */
static __always_inline struct parked *take_parked(struct sock *sk,
						  struct parked *copy)
{
	struct parked *it = of_socket(parked, sk);

	return it && unpark(it) ? it : NULL;
}
#else
static __always_inline struct parked *take_parked(struct sock *sk,
						  struct parked *copy)
{
	struct parked *it = of_socket(parked, sk);

	if (!it || !it->waiting)
		return NULL;
	*copy = *it;
	return take_from_socket(parked, sk) ? copy : NULL;
}
#endif

/* The helper is of Linux 4.18. */
static __always_inline __u64 current_cgroup(void)
{
	if (TIER <= 2 ||
	    bpf_core_enum_value_exists(enum bpf_func_id,
				       BPF_FUNC_get_current_cgroup_id))
		return bpf_get_current_cgroup_id();
	return 0;
}

static __always_inline void take_owner_more(struct owner_more *more,
					    struct task_struct *task)
{
	if (!STORY)
		return;
	if (SUMMARY && !(cfg()->by & (BY_UID | BY_CGROUP) ||
			 cfg()->filter_uid || cfg()->filter_cgroup))
		return;
	more->uid = bpf_get_current_uid_gid();
	more->cgroup = current_cgroup();
	more->ppid = BPF_CORE_READ(task, real_parent, tgid);
}

static __always_inline void owner_more_from_task(struct owner_more *more,
						 struct task_struct *task)
{
	if (!STORY)
		return;
	more->uid = BPF_CORE_READ(task, cred, uid.val);
	more->cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	more->ppid = BPF_CORE_READ(task, real_parent, tgid);
}

static __always_inline void set_owner_more(struct event *event,
					   const struct owner_more *more)
{
	if (!STORY)
		return;
	event->story->uid = more->uid;
	event->story->cgroup = more->cgroup;
	event->story->ppid = more->ppid;
}

#endif
