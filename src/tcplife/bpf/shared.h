/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs share with user space while they run. */
#ifndef TCPLIFE_SHARED_H
#define TCPLIFE_SHARED_H

#include "tier.h"

/* What user space reads. */
struct counts {
	__u64 lost_events;   /* ended, but there was no room to send it */
	__u64 lost_sessions; /* began, but there was no memory to follow it */
	__u64 parked;	     /* sessions parked so far */
	__u64 resolved;	     /* of these, given their owner here */
	__u64 closing;	     /* tasks that are closing a listener */
	__u64 overflowed;    /* open_sessions had no room for one */
	__u64 asked_ns;	     /* when the ring's fill was last looked at */
	__u64 groups;	     /* numbers that were given to groups */
	__u64 folded;	     /* sessions whose group had no room of its own */
	__u64 uncounted;     /* values that had no room in a histogram */
};

/* What user space sets. */
struct control {
	__u64 tool; /* its PID, once it has walked over open files or sockets */
	__u64 walked;	  /* parked sessions that it found the owners of */
	__u64 began_ns;	  /* the trace, for sessions that are older */
	__u64 noted;	  /* all that were open then are known by now */
	__u64 round;	  /* of walks over open files */
	__u64 any_holder; /* in this walk */
	__u64 last_list;  /* what is listed now is not sent again */
	__u64 filled;	  /* which of two sets of maps is added to */
	__u64 lport_bits[1024]; /* a bit a port */
	__u64 rport_bits[1024];
};

#if TIER <= 2
/* One variable, so that their order in memory is known. */
struct shared {
	struct counts counts;
	struct control control;
};

struct shared shared = {};

static __always_inline struct counts *cnt(void)
{
	return &shared.counts;
}

static __always_inline struct control *ctl(void)
{
	return &shared.control;
}
#else
ONE_ELEMENT(counts, counts_array);
ONE_ELEMENT(control, control_array);

static __always_inline struct counts *cnt(void)
{
	return element_or_exit(&counts_array);
}

static __always_inline struct control *ctl(void)
{
	return element_or_exit(&control_array);
}
#endif

#endif
