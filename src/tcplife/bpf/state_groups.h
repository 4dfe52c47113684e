/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What changes of state are grouped by, and what is added up of them. */
#ifndef TCPLIFE_STATE_GROUPS_H
#define TCPLIFE_STATE_GROUPS_H

#include "quantity.h"
#include "state_event.h"

struct state_group {
	__u8 oldstate;
	__u8 newstate;
	__u8 other; /* none: there is room for all */
	__u8 unused[5];
} __attribute__((aligned(8)));

struct state_totals {
	__u32 id;
	__u32 unused;
	__u64 changes; /* also those out of a state that began unseen */
	struct quantity_sum sums[1]; /* of the time in oldstate */
};

struct state_figures {
	__u64 span_us; /* -1: not known */
	struct transition states;
	__u8 unused[6];
};

/* For summary.h. */
#define EVENT state_event
#define FIGURES state_figures
#define GROUP state_group
#define TOTALS state_totals

static __always_inline void take_figures(struct state_figures *figures,
					 const struct state_event *event)
{
	figures->span_us = event->first ? (__u64)-1 : event->span_us;
	figures->states = event->states;
}

static __always_inline __u64 group_word(const struct state_figures *figures,
					unsigned int number)
{
	return figures->states.oldstate | figures->states.newstate << 8;
}

static __always_inline void count_figures(const struct tally *tally,
					  struct state_totals *totals,
					  const struct state_figures *figures)
{
	add_to(tally, &totals->changes, 1);
	if (figures->span_us != (__u64)-1)
		count_some(tally, 0, figures->span_us);
}
#endif
