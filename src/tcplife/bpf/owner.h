/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who owns a session, and whose sessions are wanted. */
#ifndef TCPLIFE_OWNER_H
#define TCPLIFE_OWNER_H

#include "config.h"
#include "tier.h"

/* A process: the thread group, and the name that ps(1) gives it. */
struct owner {
	__u32 pid; /* as the initial PID namespace counts; 0: not known */
	char comm[16];
};

/* Of the owner, beyond its name. */
struct owner_more {
	__u64 cgroup;
	__u32 uid;
	__u32 ppid;
};

/* How sure the owner is. */
enum certainty {
	OWNER_UNKNOWN,
	OWNER_ACTED, /* acted on the socket, and may have passed it on since */
	OWNER_ENDED, /* ended the session */
};

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
	owner->pid = FIELD(task, tgid);
	/* What follows the NUL is what was there before (until Linux 5.17). */
	__builtin_memset(owner->comm, 0, sizeof(owner->comm));
	BPF_CORE_READ_STR_INTO(&owner->comm, task, group_leader, comm);
}

#if TIER == 1
/* What follows the NUL is what was there before (until Linux 5.17). */
static __always_inline void cut_at_nul(__u64 *words)
{
	const __u64 ones = 0x0101010101010101ULL;
	__u64 nul;

	/* The highest bit of the first byte that is 0. */
	nul = (words[0] - ones) & ~words[0] & ones << 7;
	nul &= -nul;
	words[0] &= (nul >> 7) - 1;
	if (nul)
		words[1] = 0;
	nul = (words[1] - ones) & ~words[1] & ones << 7;
	nul &= -nul;
	words[1] &= (nul >> 7) - 1;
}

/*
 * Not static: the verifier goes through it once, and not at each call. It takes
 * pointers there since Linux 5.13.
 */
__noinline int owner_from_current(struct owner *owner)
{
	struct task_struct *task = current_task();
	__u64 words[2];

	if (!owner)
		return 0;
	/* The name of the process is that of its first thread. */
	if (task->pid != task->tgid) {
		owner_from_task(owner, task);
		return 0;
	}
	owner->pid = task->tgid;
	__builtin_memcpy(words, task->comm, sizeof(words));
	cut_at_nul(words);
	__builtin_memcpy(owner->comm, words, sizeof(words));
	return 0;
}
#else
static __always_inline void owner_from_current(struct owner *owner)
{
	owner_from_task(owner, current_task());
}
#endif

static __always_inline bool wanted_pid(__u32 pid)
{
	return !cfg()->filter_pid || bpf_map_lookup_elem(&pids, &pid);
}

/* A kernel thread that closes a file for a process is not its owner. */
static __always_inline bool may_own(__u8 certainty, struct task_struct *task)
{
	return certainty == OWNER_UNKNOWN || !(FIELD(task, flags) & PF_KTHREAD);
}

/* The current task as a session's owner; says how sure that is. */
static __always_inline __u8 take_owner(struct owner *owner, __u8 certainty,
				       __u8 as, struct task_struct *task)
{
	if (!may_own(certainty, task))
		return certainty;
	/* Its name may have changed by the end, but hardly by the next state.
	 */
	if (as != OWNER_ACTED || certainty == OWNER_UNKNOWN ||
	    owner->pid != FIELD(task, tgid))
		owner_from_current(owner);
	return as;
}

#endif
