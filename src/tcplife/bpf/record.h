/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Fills in what is sent of a session. */
#ifndef TCPLIFE_RECORD_H
#define TCPLIFE_RECORD_H

#include "addr.h"
#include "config.h"
#include "kept.h"
#include "ports.h"
#include "session.h"
#include "socket.h"
#include "story.h"

static __always_inline bool fin_sent(int state)
{
	return state == BPF_TCP_FIN_WAIT1 || state == BPF_TCP_FIN_WAIT2 ||
	       state == BPF_TCP_CLOSING || state == BPF_TCP_LAST_ACK;
}

/*
 * Whether a session is ours (DIR_OUT). One that is older than the trace shows
 * it in its counters: bytes_acked takes in the SYN where we connected, and
 * bytes_sent never does (net/ipv4/tcp_output.c, __tcp_transmit_skb()).
 */
static __always_inline __u8 dir_of(const struct session *session,
				   const struct tcp_sock *tp, int state)
{
	__u64 excess;

	if (!session->past->before)
		return session->active ? DIR_OUT : DIR_IN;
	if (!session->established)
		return DIR_UNKNOWN;
	excess =
		FIELD(tp, bytes_acked) +
		(__u32)(FIELD(tp, snd_nxt) - FIELD(tp, snd_una)) -
		(FIELD_OR_0(tp, bytes_sent) - FIELD_OR_0(tp, bytes_retrans)) -
		(fin_sent(state) && FIELD(tp, snd_nxt) == FIELD(tp, write_seq));
	if (excess > 1)
		return DIR_UNKNOWN;
	return excess ? DIR_OUT : DIR_IN;
}

static __always_inline void fill_connect(struct story *story,
					 const struct session *session,
					 const struct session_event *record)
{
	if (!session->active || session->past->before)
		story->connect_us = -1;
	else if (session->established)
		story->connect_us = record->life_us - record->span_us;
	else
		story->connect_us = record->life_us;
}

/* Of what is added up, not all is asked for. */
static __always_inline bool needs_addresses(void)
{
	return !SUMMARY || cfg()->by & (BY_LADDR | BY_RADDR) ||
	       cfg()->filter_laddr || cfg()->filter_raddr;
}

static __always_inline bool needs_netns(void)
{
	return !SUMMARY || cfg()->by & BY_NETNS || cfg()->filter_netns;
}

static __always_inline bool needs_rtt(void)
{
	return !SUMMARY || cfg()->quantities & 1U << QUANTITY_RTT;
}

/*
 * Not by `sk`: where a trusted pointer is followed, the verifier (since 6.2)
 * looks through all of the kernel's types, 2 ms each (kernel/bpf/verifier.c,
 * type_is_trusted()). What bpf_skc_to_tcp_sock() gives is none.
 */
static __always_inline __u32 netns_of(const struct tcp_sock *tp)
{
	const struct net *net =
		FIELD((const struct sock *)tp, __sk_common.skc_net.net);

	return FIELD(net, ns.inum);
}

static __always_inline void fill_network(struct story *story,
					 const struct session *session,
					 const struct sock *sk,
					 const struct tcp_sock *tp, int state)
{
	if (needs_rtt())
		story->srtt_us = FIELD(tp, srtt_us) >> 3;
	story->retrans = FIELD(tp, total_retrans);
	story->segs_out = FIELD(tp, segs_out);
	if (session->established) {
		__u32 unread = FIELD(tp, rcv_nxt) - FIELD(tp, copied_seq);

		/* The peer's FIN takes a sequence number. */
		if (unread && has_flag(sk, SOCK_DONE))
			unread--;
		story->unread_bytes = unread;
	}
	if (needs_netns())
		story->netns = netns_of(tp);
}

/*
 * Does closing the socket send a reset (net/ipv4/tcp.c, __tcp_close())? Where
 * the peer's FIN has come, it is not closing that ends the session.
 */
static __always_inline bool cuts(const struct sock *sk,
				 const struct story *story)
{
	return !has_flag(sk, SOCK_DONE) &&
	       (story->unread_bytes ||
		(has_flag(sk, SOCK_LINGER) && !FIELD(sk, sk_lingertime)));
}

static __always_inline void note_fin(struct session *session, int newstate)
{
	if (newstate == BPF_TCP_CLOSING)
		session->past->first = FIRST_BOTH;
	if (*session->fin_ns)
		return;
	*session->fin_ns = bpf_ktime_get_ns();
	session->past->first =
		newstate == BPF_TCP_FIN_WAIT1 ? FIRST_LOCAL : FIRST_REMOTE;
}

static __always_inline void fill_times(struct story *story,
				       const struct session *session,
				       const struct session_event *record)
{
	__u64 close_us = 0;

	story->open_us = record->life_us;
	if (story->connect_us != (__u64)-1)
		story->open_us -= story->connect_us;
	if (*session->fin_ns)
		close_us = (record->time_ns - *session->fin_ns) / 1000;
	/* They are cut to microseconds, each, but have to add up. */
	if (close_us > story->open_us)
		close_us = story->open_us;
	story->open_us -= close_us;
	story->close_us = close_us;
}

