/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What sessions are grouped by, and what is added up of them. */
#ifndef TCPLIFE_SESSION_GROUPS_H
#define TCPLIFE_SESSION_GROUPS_H

#include "config.h"
#include "quantity.h"
#include "session.h"
#include "story.h"

#include <bpf/bpf_endian.h>

/* What is not asked for is 0. group_word() has the same order. */
struct session_group {
	char comm[16];
	__u16 lport;
	__u16 rport;
	__u16 port; /* the service's: the one of the two that was connected to
		     */
	__u8 dir;
	__u8 end;
	__u64 cgroup;
	__u32 pid;
	__u32 uid;
	__u32 netns;
	__u8 other; /* all groups that found no room */
	__u8 unused[3];
	__u8 laddr[16];
	__u8 raddr[16];
};

struct session_totals {
	__u32 id;
	__u32 unused;
	__u64 segs_out;
	struct quantity_sum sums[QUANTITIES];
	__u64 ends[ENDS]; /* together, all sessions */
	__u64 retrans;
};

/*
 * What of one session counts. Most often it is no more than the first 64 bytes;
 * what isn't asked for is not set.
 */
struct session_figures {
	char comm[16];
	__u16 lport;
	__u16 rport;
	__u8 dir;
	__u8 end;
	__u16 unused;
	__u32 segs_out;
	__u32 retrans;
	__u64 life_us;
	__u64 connect_us;
	__u64 tx_bytes;
	__u64 rx_bytes;
	__u32 pid;
	__u32 uid;
	__u32 netns;
	__u32 rtt_us;
	__u64 cgroup;
	__u8 laddr[16];
	__u8 raddr[16];
	__u64 unused_too;
};
_Static_assert(sizeof(struct session_figures) == 128, "two lines of a cache");

/* For summary.h. */
#define EVENT event
#define FIGURES session_figures
#define GROUP session_group
#define TOTALS session_totals

static __always_inline __u64 two(__u32 low, __u32 high)
{
	return low | (__u64)high << 32;
}

static __always_inline void take_figures(struct session_figures *figures,
					 const struct event *event)
{
	const struct session_event *session = &event->session;
	const struct story *story = event->story;

	__builtin_memcpy(figures->comm, session->owner.comm, 16);
	figures->lport = session->lport;
	figures->rport = session->rport;
	figures->dir = story->dir;
	figures->end = story->end;
	figures->segs_out = story->segs_out;
	figures->retrans = story->retrans;
	figures->life_us =
		cfg()->whole_life ? session->life_us : session->span_us;
	figures->connect_us = story->connect_us;
	figures->tx_bytes = session->tx_bytes;
	figures->rx_bytes = session->rx_bytes;
	if (cfg()->by & (BY_PID | BY_UID)) {
		figures->pid = session->owner.pid;
		figures->uid = session->owner.pid ? story->uid : -1;
	}
	if (cfg()->by & BY_NETNS)
		figures->netns = story->netns;
	if (cfg()->quantities & 1U << QUANTITY_RTT)
		figures->rtt_us = story->srtt_us;
	if (cfg()->by & BY_CGROUP)
		figures->cgroup = story->cgroup;
	if (cfg()->by & BY_LADDR)
		__builtin_memcpy(figures->laddr, session->laddr, 16);
	if (cfg()->by & BY_RADDR)
		__builtin_memcpy(figures->raddr, session->raddr, 16);
}

/* Two of the four words of the remote address. */
static __always_inline __u64 remote_part(const struct session_figures *figures,
					 int first)
{
	const __u32 *addr = (const __u32 *)figures->raddr;
	bool four = !addr[0] && !addr[1] && addr[2] == bpf_htonl(0xffff);
	__u32 part[2];

	for (int i = 0; i < 2; i++)
		part[i] = addr[first + i] & (four ? cfg()->subnet_4[first + i]
						  : cfg()->subnet_6[first + i]);
	return two(part[0], part[1]);
}

static __always_inline __u16 service_port(const struct session_figures *figures)
{
	__u16 lport = figures->lport;
	__u16 rport = figures->rport;

	switch (figures->dir) {
	case DIR_IN:
		return lport;
	case DIR_OUT:
		return rport;
	default:
		return lport < rport ? lport : rport;
	}
}

static __always_inline __u64
ports_and_kind(const struct session_figures *figures)
{
	__u64 word = 0;

	if (cfg()->by & BY_LPORT)
		word |= figures->lport;
	if (cfg()->by & BY_RPORT)
		word |= (__u64)figures->rport << 16;
	if (cfg()->by & BY_PORT)
		word |= (__u64)service_port(figures) << 32;
	if (cfg()->by & BY_DIR)
		word |= (__u64)figures->dir << 48;
	if (cfg()->by & BY_END)
		word |= (__u64)figures->end << 56;
	return word;
}

static __always_inline __u64 group_word(const struct session_figures *figures,
					unsigned int number)
{
	const __u64 *comm = (const __u64 *)figures->comm;
	const __u64 *laddr = (const __u64 *)figures->laddr;

	switch (number) {
	case 0:
	case 1:
		return comm[number];
	case 2:
		return ports_and_kind(figures);
	case 3:
		return figures->cgroup;
	case 4:
		return two(cfg()->by & BY_PID ? figures->pid : 0,
			   cfg()->by & BY_UID ? figures->uid : 0);
	case 5:
		return figures->netns;
	case 6:
	case 7:
		return laddr[number - 6];
	default:
		return remote_part(figures, 2 * number - 16);
	}
}

static __always_inline void count_figures(const struct tally *tally,
					  struct session_totals *totals,
					  const struct session_figures *figures)
{
	if (figures->end < ENDS) /* as it is */
		add_to(tally, &totals->ends[figures->end], 1);
	add_to(tally, &totals->segs_out, figures->segs_out);
	if (figures->retrans)
		add_to(tally, &totals->retrans, figures->retrans);
	count_quantity(tally, QUANTITY_LIFE, figures->life_us);
	if (figures->connect_us != (__u64)-1)
		count_some(tally, QUANTITY_CONNECT, figures->connect_us);
	count_quantity(tally, QUANTITY_TX, figures->tx_bytes);
	count_quantity(tally, QUANTITY_RX, figures->rx_bytes);
	if (figures->rtt_us)
		count_some(tally, QUANTITY_RTT, figures->rtt_us);
}

#endif
