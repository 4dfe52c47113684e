// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Follows TCP sessions from their first state to CLOSE, and sends one record
 * for each that ends.
 *
 * Who is the owner? inet_sock_set_state runs for the task that acts on the
 * socket, or in a softirq that borrowed whatever task was on the CPU. The
 * two are told apart by sk_lock.owned: it is set while a task holds the
 * socket lock (net/core/sock.c, lock_sock_nested() and __release_sock()), and
 * softirqs leave a held socket alone, so a change made while it is set is made
 * by the current task.
 */
#include "changes.h"
#include "config.h"
#include "kept.h"
#include "listeners.h"
#include "older.h"
#include "owner.h"
#include "ports.h"
#include "record.h"
#include "ring.h"
#include "session.h"
#include "session_store.h"
#include "shared.h"
#include "socket.h"
#include "storage.h"
#include "story_filters.h"
#include "tier.h"
#if SUMMARY
#include "summary.h"
#endif
#if STORY && TIER == 1
#include "walk.h"
#endif

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline bool any_parked(void)
{
	return cnt()->parked != cnt()->resolved + ctl()->walked;
}

/* The current task as the owner; says how sure that is. */
static __always_inline __u8 own(struct owner *owner, struct owner_more *more,
				__u8 certainty, __u8 as)
{
	struct task_struct *task = current_task();

	if (!may_own(certainty, task))
		return certainty;
	if (certainty == OWNER_UNKNOWN || owner->pid != FIELD(task, tgid))
		take_owner_more(more, task);
	return take_owner(owner, certainty, as, task);
}

static __always_inline void send_event(void *ctx, struct event *event,
				       const struct owner_more *more)
{
	if (!wanted_owner(&event->session.owner, more))
		return;
	set_owner_more(event, more);
#if SUMMARY
	count_event(event);
#else
	send_record(ctx, event, sizeof(*event), event->session.time_ns);
#endif
}

/*
 * Sends what is parked with a socket. Its owner is the current task, if that
 * acts on the socket, or is closing the listener that has it in its queue.
 */
static __always_inline void resolve(void *ctx, struct sock *sk, bool by_task)
{
	struct session_event *session;
	struct parked copy;
	struct parked *it = take_parked(sk, &copy);

	if (!it)
		return;
	session = &it->event.session;
	if (by_task || closing_listener_on(session->lport))
		own(&session->owner, it->more, it->certainty, OWNER_ENDED);
	send_event(ctx, &it->event, it->more);
	__sync_fetch_and_add(&cnt()->resolved, 1);
}

static __always_inline bool park(const struct event *event,
				 const struct session *session, struct sock *sk)
{
	struct parked *it;

	it = add_to_socket(parked, sk);
	if (!it)
		return false;
	it->event = *event;
	if (STORY)
		*it->more = *session->more;
	it->certainty = session->certainty;
#if TIER > 1
	it->inode = BPF_CORE_READ(sk, sk_socket, file, f_inode, i_ino);
#endif
	it->waiting = 1;
	__sync_fetch_and_add(&cnt()->parked, 1);
	return true;
}

/* before: it is older than the trace. */
APART void begin_session(struct sock *sk, bool active, bool established,
			 bool before, bool by_task)
{
	__u64 now = bpf_ktime_get_ns();
	struct session session = {
		.first_ns = now,
		.birth_ns = now,
		.active = active,
		.established = established,
	};

	if (STORY)
		session.past->before = before;
	if (by_task)
		session.certainty = own(&session.owner, session.more,
					OWNER_UNKNOWN, OWNER_ACTED);
	keep_session(sk, &session);
}

/* connect(): the local port is not chosen yet, the remote one is known. */
static __always_inline void on_connect(void *ctx, struct sock *sk, bool by_task)
{
	/* The socket's second life: the first may be parked. */
	if (any_parked())
		resolve(ctx, sk, by_task);
	if (wanted_rport(bpf_ntohs(FIELD(sk, __sk_common.skc_dport))))
		begin_session(sk, true, false, false, by_task);
}

/*
 * A child of a listener: its local port is the listener's, the remote one is
 * not set yet (net/ipv4/inet_connection_sock.c, inet_csk_clone_lock()).
 */
static __always_inline void on_child(struct sock *sk)
{
	if (wanted_lport(FIELD(sk, __sk_common.skc_num)))
		begin_session(sk, false, false, false, false);
}

