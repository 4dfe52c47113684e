/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The cgroups whose sessions are wanted. */
#ifndef TCPLIFE_CGROUPS_H
#define TCPLIFE_CGROUPS_H

#include "tier.h"

/* By their ids; cgroups.bpf.c adds those that are made within them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, __u8);
} cgroups SEC(".maps");

#endif
