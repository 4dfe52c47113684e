/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sessions that are older than the trace. */
#ifndef TCPLIFE_OLDER_H
#define TCPLIFE_OLDER_H

#include "config.h"
#include "session_store.h"

static __always_inline void begin_older(struct session *session, int state)
{
	__builtin_memset(session, 0, sizeof(*session));
	session->first_ns = ctl()->began_ns;
	session->birth_ns = ctl()->began_ns;
	session->established =
		state != BPF_TCP_SYN_SENT && state != BPF_TCP_SYN_RECV;
	session->past->before = 1;
}

/* The walk over all sockets may not have come to it. */
static __always_inline bool may_be_older(void)
{
	return STORY && cfg()->all && !ctl()->noted;
}

APART void keep_older(struct sock *sk, int state)
{
	struct session session;

	begin_older(&session, state);
	keep_session(sk, &session);
}

static __always_inline struct session *older_session(struct sock *sk, int state)
{
	/* Its end may have been seen already: see changes.h. */
	if (!may_be_older() || just_ended(sk))
		return NULL;
	keep_older(sk, state);
	return find_session(sk);
}

#endif
