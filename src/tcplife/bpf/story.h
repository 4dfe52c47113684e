/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A session's whole story: what is sent of it beyond struct session_event. */
#ifndef TCPLIFE_STORY_H
#define TCPLIFE_STORY_H

#include "kernel.h"

enum dir {
	DIR_UNKNOWN,
	DIR_OUT,
	DIR_IN
};

/* How a session ended; OPEN: it has not. */
enum end {
	END_OPEN,
	END_CLOSED,
	END_RESET_BY_PEER,
	END_RESET_BY_US,
	END_REFUSED,
	END_UNREACHABLE,
	END_TIMEOUT,
	END_GIVEN_UP,
	END_DESTROYED,
};

#define ENDS (END_DESTROYED + 1)

/* Who sent the first FIN or, where there was none, the RST. */
enum first {
	FIRST_UNKNOWN,
	FIRST_LOCAL,
	FIRST_REMOTE,
	FIRST_BOTH
};

/* Durations of -1 and a min_rtt_us of -1 are not known. */
struct story {
	__u64 connect_us; /* SYN_SENT to ESTABLISHED, or to the failure */
	__u64 open_us;	  /* from then to the first FIN, or to the end */
	__u64 close_us;	  /* from then to CLOSE */
	__u64 cgroup;	  /* of the owner, in the v2 hierarchy; 0: not known */
	__u64 retrans_bytes;
	__u32 lost_bytes;   /* written, never acknowledged */
	__u32 unread_bytes; /* received, never read */
	__u32 srtt_us;	    /* 0: never measured */
	__u32 min_rtt_us;
	__u32 retrans; /* segments */
	__u32 segs_in;
	__u32 segs_out;
	__u32 mss;
	__u32 uid; /* of the owner */
	__u32 ppid;
	__u32 netns;
	__u16 error;
	__u8 dir;
	__u8 end;
	__u8 first;
	__u8 before; /* older than the trace: durations are lower bounds */
	__u8 unused[6];
	char cc[16];
};
_Static_assert(sizeof(struct story) == 112,
	       "the ring buffer's stride is a multiple of 8, without padding");

/*
 * By its error and the state that it left; see docs/fields.md. cut: we closed
 * the socket in a way that sends a reset.
 */
static __always_inline __u8 end_of(int oldstate, __u16 error, bool cut)
{
	switch (error) {
	case 0:
		break;
	case ECONNABORTED:
		return END_DESTROYED;
	case ECONNREFUSED:
		/* Later it is ICMP's, noted until the session timed out. */
		return oldstate == BPF_TCP_SYN_SENT ? END_REFUSED
						    : END_UNREACHABLE;
	case ETIMEDOUT:
		return END_TIMEOUT;
	case EPIPE:
	case ECONNRESET:
		return END_RESET_BY_PEER;
	default:
		/* What ICMP says: icmp_err_convert[] in net/ipv4/icmp.c. */
		return END_UNREACHABLE;
	}
	switch (oldstate) {
	case BPF_TCP_SYN_SENT:
		return END_GIVEN_UP;
	case BPF_TCP_FIN_WAIT2:
		return cut ? END_RESET_BY_US : END_CLOSED;
	case BPF_TCP_CLOSING:
	case BPF_TCP_LAST_ACK:
		return END_CLOSED;
	default:
		/* tcp_close() with bytes unread, or bytes after it. */
		return END_RESET_BY_US;
	}
}

#endif
