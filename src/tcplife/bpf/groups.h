/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Adding up sessions: by what, and what. */
#ifndef TCPLIFE_GROUPS_H
#define TCPLIFE_GROUPS_H

#include "session.h"
#include "quantity.h"

enum quantity {
	LIFE_US,
	CONNECT_US,
	TX_BYTES,
	RX_BYTES,
	RTT_US,
	QUANTITIES
};

/* What is not asked for is 0. */
struct session_group {
	__u8 laddr[16];
	__u8 raddr[16];
	char comm[16];
	__u64 cgroup;
	__u32 pid;
	__u32 uid;
	__u32 netns;
	__u16 lport;
	__u16 rport;
	__u16 port; /* the service's: the one of the two that was connected to
		     */
	__u8 dir;
	__u8 end;
	__u8 other; /* all groups that found no room */
	__u8 unused[3];
};

struct session_totals {
	__u32 id;
	__u32 unused;
	__u64 segs_out;
	__u64 retrans;
	__u64 ends[9]; /* by enum end: together, all sessions */
	struct quantity_sum sums[QUANTITIES];
};

#define GROUP session_group
#define TOTALS session_totals
#include "summary.h"

static __always_inline bool by_address(void)
{
	return config.by & (BY_LADDR | BY_RADDR) || config.filter_laddr ||
	       config.filter_raddr;
}

static __always_inline void group_address(__u8 *to, const __u8 *from)
{
	const __u32 *addr = (const __u32 *)from;
	bool four = !addr[0] && !addr[1] && addr[2] == bpf_htonl(0xffff);
	__u32 *words = (__u32 *)to;

	for (int i = 0; i < 4; i++)
		words[i] = addr[i] &
			   (four ? config.subnet_4[i] : config.subnet_6[i]);
}

static __always_inline __u16 service_port(const struct event *event)
{
	__u16 lport = event->session.lport;
	__u16 rport = event->session.rport;

	switch (event->story.dir) {
	case DIR_IN:
		return lport;
	case DIR_OUT:
		return rport;
	default:
		return lport < rport ? lport : rport;
	}
}

static __always_inline void group_of(struct session_group *group,
				     const struct event *event,
				     const struct owner_more *more)
{
	const struct session_event *session = &event->session;
	const struct story *story = &event->story;

	__builtin_memset(group, 0, sizeof(*group));
	if (config.by & BY_LADDR)
		__builtin_memcpy(group->laddr, session->laddr, 16);
	if (config.by & BY_RADDR)
		group_address(group->raddr, session->raddr);
	if (config.by & BY_COMM)
		__builtin_memcpy(group->comm, session->owner.comm, 16);
	if (config.by & BY_CGROUP)
		group->cgroup = more->cgroup;
	if (config.by & BY_PID)
		group->pid = session->owner.pid;
	if (config.by & BY_UID)
		group->uid = session->owner.pid ? more->uid : -1;
	if (config.by & BY_NETNS)
		group->netns = story->netns;
	if (config.by & BY_LPORT)
		group->lport = session->lport;
	if (config.by & BY_RPORT)
		group->rport = session->rport;
	if (config.by & BY_PORT)
		group->port = service_port(event);
	if (config.by & BY_DIR)
		group->dir = story->dir;
	if (config.by & BY_END)
		group->end = story->end;
}

static __always_inline void count_session(const struct event *event,
					  const struct owner_more *more)
{
	const struct session_event *session = &event->session;
	const struct story *story = &event->story;
	struct session_totals *totals;
	struct session_group group;
	__u32 set = filled_set();
	struct place place;

	group_of(&group, event, more);
	totals = totals_of(set, &group);
	if (!totals)
		return;
	place = place_in(set, totals);
	if (story->end < 9) /* as it is */
		__sync_fetch_and_add(&totals->ends[story->end], 1);
	__sync_fetch_and_add(&totals->segs_out, story->segs_out);
	if (story->retrans)
		__sync_fetch_and_add(&totals->retrans, story->retrans);
	count_quantity(&place, LIFE_US,
		       config.whole_life ? session->life_us : session->span_us);
	if (story->connect_us != (__u64)-1)
		count_some(&place, CONNECT_US, story->connect_us);
	count_quantity(&place, TX_BYTES, session->tx_bytes);
	count_quantity(&place, RX_BYTES, session->rx_bytes);
	if (story->srtt_us)
		count_some(&place, RTT_US, story->srtt_us);
}

#endif
