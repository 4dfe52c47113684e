/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What each tool keeps of a session while it lives. */
#ifndef TCPLIFE_KEPT_H
#define TCPLIFE_KEPT_H

#include "owner.h"

#if STATES
struct session {
	__u64 last_ns; /* its last change */
	struct owner owner;
	__u8 certainty;
	__u8 over; /* has ended, but is still in the map */
	__u8 state;
	__u8 unused;
};
#else
/* Whether a session's FINs are noted. */
#define NOTES_FIN (STORY && !SUMMARY)

/* What only its story needs. */
struct session_past {
	__u8 before; /* older than the trace; then `active` is not known */
	__u8 round;  /* of walk.h, in which its owner held it */
	__u8 first;
	__u8 unused[5];
};

struct session {
	__u64 first_ns;		 /* the first state seen */
	__u64 birth_ns;		 /* the last early one */
	__u64 fin_ns[NOTES_FIN]; /* the first FIN */
	struct owner_more more[STORY];
	struct owner owner;
	__u8 certainty;
	__u8 active; /* opened by connect() */
	__u8 established;
	__u8 over; /* has ended, but is still in the map */
	struct session_past past[STORY];
};
#endif

#endif
