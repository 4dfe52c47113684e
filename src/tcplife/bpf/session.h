/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a session is, what is told of it, and who owns it. Shared by every
 * program that follows sessions.
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
 * in host order, times are CLOCK_MONOTONIC.
 */
struct session_event {
	__u64 end_ns;	/* CLOSE */
	__u64 first_ns; /* the first state seen */
	__u64 birth_ns; /* the last early state seen: ESTABLISHED, as a rule */
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

/* Shared with user space while running, through the mapped .bss. */
struct control {
	__u64 lost_events;   /* ended, but the ring buffer was full */
	__u64 lost_sessions; /* began, but there was no memory to follow it */
	__u64 parked;	/* ended with the owner still to come (see park()) */
	__u64 resolved; /* of these, given their owner here */
	__u64 walked;	/* of these, given their owner by holders.bpf.c */
	__u64 closing;	/* tasks that are closing a listener */
	__u64 local_ports[1024]; /* a bit a port */
	__u64 remote_ports[1024];
};

const volatile struct config config = {};

/* How sure the owner is. */
enum {
	OWNER_UNKNOWN,
	OWNER_ACTED, /* acted on the socket, and may have passed it on since */
	OWNER_ENDED, /* ended the session */
};

enum {
	PHASE_NONE,
	PHASE_OPEN,
	PHASE_PARKED,
};

/* What is kept with the socket while its session lives. */
struct session {
	struct session_event event;
	__u32 phase;
	__u8 certainty;
	__u8 active; /* opened by connect() */
	__u8 established;
};

/*
 * Lives and dies with the socket; its only limit is the socket's own option
 * memory (net.core.optmem_max, 20 KiB or more).
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct session);
} sessions SEC(".maps");

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

static __always_inline bool wanted_pid(const struct session_event *event)
{
	__u32 pid = event->owner.pid;

	return !config.filter_pid || bpf_map_lookup_elem(&pids, &pid);
}

/* Of several that could give a parked session its owner, one does. */
static __always_inline bool unpark(struct session *session)
{
	return session->phase == PHASE_PARKED &&
	       __sync_val_compare_and_swap(&session->phase, PHASE_PARKED,
					   PHASE_NONE) == PHASE_PARKED;
}

#endif
