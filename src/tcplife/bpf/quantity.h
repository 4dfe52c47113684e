/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef TCPLIFE_QUANTITY_H
#define TCPLIFE_QUANTITY_H

#include <linux/bpf.h>

/* Of the values of a quantity. */
struct quantity_sum {
	__u64 count;
	__u64 total;
	__u64 most; /* the greatest */
};

#endif
