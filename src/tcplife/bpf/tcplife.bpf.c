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
	struct owner owner;
	__u8 certainty;
	__u8 active; /* opened by connect() */
	__u8 established;
	__u8 over; /* has ended, but is still in the map */
};

#define RING_BYTES (2 * 1024 * 1024)
#include "trace.h"
#include "listeners.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline bool any_parked(void)
{
	return control.parked != control.resolved + control.walked;
}

static __always_inline struct session_event *reserve(const struct owner *owner)
{
	struct session_event *event;

	if (!wanted_pid(owner->pid))
		return NULL;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		__sync_fetch_and_add(&control.lost_events, 1);
	return event;
}

/*
 * Sends what is parked with a socket. Its owner is the current task, if that
 * acts on the socket, or is closing the listener (on `port`) that has it in its
 * queue.
 */
static __always_inline void resolve(struct sock *sk, bool by_task)
{
	struct parked *it = bpf_sk_storage_get(&parked, sk, NULL, 0);
	struct session_event *event;

	if (!it || !unpark(it))
		return;
	if (by_task || closing_listener_on(it->event.lport))
		take_owner(&it->event.owner, it->certainty, OWNER_ENDED);
	event = reserve(&it->event.owner);
	if (event) {
		*event = it->event;
		submit(event);
	}
	__sync_fetch_and_add(&control.resolved, 1);
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
				       const struct tcp_sock *tp, int oldstate)
{
	bool fin_sent = oldstate == BPF_TCP_FIN_WAIT1 ||
			oldstate == BPF_TCP_FIN_WAIT2 ||
			oldstate == BPF_TCP_CLOSING ||
			oldstate == BPF_TCP_LAST_ACK;

	event->tx_bytes = 0;
	event->rx_bytes = 0;
	if (!session->established)
		return;
	event->tx_bytes = tp->bytes_acked - session->active -
			  (fin_sent && tp->snd_una == tp->write_seq);
	event->rx_bytes = tp->bytes_received - has_flag(sk, SOCK_DONE);
}

static __always_inline void tell(struct session_event *event,
				 const struct session *session,
				 const struct sock *sk,
				 const struct tcp_sock *tp, int oldstate)
{
	__u64 now = bpf_ktime_get_ns();

	event->time_ns = now;
	event->life_us = (now - session->first_ns) / 1000;
	event->span_us = (now - session->birth_ns) / 1000;
	event->owner = session->owner;
	/* tcp_set_state() has given skc_num back by now; inet_sport stays. */
	event->lport = bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport);
	event->rport = bpf_ntohs(sk->__sk_common.skc_dport);
	tell_addresses(event->laddr, event->raddr, sk);
	tell_bytes(event, session, sk, tp, oldstate);
}

static __always_inline void send(const struct session *session,
				 const struct sock *sk,
				 const struct tcp_sock *tp, int oldstate)
{
	struct session_event *event = reserve(&session->owner);

	if (!event)
		return;
	tell(event, session, sk, tp, oldstate);
	submit(event);
}

static __always_inline bool park(const struct session *session, struct sock *sk,
				 const struct tcp_sock *tp, int oldstate)
{
	struct parked *it;

	it = bpf_sk_storage_get(&parked, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!it)
		return false;
	tell(&it->event, session, sk, tp, oldstate);
	it->certainty = session->certainty;
	it->waiting = 1;
	__sync_fetch_and_add(&control.parked, 1);
	return true;
}

static __always_inline void begin(struct sock *sk, bool active,
				  bool established, bool by_task)
{
	__u64 now = bpf_ktime_get_ns();
	struct session session = {
		.first_ns = now,
		.birth_ns = now,
		.active = active,
		.established = established,
	};

	if (by_task)
		session.certainty =
			take_owner(&session.owner, OWNER_UNKNOWN, OWNER_ACTED);
	keep(sk, &session, now);
}

/* connect(): the local port is not chosen yet, the remote one is known. */
static __always_inline void on_connect(struct sock *sk, bool by_task)
{
	/* The socket's second life: the first may be parked. */
	if (any_parked())
		resolve(sk, by_task);
	if (wanted_rport(bpf_ntohs(sk->__sk_common.skc_dport)))
		begin(sk, true, false, by_task);
}

/*
 * A child of a listener: its local port is the listener's, the remote one is
 * not set yet (net/ipv4/inet_connection_sock.c, inet_csk_clone_lock()).
 */
static __always_inline void on_child(struct sock *sk)
{
	if (wanted_lport(sk->__sk_common.skc_num))
		begin(sk, false, false, false);
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
				take_owner(&session->owner, session->certainty,
					   OWNER_ACTED);
	} else if (wanted_lport(sk->__sk_common.skc_num) &&
		   wanted_rport(bpf_ntohs(sk->__sk_common.skc_dport))) {
		/* Tracing began within its handshake. */
		begin(sk, oldstate == BPF_TCP_SYN_SENT, true, by_task);
	}
}

/* One side closes: what the current task does here makes it the owner. */
static __always_inline void on_closing(struct sock *sk, int newstate)
{
	__u8 as = newstate == BPF_TCP_CLOSE_WAIT ? OWNER_ACTED : OWNER_ENDED;
	struct session *session;

	session = find(sk);
	if (session && session->certainty != OWNER_ENDED)
		session->certainty =
			take_owner(&session->owner, session->certainty, as);
}

static __always_inline void on_close(struct sock *sk, int oldstate,
				     bool by_task)
{
	struct session *session = find(sk);
	struct tcp_sock *tp;

	if (!session)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp && wanted_family(sk) &&
	    wanted_lport(bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport)) &&
	    wanted_rport(bpf_ntohs(sk->__sk_common.skc_dport))) {
		/*
		 * tcp_abort() (`ss -K`, bpf_sock_destroy()) acts on the socket
		 * of somebody else, and has set ECONNABORTED by now.
		 */
		if (session->certainty != OWNER_ENDED && by_task &&
		    sk->sk_err != ECONNABORTED)
			session->certainty =
				take_owner(&session->owner, session->certainty,
					   OWNER_ENDED);
		/*
		 * Once its last descriptor is closed (SOCK_DEAD), nobody is
		 * left to ask; before, the socket may have been passed on since
		 * the owner was noted.
		 */
		if (session->certainty == OWNER_ENDED ||
		    (session->certainty == OWNER_ACTED &&
		     has_flag(sk, SOCK_DEAD)) ||
		    !park(session, sk, tp, oldstate))
			send(session, sk, tp, oldstate);
	}
	forget(sk);
}

/* by_task: the current task makes the change. */
static __always_inline void on_change(struct sock *sk, int oldstate,
				      int newstate, bool by_task)
{
	switch (newstate) {
	case BPF_TCP_SYN_SENT:
		on_connect(sk, by_task);
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
		if (by_task)
			on_closing(sk, newstate);
		break;
	case BPF_TCP_CLOSE:
		if (oldstate != BPF_TCP_LISTEN)
			on_close(sk, oldstate, by_task);
		else if (by_task)
			on_listener_closed(sk);
		break;
	}
}

#include "changes.h"

/* The socket's end: whoever closes its last descriptor is the owner. */
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(tcp_destroy_sock, struct sock *sk)
{
	if (any_parked())
		resolve(sk, acting(sk));
	on_destroy(sk);
	return 0;
}
