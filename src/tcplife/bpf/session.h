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

#ifdef STORY
#include "story.h"
#endif

struct event {
	struct session_event session;
#ifdef STORY
	struct story story;
#endif
};

/* Of the owner, beyond its name. */
struct owner_more {
#ifdef STORY
	__u64 cgroup;
	__u32 uid;
	__u32 ppid;
#endif
};

/*
 * A session that has ended while somebody may still hold its socket, and it
 * isn't sure who: the process that closes it is the owner.
 */
struct parked {
	struct event event;
	struct owner_more more;
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

#ifdef STORY
#include "filters.h"

static __always_inline void take_owner_more(struct owner_more *more)
{
	struct task_struct *task = bpf_get_current_task_btf();

	more->uid = bpf_get_current_uid_gid();
	more->cgroup = bpf_get_current_cgroup_id();
	more->ppid = BPF_CORE_READ(task, real_parent, tgid);
}

static __always_inline void more_from_task(struct owner_more *more,
					   struct task_struct *task)
{
	more->uid = BPF_CORE_READ(task, cred, uid.val);
	more->cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	more->ppid = BPF_CORE_READ(task, real_parent, tgid);
}

static __always_inline void tell_owner_more(struct event *event,
					    const struct owner_more *more)
{
	event->story.uid = more->uid;
	event->story.cgroup = more->cgroup;
	event->story.ppid = more->ppid;
}
#else
static __always_inline bool wanted_owner(const struct owner *owner,
					 const struct owner_more *more)
{
	return wanted_pid(owner->pid);
}

static __always_inline void take_owner_more(struct owner_more *more)
{
}

static __always_inline void more_from_task(struct owner_more *more,
					   struct task_struct *task)
{
}

static __always_inline void tell_owner_more(struct event *event,
					    const struct owner_more *more)
{
}
#endif

#endif
