/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is kept of the values of a quantity (enum quantity). */
#ifndef TCPLIFE_QUANTITY_H
#define TCPLIFE_QUANTITY_H

#include "tier.h"

struct quantity_sum {
	__u64 count; /* if not each session has one */
	__u64 total;
	__u64 most; /* the greatest */
};

/* Where one session, or change of state, is counted; see summary.h. */
struct tally;

static __always_inline void add_to(const struct tally *tally, __u64 *sum,
				   __u64 amount);
static __always_inline void count_quantity(const struct tally *tally,
					   __u16 quantity, __u64 value);
/* What not each session has. */
static __always_inline void count_some(const struct tally *tally,
				       __u16 quantity, __u64 value);

#endif
