/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef TCPLIFE_QUANTITY_H
#define TCPLIFE_QUANTITY_H

#include <linux/bpf.h>

/* What sessions may be grouped by. */
enum by {
	BY_LADDR = 1,
	BY_RADDR = 2,
	BY_COMM = 4,
	BY_CGROUP = 8,
	BY_PID = 16,
	BY_UID = 32,
	BY_NETNS = 64,
	BY_LPORT = 128,
	BY_RPORT = 256,
	BY_PORT = 512,
	BY_DIR = 1024,
	BY_END = 2048,
};

/* Of the values of a quantity. */
struct quantity_sum {
	__u64 count; /* if not each session has one */
	__u64 total;
	__u64 most; /* the greatest */
};

#endif
