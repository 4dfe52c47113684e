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
#include "session.h"

/* What is kept of a session while it lives. */
struct session {
	__u64 first_ns; /* the first state seen */
	__u64 birth_ns; /* the last early one */
#if defined(STORY) && !defined(SUMMARY)
	__u64 fin_ns; /* the first FIN */
#endif
	struct owner_more more;
	struct owner owner;
	__u8 certainty;
	__u8 active; /* opened by connect() */
	__u8 established;
	__u8 over; /* has ended, but is still in the map */
#ifdef STORY
	__u8 before; /* older than the trace; then `active` is not known */
	__u8 held;   /* the round of walk.h in which its owner held it */
	__u8 first;
	__u8 unused[5];
#endif
};

/* The functions that add up take their part of the 512 bytes of stack. */
#ifdef SUMMARY
#define RING_BYTES 4096 /* not used */
#define APART static __noinline
#else
#define RING_BYTES (2 * 1024 * 1024)
#define APART static __always_inline
#endif
#include "trace.h"
#include "listeners.h"
#ifdef SUMMARY
#include "groups.h"
#endif

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#ifdef STORY
#ifdef SUMMARY
#define TELLS_FIN 0
#else
#define TELLS_FIN 1
#endif
#include "telling.h"

static __always_inline bool active(const struct session *session,
				   const struct tcp_sock *tp, int state)
{
	return dir_of(session, tp, state) == DIR_OUT;
}
#else
#define TELLS_FIN 0

static __always_inline bool active(const struct session *session,
				   const struct tcp_sock *tp, int state)
{
	return session->active;
}

static __always_inline bool wanted_story(const struct event *event)
{
	return true;
}

static __always_inline void tell_story(struct event *event,
				       const struct session *session,
				       const struct sock *sk,
				       const struct tcp_sock *tp, int state,
				       bool open)
{
}

static __always_inline bool fin_sent(int state)
{
	return state == BPF_TCP_FIN_WAIT1 || state == BPF_TCP_FIN_WAIT2 ||
	       state == BPF_TCP_CLOSING || state == BPF_TCP_LAST_ACK;
}

static __always_inline void note_fin(struct session *session, int newstate)
{
}

static __always_inline bool may_be_older(void)
{
	return false;
}

static __always_inline struct session *older_session(struct sock *sk, int state)
{
	return NULL;
}
#endif

#ifndef SUMMARY
static __always_inline bool by_address(void)
{
	return true;
}
#endif

