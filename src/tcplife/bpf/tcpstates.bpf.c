// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Sends a record for each change of a TCP socket's state. Whether the current
 * task makes the change, and so owns the session, is told as in tcplife.bpf.c.
 */
#include "owner.h"

/* What is kept of a session while it lives. */
struct session {
	__u64 last_ns; /* its last change */
	struct owner owner;
	__u8 certainty;
	__u8 over; /* has ended, but is still in the map */
	__u8 state;
	__u8 unused;
};

#ifdef SUMMARY
#define RING_BYTES 4096 /* not used */
#else
#define RING_BYTES (16 * 1024 * 1024)
#endif
#include "trace.h"
#include "listeners.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct transition {
	__u8 oldstate;
	__u8 newstate;
};

/* The record sent to user space; addresses, ports and times as in session.h. */
struct state_event {
	__u64 time_ns;
	__u64 span_us; /* in the state that it leaves; 0 if that began unseen */
	__u64 skaddr;
	struct owner owner; /* of the session, as far as known by now */
	struct owner
		current; /* on the processor: the thread's name, as in bcc */
	__u16 lport;
	__u16 rport;
	struct transition states;
	__u8 first; /* the first change seen of this socket */
	__u8 unused;
	__u8 laddr[16];
	__u8 raddr[16];
};
_Static_assert(sizeof(struct state_event) == 104,
	       "the ring buffer's stride is a multiple of 8, without padding");

/*
 * Changes of a session of which it cannot be told yet whether it passes: before
 * it has its ports, or its owner. They are four at most: SYN_RECV, ESTABLISHED,
 * CLOSE_WAIT and CLOSE.
 */
struct held {
	__u32 count;
	__u32 unused;
	struct state_event events[4];
};

/* Only made where a filter needs it. */
PER_SOCKET(held, held_changes)

enum verdict {
	DROP,
	HOLD,
	PASS
};

#ifdef SUMMARY
#include "quantity.h"

struct state_group {
	__u8 oldstate;
	__u8 newstate;
	__u8 other; /* none: there is room for all */
	__u8 unused[5];
} __attribute__((aligned(8)));

struct state_totals {
	__u32 id;
	__u32 unused;
	__u64 changes; /* also those out of a state that began unseen */
	struct quantity_sum sums[1];
};

struct state_figures {
	__u64 span_us; /* -1: not known */
	struct transition states;
	__u8 unused[6];
};

#define EVENT state_event
#define FIGURES state_figures
#define GROUP state_group
#define TOTALS state_totals
#include "summary.h"

static __always_inline void take_figures(struct state_figures *figures,
					 const struct state_event *event)
{
	figures->span_us = event->first ? (__u64)-1 : event->span_us;
	figures->states = event->states;
}

static __always_inline __u64 group_word(const struct state_figures *figures,
					unsigned int number)
{
	return figures->states.oldstate | figures->states.newstate << 8;
}

static __always_inline void count_figures(const struct place *place,
					  const struct state_figures *figures)
{
	add_to(place, &place->totals->changes, 1);
	if (figures->span_us != (__u64)-1)
		count_some(place, 0, figures->span_us);
}
#endif

static __always_inline void send(void *ctx, const struct state_event *event)
{
	if (config.states && !(config.states & (1 << event->states.oldstate |
						1 << event->states.newstate)))
		return;
#ifdef SUMMARY
	count(event);
#else
	send_record(ctx, (void *)event, sizeof(*event), event->time_ns);
#endif
}

static __always_inline void hold(struct sock *sk,
				 const struct state_event *event)
{
	struct held *held = add_to_socket(held_changes, sk);
	__u32 count;

	if (!held || held->count >= 4) {
		__sync_fetch_and_add(&counted.lost_sessions, 1);
		return;
	}
	count = held->count & 3;
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
	for (int i = 0; i < 4; i++)
		if (i < (int)count)
			send(ctx, &held->events[i]);
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
	enum verdict verdict = PASS;

	if (connecting && config.filter_lport)
		verdict = HOLD;
	else if (!wanted_lport(event->lport))
		return DROP;
	if (child && config.filter_rport)
		verdict = HOLD;
	else if (!wanted_rport(event->rport))
		return DROP;
	if (child && config.family &&
	    FIELD(sk, __sk_common.skc_family) == AF_INET6)
		verdict = HOLD;
	else if (!wanted_family(sk))
		return DROP;
	if (config.filter_pid && !event->owner.pid)
		verdict = HOLD;
	else if (!wanted_pid(event->owner.pid))
		return DROP;
	return verdict;
}

static __always_inline bool filtering(void)
{
	return config.filter_lport || config.filter_rport ||
	       config.filter_pid || config.family;
}

static __always_inline void pass_on(void *ctx, struct sock *sk,
				    const struct state_event *event)
{
	enum verdict verdict;

	if (!filtering()) {
		send(ctx, event);
		return;
	}
	verdict = judge(sk, event);
	if (verdict == HOLD) {
		hold(sk, event);
		return;
	}
	release(ctx, sk, verdict == PASS);
	if (verdict == PASS)
		send(ctx, event);
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
	struct session *known = find(sk);
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
	tell_addresses(event.laddr, event.raddr, sk);

	if (newstate == BPF_TCP_CLOSE) {
		forget(sk);
		note_ended(sk);
	} else if (!known) {
		keep(sk, &fresh);
	}
	pass_on(ctx, sk, &event);
}

/*
 * The session ended with nobody acting on it: whoever closes its socket now is
 * the owner, and tells whether what was held of it passes.
 */
static __always_inline int on_destroy(void *ctx, struct sock *sk)
{
	if (config.filter_pid && acting(sk))
		release(ctx, sk, wanted_pid(bpf_get_current_pid_tgid() >> 32));
	on_listener_destroyed(sk);
	forget_destroyed(sk);
	take_from_socket(held_changes, sk);
	return 0;
}

#include "changes.h"