static __always_inline void on_established(struct sock *sk, int oldstate,
					   bool by_task)
{
	struct session *session = find_session(sk);

	if (session) {
		session->established = true;
		session->birth_ns = bpf_ktime_get_ns();
		if (by_task)
			session->certainty =
				own(&session->owner, session->more,
				    session->certainty, OWNER_ACTED);
	} else if (wanted_lport(FIELD(sk, __sk_common.skc_num)) &&
		   wanted_rport(bpf_ntohs(FIELD(sk, __sk_common.skc_dport)))) {
		/*
		 * Tracing began within its handshake, or it is a listener's
		 * child, which tier 4 does not see begin.
		 */
		bool child = TIER == 4 && oldstate == BPF_TCP_SYN_RECV;

		begin_session(sk, oldstate == BPF_TCP_SYN_SENT, true, !child,
			      by_task);
	}
}

/* One side closes: what the current task does here makes it the owner. */
static __always_inline void on_closing(struct sock *sk, int newstate,
				       bool by_task)
{
	__u8 as = newstate == BPF_TCP_CLOSE_WAIT ? OWNER_ACTED : OWNER_ENDED;
	struct session *session;

	if (!by_task && !NOTES_FIN)
		return;
	session = find_session(sk);
	if (!session)
		return;
	if (by_task && newstate != BPF_TCP_CLOSING &&
	    session->certainty != OWNER_ENDED)
		session->certainty = own(&session->owner, session->more,
					 session->certainty, as);
	if (NOTES_FIN)
		note_fin(session, newstate);
}

static __always_inline void on_close(void *ctx, struct sock *sk, int oldstate,
				     bool by_task)
{
	struct session *session = find_session(sk);
	struct event event;
	struct tcp_sock *tp;

	if (!session)
		session = older_session(sk, oldstate);
	if (!session)
		return;
	tp = as_tcp_sock(sk);
	if (tp && wanted_session(sk, tp)) {
		/*
		 * tcp_abort() (`ss -K`, bpf_sock_destroy()) acts on the socket
		 * of somebody else, and has set ECONNABORTED by now.
		 */
		if (session->certainty != OWNER_ENDED && by_task &&
		    FIELD(sk, sk_err) != ECONNABORTED)
			session->certainty =
				own(&session->owner, session->more,
				    session->certainty, OWNER_ENDED);
		fill_event(&event, session, sk, tp, oldstate, false);
		/*
		 * Once its last descriptor is closed (SOCK_DEAD), nobody is
		 * left to ask; before, the socket may have been passed on since
		 * the owner was noted.
		 */
		if (wanted_story(&event) &&
		    (session->certainty == OWNER_ENDED ||
		     (session->certainty == OWNER_ACTED &&
		      has_flag(sk, SOCK_DEAD)) ||
		     !park(&event, session, sk)))
			send_event(ctx, &event, session->more);
	}
	forget_session(sk);
	if (may_be_older())
		note_ended(sk);
}

static __always_inline void on_change(void *ctx, struct sock *sk, int oldstate,
				      int newstate, bool by_task)
{
	switch (newstate) {
	case BPF_TCP_SYN_SENT:
		on_connect(ctx, sk, by_task);
		break;
	case BPF_TCP_SYN_RECV:
		if (oldstate == BPF_TCP_LISTEN)
			on_child(sk);
		break;
	case BPF_TCP_ESTABLISHED:
		on_established(sk, oldstate, by_task);
		break;
	case BPF_TCP_FIN_WAIT1:
	case BPF_TCP_CLOSE_WAIT:
	case BPF_TCP_LAST_ACK:
	case BPF_TCP_CLOSING:
		on_closing(sk, newstate, by_task);
		break;
	case BPF_TCP_CLOSE:
		if (oldstate != BPF_TCP_LISTEN)
			on_close(ctx, sk, oldstate, by_task);
		else if (by_task)
			on_listener_closed(sk);
		break;
	}
}

/* The socket's end: whoever closes its last descriptor is the owner. */
static __always_inline int on_destroy(void *ctx, struct sock *sk)
{
	if (any_parked())
		resolve(ctx, sk, acting(sk));
	on_listener_destroyed(sk);
	forget_destroyed(sk);
	return 0;
}
