// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Finds who holds the sockets of parked sessions (see session.h). Loaded only
 * when one stays parked. What is found is written to the iterator itself, in
 * the ring buffer's framing, so that no number of them can overflow it.
 */
#include "session.h"
#include "story_filters.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct walk {
	__u64 found;	  /* parked sessions that were given their owner */
	__u64 any_holder; /* take any, not just the one who acted before */
	__u64 tool;	  /* the PID that walks, as the kernel counts */
};

struct walk walk = {};

static __always_inline void write_event(struct seq_file *seq, struct parked *it,
					struct task_struct *holder)
{
	struct framed_event framed = {.len = sizeof(framed.event)};
	struct owner *owner = &framed.event.session.owner;
	struct owner_more more;

	if (!unpark(it))
		return;
	framed.event = it->event;
	more = STORY ? *it->more : (struct owner_more){};
	if (holder) {
		owner_from_task(owner, holder);
		owner_more_from_task(&more, holder);
	}
	set_owner_more(&framed.event, &more);
	if (wanted_owner(owner, &more) &&
	    bpf_seq_write(seq, &framed, sizeof(framed))) {
		/* No room: the kernel shows this one again at the next read. */
		it->waiting = 1;
		return;
	}
	__sync_fetch_and_add(&walk.found, 1);
}

/* Runs at once, as there is a map: before any file is held. */
SEC("iter/bpf_map")
int note_tool(struct bpf_iter__bpf_map *ctx)
{
	walk.tool = bpf_get_current_pid_tgid() >> 32;
	return 0;
}

SEC("iter/task_file")
int name_holders(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct parked *it;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	it = bpf_sk_storage_get(&parked, socket->sk, NULL, 0);
	if (!it || !it->waiting)
		return 0;
	if (!walk.any_holder && it->certainty != OWNER_UNKNOWN &&
	    it->event.session.owner.pid != task->tgid)
		return 0;
	write_event(ctx->meta->seq, it, task);
	return 0;
}

/* What no descriptor leads to: sessions still in a listener's queue. */
SEC("iter/bpf_sk_storage_map")
int write_unheld(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct parked *it = ctx->value;

	if (it && it->waiting)
		write_event(ctx->meta->seq, it, NULL);
	return 0;
}
