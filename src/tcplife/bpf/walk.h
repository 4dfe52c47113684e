/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Walks over the sockets there are: sessions that are older than the trace, and
 * those that are open still. Loaded if asked for.
 *
 * iter/tcp holds the socket's lock (net/ipv4/tcp_ipv4.c,
 * bpf_iter_tcp_seq_show(), since 5.15), so that nothing changes meanwhile. What
 * came in for the socket is worked off when it lets go: by the tool's task,
 * which acting() therefore knows.
 */
#ifndef TCPLIFE_WALK_H
#define TCPLIFE_WALK_H

#include "older.h"
#include "record.h"
#include "session_store.h"
#include "shared.h"
#include "story_filters.h"

static __always_inline bool is_session(int state)
{
	return state != BPF_TCP_LISTEN && state != BPF_TCP_CLOSE;
}

static __always_inline void note_older(struct sock *sk)
{
	int state = sk->__sk_common.skc_state;
	struct session session;

	if (!is_session(state) || find_session(sk))
		return;
	begin_older(&session, state);
	keep_session(sk, &session);
}

SEC("iter/tcp")
int note_sessions(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tp;

	/* As the kernel counts: the tool may be in a PID namespace. */
	ctl()->tool = bpf_get_current_pid_tgid() >> 32;
	if (!common)
		return 0;
	tp = bpf_skc_to_tcp_sock(common);
	if (tp)
		note_older((struct sock *)tp);
	return 0;
}

/*
 * Who has a session's socket open: who acted on it, if that one still does,
 * else any other. So it takes two rounds to know.
 */
SEC("iter/task_file")
int note_owners(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct session *session;
	struct socket *socket;
	struct sock *sk;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	/* Other network namespaces than ours may be closed to iter/tcp. */
	if (!ctl()->noted)
		note_older(sk);
	session = find_session(sk);
	if (!session || session->certainty == OWNER_ENDED ||
	    session->past->round == ctl()->round)
		return 0;
	if (session->certainty != OWNER_UNKNOWN &&
	    session->owner.pid == task->tgid) {
		session->past->round = ctl()->round;
	} else if (ctl()->any_holder) {
		owner_from_task(&session->owner, task);
		owner_more_from_task(session->more, task);
		session->certainty = OWNER_ACTED;
		session->past->round = ctl()->round;
	}
	return 0;
}

SEC("iter/tcp")
int list_open(struct bpf_iter__tcp *ctx)
{
	struct framed_event framed = {.len = sizeof(framed.event)};
	struct sock_common *common = ctx->sk_common;
	struct session_event *record = &framed.event.session;
	struct session *session;
	struct tcp_sock *tp;
	struct sock *sk;
	int state;

	ctl()->tool = bpf_get_current_pid_tgid() >> 32;
	if (!common)
		return 0;
	tp = bpf_skc_to_tcp_sock(common);
	if (!tp)
		return 0;
	sk = (struct sock *)tp;
	state = sk->__sk_common.skc_state;
	session = find_session((void *)tp);
	if (!session || !is_session(state))
		return 0;
	fill_event(&framed.event, session, sk, tp, state, true);
	set_owner_more(&framed.event, session->more);
	if (!wanted_session(sk, tp) || !wanted_story(&framed.event) ||
	    !wanted_owner(&record->owner, session->more))
		return 0;
	if (!bpf_seq_write(ctx->meta->seq, &framed, sizeof(framed)) &&
	    ctl()->last_list)
		session->over = 1;
	return 0;
}

#endif
