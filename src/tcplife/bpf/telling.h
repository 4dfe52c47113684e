/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Telling a session's whole story (story.h), from its start to its end. */
#ifndef TCPLIFE_TELLING_H
#define TCPLIFE_TELLING_H

#include "session.h"

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

	if (!session->before)
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

static __always_inline void tell_connect(struct story *story,
					 const struct session *session,
					 const struct session_event *told)
{
	if (!session->active || session->before)
		story->connect_us = -1;
	else if (session->established)
		story->connect_us = told->life_us - told->span_us;
	else
		story->connect_us = told->life_us;
}

/* Of what is added up, not all is asked for. */
static __always_inline bool tells_netns(void)
{
#ifdef SUMMARY
	return config.by & BY_NETNS || config.filter_netns;
#else
	return true;
#endif
}

static __always_inline bool tells_rtt(void)
{
#ifdef SUMMARY
	return config.quantities & 1U << RTT_US;
#else
	return true;
#endif
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

static __always_inline void tell_network(struct story *story,
					 const struct session *session,
					 const struct sock *sk,
					 const struct tcp_sock *tp, int state)
{
	if (tells_rtt())
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
	if (tells_netns())
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

#ifdef SUMMARY
static __always_inline void note_fin(struct session *session, int newstate)
{
}

static __always_inline void tell_more(struct story *story,
				      const struct session *session,
				      const struct session_event *told,
				      const struct tcp_sock *tp, int state)
{
}
#else
static __always_inline void note_fin(struct session *session, int newstate)
{
	if (newstate == BPF_TCP_CLOSING)
		session->first = FIRST_BOTH;
	if (session->fin_ns)
		return;
	session->fin_ns = bpf_ktime_get_ns();
	session->first =
		newstate == BPF_TCP_FIN_WAIT1 ? FIRST_LOCAL : FIRST_REMOTE;
}

static __always_inline void tell_times(struct story *story,
				       const struct session *session,
				       const struct session_event *told)
{
	__u64 close_us = 0;

	story->open_us = told->life_us;
	if (story->connect_us != (__u64)-1)
		story->open_us -= story->connect_us;
	if (session->fin_ns)
		close_us = (told->time_ns - session->fin_ns) / 1000;
	/* They are cut to microseconds, each, but have to add up. */
	if (close_us > story->open_us)
		close_us = story->open_us;
	story->open_us -= close_us;
	story->close_us = close_us;
}

static __always_inline __u8 first_of(const struct session *session, int state,
				     __u8 end)
{
	if (session->first)
		return session->first;
	/* Its FIN was before the trace. */
	if (state == BPF_TCP_LAST_ACK || state == BPF_TCP_CLOSE_WAIT)
		return FIRST_REMOTE;
	if (fin_sent(state))
		return state == BPF_TCP_CLOSING ? FIRST_BOTH : FIRST_LOCAL;
	if (end == END_RESET_BY_US)
		return FIRST_LOCAL;
	return end == END_RESET_BY_PEER ? FIRST_REMOTE : FIRST_UNKNOWN;
}

static __always_inline void tell_more(struct story *story,
				      const struct session *session,
				      const struct session_event *told,
				      const struct tcp_sock *tp, int state)
{
	const struct tcp_congestion_ops *ca = FIELD(tp, inet_conn.icsk_ca_ops);

	tell_times(story, session, told);
	story->first = first_of(session, state, story->end);
	story->before = session->before;
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

#endif

/* state: the one that it is in, or has just left. */
static __always_inline void tell_story(struct event *event,
				       const struct session *session,
				       const struct sock *sk,
				       const struct tcp_sock *tp, int state,
				       bool open)
{
	struct story *story = &event->story;

	__builtin_memset(story, 0, sizeof(*story));
	story->error = open ? 0 : FIELD(sk, sk_err);
	tell_connect(story, session, &event->session);
	tell_network(story, session, sk, tp, state);
	story->end =
		open ? END_OPEN : end_of(state, story->error, cuts(sk, story));
	story->dir = dir_of(session, tp, state);
	tell_more(story, session, &event->session, tp, state);
}

static __always_inline void begin_older(struct session *session, int state)
{
	__builtin_memset(session, 0, sizeof(*session));
	session->first_ns = control.began_ns;
	session->birth_ns = control.began_ns;
	session->established =
		state != BPF_TCP_SYN_SENT && state != BPF_TCP_SYN_RECV;
	session->before = 1;
}

/* The walk over all sockets may not have come to it. */
static __always_inline bool may_be_older(void)
{
	return config.all && !control.noted;
}

APART void keep_older(struct sock *sk, int state)
{
	struct session session;

	begin_older(&session, state);
	keep(sk, &session);
}

static __always_inline struct session *older_session(struct sock *sk, int state)
{
	/* It may have been told already: see changes.h. */
	if (!may_be_older() || just_ended(sk))
		return NULL;
	keep_older(sk, state);
	return find(sk);
}

#endif
