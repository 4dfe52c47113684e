/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is told of a session, and who owns it. Shared by the program that
 * follows sessions and the one that looks for their owners.
 */
#ifndef TCPLIFE_SESSION_H
#define TCPLIFE_SESSION_H

#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* A process: the thread group, and the name that ps(1) gives it. */
struct owner {
	__u32 pid; /* as the initial PID namespace counts; 0: not known */
	char comm[16];
};

/*
 * The record sent to user space, which learns its layout from this object's
 * BTF (`make bpf` writes layout.py). Addresses are IPv6, or IPv4 mapped
 * into it (RFC 4291, 2.5.5.2), which is also what tells the family. Ports are
 * in host order, end_ns is CLOCK_MONOTONIC.
 */
struct session_event {
	__u64 end_ns;	/* CLOSE */
	__u64 life_ns;	/* from the first state seen */
	__u64 span_ns;	/* from the last early one: ESTABLISHED, as a rule */
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

/* Set once, before loading; the verifier drops what it switches off. */
struct config {
	__u32 family; /* 4, 6, or 0 for both */
	__u8 filter_pid;
	__u8 filter_lport;
	__u8 filter_rport;
	__u8 unused;
	__u32 wake_bytes; /* unread bytes in the ring that wake the reader */
};

const volatile struct config config = {};

/* How sure the owner is. */
enum {
	OWNER_UNKNOWN,
	OWNER_ACTED, /* acted on the socket, and may have passed it on since */
	OWNER_ENDED, /* ended the session */
};

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

/* The PIDs asked for; user space sets the size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8);
} pids SEC(".maps");

static __always_inline void owner_from_task(struct owner *owner,
					    struct task_struct *task)
{
	/*
	 * Not task->group_leader->comm: to check a pointer that is followed,
	 * the verifier (since 6.2) goes through all of the kernel's types, 2 ms
	 * each.
	 */
	owner->pid = task->tgid;
	BPF_CORE_READ_INTO(&owner->comm, task, group_leader, comm);
}

static __always_inline bool wanted_pid(__u32 pid)
{
	return !config.filter_pid || bpf_map_lookup_elem(&pids, &pid);
}

/* Of several that could tell a parked session's owner, one does. */
static __always_inline bool unpark(struct parked *it)
{
	return it->waiting && __sync_val_compare_and_swap(&it->waiting, 1, 0);
}

#endif
