/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What user space sets before the programs are loaded. */
#ifndef TCPLIFE_CONFIG_H
#define TCPLIFE_CONFIG_H

#include "tier.h"

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

/* What is added up of them. */
enum quantity {
	QUANTITY_LIFE,
	QUANTITY_CONNECT,
	QUANTITY_TX,
	QUANTITY_RX,
	QUANTITY_RTT,
};

#define QUANTITIES (QUANTITY_RTT + 1)

/*
 * Set once, before attaching. In tiers 1 and 2 the verifier drops what it
 * switches off.
 */
struct config {
	__u64 min_us; /* lifespan */
	__u64 min_bytes;
	__u64 slower_us;  /* connect */
	__u32 states;	  /* a bit a state: changes into or out of these */
	__u32 ends;	  /* a bit an enum end; 0: any */
	__u32 wake_bytes; /* unread bytes in the ring that wake the reader */
	__u32 by;	  /* a bit an enum by: what groups sessions */
	__u32 quantities; /* a bit an enum quantity: those that are added up */
	__u32 words;	  /* a bit each 8 bytes of a group that are not all 0 */
	__u32 processors; /* there may be */
	__u32 batches;	  /* each processor's, in a set: one a program */
	__u32 subnet_4[4]; /* the part of a remote address that groups: IPv4, */
	__u32 subnet_6[4]; /* IPv6 */
	__u8 family;	   /* 4, 6, or 0 for both */
	__u8 dir;	   /* of enum dir; 0: any */
	__u8 whole_life;   /* min_us counts from the first state */
	__u8 all;	   /* sessions older than the trace as well */
	__u8 filter_pid;
	__u8 filter_lport;
	__u8 filter_rport;
	__u8 filter_laddr;
	__u8 filter_raddr;
	__u8 filter_comm;
	__u8 filter_uid;
	__u8 filter_netns;
	__u8 filter_cgroup;
	__u8 never;
	__u8 hot_bits; /* of the number of slots, each processor's, in a set */
	__u8 unused[1];
};

#if TIER <= 2
const volatile struct config config = {};

static __always_inline const volatile struct config *cfg(void)
{
	return &config;
}
#else
ONE_ELEMENT(config, config_array);

static __always_inline const struct config *cfg(void)
{
	return element_or_exit(&config_array);
}
#endif

#endif
