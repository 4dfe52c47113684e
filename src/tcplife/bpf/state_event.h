/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is sent of a change of state. */
#ifndef TCPLIFE_STATE_EVENT_H
#define TCPLIFE_STATE_EVENT_H

#include "owner.h"

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

#endif