static __always_inline __u8 first_of(const struct session *session, int state,
				     __u8 end)
{
	if (session->past->first)
		return session->past->first;
	/* Its FIN was before the trace. */
	if (state == BPF_TCP_LAST_ACK || state == BPF_TCP_CLOSE_WAIT)
		return FIRST_REMOTE;
	if (fin_sent(state))
		return state == BPF_TCP_CLOSING ? FIRST_BOTH : FIRST_LOCAL;
	if (end == END_RESET_BY_US)
		return FIRST_LOCAL;
	return end == END_RESET_BY_PEER ? FIRST_REMOTE : FIRST_UNKNOWN;
}

static __always_inline void fill_more(struct story *story,
				      const struct session *session,
				      const struct session_event *record,
				      const struct tcp_sock *tp, int state)
{
	const struct tcp_congestion_ops *ca = FIELD(tp, inet_conn.icsk_ca_ops);

	fill_times(story, session, record);
	story->first = first_of(session, state, story->end);
	story->before = session->past->before;
	if (session->established) {
		story->lost_bytes = FIELD(tp, write_seq) - FIELD(tp, snd_una);
		/* Our FIN takes a sequence number. */
		if (story->lost_bytes && fin_sent(state))
			story->lost_bytes--;
	}

	READ_ARRAY(story->cc, ca, name);
	story->min_rtt_us = FIELD(tp, rtt_min.s[0].v);
	story->retrans_bytes = FIELD_OR_0(tp, bytes_retrans);
	story->segs_in = FIELD(tp, segs_in);
	story->mss = FIELD(tp, mss_cache);
}

/* state: the one that it is in, or has just left. */
static __always_inline void fill_story(struct event *event,
				       const struct session *session,
				       const struct sock *sk,
				       const struct tcp_sock *tp, int state,
				       bool open)
{
	struct story *story = event->story;

	__builtin_memset(story, 0, sizeof(*story));
	story->error = open ? 0 : FIELD(sk, sk_err);
	fill_connect(story, session, &event->session);
	fill_network(story, session, sk, tp, state);
	story->end =
		open ? END_OPEN : end_of(state, story->error, cuts(sk, story));
	story->dir = dir_of(session, tp, state);
	if (!SUMMARY)
		fill_more(story, session, &event->session, tp, state);
}

static __always_inline bool is_active(const struct session *session,
				      const struct tcp_sock *tp, int state)
{
	return STORY ? dir_of(session, tp, state) == DIR_OUT : session->active;
}

/*
 * The application's bytes. The kernel's counters include our SYN and each FIN:
 * - bytes_acked takes in our SYN where the handshake's answer goes through
 *   tcp_ack(), so on the connecting side only; and our FIN once acknowledged.
 * - bytes_received takes in the peer's FIN, which tcp_fin() notes as SOCK_DONE.
 * (net/ipv4/tcp_input.c, tcp_snd_una_update() and tcp_rcv_nxt_update())
 */
static __always_inline void fill_bytes(struct session_event *event,
				       const struct session *session,
				       const struct sock *sk,
				       const struct tcp_sock *tp, int state)
{
	event->tx_bytes = 0;
	event->rx_bytes = 0;
	if (!session->established)
		return;
	event->tx_bytes =
		FIELD(tp, bytes_acked) - is_active(session, tp, state) -
		(fin_sent(state) && FIELD(tp, snd_una) == FIELD(tp, write_seq));
	event->rx_bytes = FIELD(tp, bytes_received) - has_flag(sk, SOCK_DONE);
}

/* state: the one that it is in, if it is still open, or has just left. */
static __always_inline void fill_event(struct event *event,
				       const struct session *session,
				       const struct sock *sk,
				       const struct tcp_sock *tp, int state,
				       bool open)
{
	struct session_event *record = &event->session;
	__u64 now = bpf_ktime_get_ns();

	record->time_ns = now;
	record->life_us = (now - session->first_ns) / 1000;
	record->span_us = (now - session->birth_ns) / 1000;
	record->owner = session->owner;
	/* tcp_set_state() has given skc_num back by now; inet_sport stays. */
	record->lport = bpf_ntohs(FIELD(tp, inet_conn.icsk_inet.inet_sport));
	record->rport = bpf_ntohs(FIELD(sk, __sk_common.skc_dport));
	if (needs_addresses()) {
		set_addresses(record->laddr, record->raddr, sk);
	} else {
		__builtin_memset(record->laddr, 0, sizeof(record->laddr));
		__builtin_memset(record->raddr, 0, sizeof(record->raddr));
	}
	fill_bytes(record, session, sk, tp, state);
	if (STORY)
		fill_story(event, session, sk, tp, state, open);
}

static __always_inline bool wanted_session(const struct sock *sk,
					   const struct tcp_sock *tp)
{
	return wanted_family(sk) &&
	       wanted_lport(
		       bpf_ntohs(FIELD(tp, inet_conn.icsk_inet.inet_sport))) &&
	       wanted_rport(bpf_ntohs(FIELD(sk, __sk_common.skc_dport)));
}

#endif
