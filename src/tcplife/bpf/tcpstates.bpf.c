// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Sends a record for each change of a TCP socket's state. Whether the current
 * task makes the change, and so owns the session, is found as in tcplife.bpf.c.
 */
#define STATES 1
#include "addr.h"
#include "changes.h"
#include "config.h"
#include "kept.h"
#include "listeners.h"
#include "owner.h"
#include "ports.h"
#include "ring.h"
#include "session_store.h"
#include "shared.h"
#include "socket.h"
#include "state_event.h"
#include "storage.h"
#include "tier.h"
#if SUMMARY
#include "summary.h"
#endif

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/*
 * Changes of a session of which it is not known yet whether it passes: before
 * it has its ports, or its owner. They are four at most: SYN_RECV, ESTABLISHED,
 * CLOSE_WAIT and CLOSE.
 */
#define MAX_HELD 4

struct held {
	__u32 count;
	__u32 unused;
	struct state_event events[MAX_HELD];
};

/* Only made where a filter needs it. */
PER_SOCKET(held, held_changes)

enum verdict {
	VERDICT_DROP,
	VERDICT_HOLD,
	VERDICT_PASS,
};

static __always_inline void send_change(void *ctx,
					const struct state_event *event)
{
	if (cfg()->states && !(cfg()->states & (1 << event->states.oldstate |
						1 << event->states.newstate)))
		return;
#if SUMMARY
	count_event(event);
#else
	send_record(ctx, (void *)event, sizeof(*event), event->time_ns);
#endif
}

static __always_inline void hold(struct sock *sk,
				 const struct state_event *event)
{
	struct held *held = add_to_socket(held_changes, sk);
	__u32 count;

	if (!held || held->count >= MAX_HELD) {
		__sync_fetch_and_add(&cnt()->lost_sessions, 1);
		return;
	}
	count = held->count & (MAX_HELD - 1);
	held->events[count] = *event;
	held->count = count + 1;
}

/* The changes held so far are sent, or not. */
static __always_inline void release(void *ctx, struct sock *sk, bool pass)
{
	struct held *held = of_socket(held_changes, sk);
	__u32 count;

	if (!held)
		return;
	count = held->count;
	held->count = 0;
	if (!pass)
		return;
	for (int i = 0; i < MAX_HELD; i++)
		if (i < (int)count)
			send_change(ctx, &held->events[i]);
}

/*
 * An address or port that is not there yet may still be a wanted one: the local
 * port at connect(), all of the remote end when a listener's child is made.
 */
static __always_inline enum verdict judge(const struct sock *sk,
					  const struct state_event *event)
{
	bool child =
		event->states.newstate == BPF_TCP_SYN_RECV && !event->rport;
	bool connecting =
		event->states.newstate == BPF_TCP_SYN_SENT && !event->lport;
	enum verdict verdict = VERDICT_PASS;

	if (connecting && cfg()->filter_lport)
		verdict = VERDICT_HOLD;
	else if (!wanted_lport(event->lport))
		return VERDICT_DROP;
	if (child && cfg()->filter_rport)
		verdict = VERDICT_HOLD;
	else if (!wanted_rport(event->rport))
		return VERDICT_DROP;
	if (child && cfg()->family &&
	    FIELD(sk, __sk_common.skc_family) == AF_INET6)
		verdict = VERDICT_HOLD;
	else if (!wanted_family(sk))
		return VERDICT_DROP;
	if (cfg()->filter_pid && !event->owner.pid)
		verdict = VERDICT_HOLD;
	else if (!wanted_pid(event->owner.pid))
		return VERDICT_DROP;
	return verdict;
}

static __always_inline bool filtering(void)
{
	return cfg()->filter_lport || cfg()->filter_rport ||
	       cfg()->filter_pid || cfg()->family;
}

static __always_inline void pass_on(void *ctx, struct sock *sk,
				    const struct state_event *event)
{
	enum verdict verdict;

	if (!filtering()) {
		send_change(ctx, event);
		return;
	}
	verdict = judge(sk, event);
	if (verdict == VERDICT_HOLD) {
		hold(sk, event);
		return;
	}
	release(ctx, sk, verdict == VERDICT_PASS);
	if (verdict == VERDICT_PASS)
		send_change(ctx, event);
}

/* As in tcplife.bpf.c: who ends a session is its owner for good. */
static __always_inline void update_owner(struct session *session,
					 const struct sock *sk, int newstate)
{
	__u8 as = newstate == BPF_TCP_FIN_WAIT1 ||
				  newstate == BPF_TCP_LAST_ACK ||
				  newstate == BPF_TCP_CLOSE
			  ? OWNER_ENDED
			  : OWNER_ACTED;

	/* tcp_abort() acts on the socket of somebody else. */
	if (session->certainty == OWNER_ENDED ||
	    (newstate == BPF_TCP_CLOSE && FIELD(sk, sk_err) == ECONNABORTED))
		return;
	session->certainty = take_owner(&session->owner, session->certainty, as,
					current_task());
}

static __always_inline void on_change(void *ctx, struct sock *sk, int oldstate,
				      int newstate, bool by_task)
{
	/* A socket begins anew when it leaves CLOSE, or a listener makes it. */
	bool begins =
		oldstate == BPF_TCP_CLOSE ||
		(oldstate == BPF_TCP_LISTEN && newstate == BPF_TCP_SYN_RECV);
	struct tcp_sock *tp = as_tcp_sock(sk);
	struct session *known = find_session(sk);
	struct session fresh = {};
	struct session *session;
	struct state_event event = {
		.time_ns = bpf_ktime_get_ns(),
		.skaddr = (__u64)sk,
		.states = {oldstate, newstate},
	};

	if (!tp)
		return;
	/* Has it been seen? See changes.h. */
	if (oldstate != newstate &&
	    (known ? known->state == newstate
		   : newstate == BPF_TCP_CLOSE && just_ended(sk)))
		return;
	if (begins)
		known = NULL;
	session = known ? known : &fresh;
	session->state = newstate;
	/* In whole microseconds that add up: not the difference's own. */
	if (known)
		event.span_us = event.time_ns / 1000 - known->last_ns / 1000;
	event.first = !known;
	session->last_ns = event.time_ns;
	event.lport = bpf_ntohs(FIELD(tp, inet_conn.icsk_inet.inet_sport));
	if (by_task && oldstate == BPF_TCP_LISTEN)
		on_listener_closed(sk);
	/* A reset that comes in meanwhile has set sk_err. */
	if (by_task || (newstate == BPF_TCP_CLOSE && !FIELD(sk, sk_err) &&
			closing_listener_on(event.lport)))
		update_owner(session, sk, newstate);

	event.owner = session->owner;
	event.current.pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(event.current.comm, sizeof(event.current.comm));
	event.rport = bpf_ntohs(FIELD(sk, __sk_common.skc_dport));
	set_addresses(event.laddr, event.raddr, sk);

	if (newstate == BPF_TCP_CLOSE) {
		forget_session(sk);
		note_ended(sk);
	} else if (!known) {
		keep_session(sk, &fresh);
	}
	pass_on(ctx, sk, &event);
}

/*
 * The session ended with nobody acting on it: whoever closes its socket now is
 * the owner, and decides whether what was held of it passes.
 */
static __always_inline int on_destroy(void *ctx, struct sock *sk)
{
	if (cfg()->filter_pid && acting(sk))
		release(ctx, sk, wanted_pid(bpf_get_current_pid_tgid() >> 32));
	on_listener_destroyed(sk);
	forget_destroyed(sk);
	take_from_socket(held_changes, sk);
	return 0;
}