static __always_inline bool any_parked(void)
{
	return counted.parked != counted.resolved + control.walked;
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

static __always_inline void send(void *ctx, struct event *event,
				 const struct owner_more *more)
{
	if (!wanted_owner(&event->session.owner, more))
		return;
	tell_owner_more(event, more);
#ifdef SUMMARY
	count(event);
#else
	send_record(ctx, event, sizeof(*event), event->session.time_ns);
#endif
}

/*
 * Sends what is parked with a socket. Its owner is the current task, if that
 * acts on the socket, or is closing the listener (on `port`) that has it in its
 * queue.
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
		own(&session->owner, &it->more, it->certainty, OWNER_ENDED);
	send(ctx, &it->event, &it->more);
	__sync_fetch_and_add(&counted.resolved, 1);
}

/*
 * The application's bytes. The kernel's counters include our SYN and each FIN:
 * - bytes_acked takes in our SYN where the handshake's answer goes through
 *   tcp_ack(), so on the connecting side only; and our FIN once acknowledged.
 * - bytes_received takes in the peer's FIN, which tcp_fin() notes as SOCK_DONE.
 * (net/ipv4/tcp_input.c, tcp_snd_una_update() and tcp_rcv_nxt_update())
 */
static __always_inline void tell_bytes(struct session_event *event,
				       const struct session *session,
				       const struct sock *sk,
				       const struct tcp_sock *tp, int state)
{
	event->tx_bytes = 0;
	event->rx_bytes = 0;
	if (!session->established)
		return;
	event->tx_bytes =
		FIELD(tp, bytes_acked) - active(session, tp, state) -
		(fin_sent(state) && FIELD(tp, snd_una) == FIELD(tp, write_seq));
	event->rx_bytes = FIELD(tp, bytes_received) - has_flag(sk, SOCK_DONE);
}

/* state: the one that it is in, if it is still open, or has just left. */
static __always_inline void
tell(struct event *event, const struct session *session, const struct sock *sk,
     const struct tcp_sock *tp, int state, bool open)
{
	struct session_event *told = &event->session;
	__u64 now = bpf_ktime_get_ns();

	told->time_ns = now;
	told->life_us = (now - session->first_ns) / 1000;
	told->span_us = (now - session->birth_ns) / 1000;
	told->owner = session->owner;
	/* tcp_set_state() has given skc_num back by now; inet_sport stays. */
	told->lport = bpf_ntohs(FIELD(tp, inet_conn.icsk_inet.inet_sport));
	told->rport = bpf_ntohs(FIELD(sk, __sk_common.skc_dport));
	if (!by_address()) {
		__builtin_memset(told->laddr, 0, sizeof(told->laddr));
		__builtin_memset(told->raddr, 0, sizeof(told->raddr));
	} else {
		tell_addresses(told->laddr, told->raddr, sk);
	}
	tell_bytes(told, session, sk, tp, state);
	tell_story(event, session, sk, tp, state, open);
}

static __always_inline bool park(const struct event *event,
				 const struct session *session, struct sock *sk)
{
	struct parked *it;

	it = add_to_socket(parked, sk);
	if (!it)
		return false;
	it->event = *event;
	it->more = session->more;
	it->certainty = session->certainty;
#if TIER > 1
	it->inode = BPF_CORE_READ(sk, sk_socket, file, f_inode, i_ino);
#endif
	it->waiting = 1;
	__sync_fetch_and_add(&counted.parked, 1);
	return true;
}

/* before: it is older than the trace. */
APART void begin(struct sock *sk, bool active, bool established, bool before,
		 bool by_task)
{
	__u64 now = bpf_ktime_get_ns();
	struct session session = {
		.first_ns = now,
		.birth_ns = now,
		.active = active,
		.established = established,
#ifdef STORY
		.before = before,
#endif
	};

	if (by_task)
		session.certainty = own(&session.owner, &session.more,
					OWNER_UNKNOWN, OWNER_ACTED);
	keep(sk, &session);
}

/* connect(): the local port is not chosen yet, the remote one is known. */
static __always_inline void on_connect(void *ctx, struct sock *sk, bool by_task)
{
	/* The socket's second life: the first may be parked. */
	if (any_parked())
		resolve(ctx, sk, by_task);
	if (wanted_rport(bpf_ntohs(FIELD(sk, __sk_common.skc_dport))))
		begin(sk, true, false, false, by_task);
}

/*
 * A child of a listener: its local port is the listener's, the remote one is
 * not set yet (net/ipv4/inet_connection_sock.c, inet_csk_clone_lock()).
 */
static __always_inline void on_child(struct sock *sk)
{
	if (wanted_lport(FIELD(sk, __sk_common.skc_num)))
		begin(sk, false, false, false, false);
}

static __always_inline void on_established(struct sock *sk, int oldstate,
					   bool by_task)
{
	struct session *session = find(sk);

	if (session) {
		session->established = true;
		session->birth_ns = bpf_ktime_get_ns();
		if (by_task)
			session->certainty =
				own(&session->owner, &session->more,
				    session->certainty, OWNER_ACTED);
	} else if (wanted_lport(FIELD(sk, __sk_common.skc_num)) &&
		   wanted_rport(bpf_ntohs(FIELD(sk, __sk_common.skc_dport)))) {
		/*
		 * Tracing began within its handshake, or it is a listener's
		 * child, which tier 4 does not see begin.
		 */
		bool child = TIER == 4 && oldstate == BPF_TCP_SYN_RECV;

		begin(sk, oldstate == BPF_TCP_SYN_SENT, true, !child, by_task);
	}
}

/* One side closes: what the current task does here makes it the owner. */
static __always_inline void on_closing(struct sock *sk, int newstate,
				       bool by_task)
{
	__u8 as = newstate == BPF_TCP_CLOSE_WAIT ? OWNER_ACTED : OWNER_ENDED;
	struct session *session;

	if (!by_task && !TELLS_FIN)
		return;
	session = find(sk);
	if (!session)
		return;
	if (by_task && newstate != BPF_TCP_CLOSING &&
	    session->certainty != OWNER_ENDED)
		session->certainty = own(&session->owner, &session->more,
					 session->certainty, as);
	if (TELLS_FIN)
		note_fin(session, newstate);
}

static __always_inline bool wanted_session(const struct sock *sk,
					   const struct tcp_sock *tp)
{
	return wanted_family(sk) &&
	       wanted_lport(
		       bpf_ntohs(FIELD(tp, inet_conn.icsk_inet.inet_sport))) &&
	       wanted_rport(bpf_ntohs(FIELD(sk, __sk_common.skc_dport)));
}

static __always_inline void on_close(void *ctx, struct sock *sk, int oldstate,
				     bool by_task)
{
	struct session *session = find(sk);
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
				own(&session->owner, &session->more,
				    session->certainty, OWNER_ENDED);
		tell(&event, session, sk, tp, oldstate, false);
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
			send(ctx, &event, &session->more);
	}
	forget(sk);
	if (may_be_older())
		note_ended(sk);
}

/* by_task: the current task makes the change. */
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

#include "changes.h"

#if defined(STORY) && TIER == 1
#include "walk.h"
#endif
